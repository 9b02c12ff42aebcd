/**
 * What the converter shows: a quiet offer at the edge of the page, and a dialog with a report.
 *
 * The platform's own elements, because dialogs and toasts of ComfyUI's page differ from version to version and
 * its toasts have no buttons. Words of a file are only ever set as text.
 */

import { say } from './words.js'

const STYLE = `
.flipbook-offer, .flipbook-report {
    font: 14px/1.45 sans-serif;
    color: var(--fg-color, #ddd);
    background: var(--comfy-menu-bg, #262626);
    border: 1px solid var(--border-color, #4e4e4e);
    border-radius: 8px;
    box-shadow: 0 4px 24px rgb(0 0 0 / 50%);
}
.flipbook-offer {
    position: fixed;
    z-index: 10000;
    bottom: 72px;
    left: 50%;
    transform: translateX(-50%);
    box-sizing: border-box;
    width: min(560px, calc(100vw - 32px));
    padding: 14px 16px;
}
.flipbook-offer p, .flipbook-report p { margin: 0 0 10px; overflow-wrap: anywhere; }
.flipbook-buttons { display: flex; flex-wrap: wrap; gap: 8px; justify-content: flex-end; }
.flipbook-buttons button {
    font: inherit;
    color: inherit;
    background: var(--comfy-input-bg, #3a3a3a);
    border: 1px solid var(--border-color, #4e4e4e);
    border-radius: 6px;
    padding: 5px 14px;
    cursor: pointer;
}
.flipbook-buttons button.flipbook-first { color: #fff; background: #2f6f4f; border-color: #2f6f4f; }
.flipbook-report { width: min(760px, calc(100vw - 48px)); max-height: 80vh; padding: 18px 20px; margin: auto; }
.flipbook-report[open] { display: flex; flex-direction: column; }
.flipbook-report::backdrop { background: rgb(0 0 0 / 45%); }
.flipbook-report h2 { font-size: 18px; margin: 0 0 10px; }
.flipbook-report h3 { font-size: 14px; margin: 12px 0 4px; }
.flipbook-report ul { margin: 0; padding-left: 20px; }
.flipbook-report li { margin: 3px 0; overflow-wrap: anywhere; }
.flipbook-report li b { font-weight: 600; }
.flipbook-lines { overflow-y: auto; margin-bottom: 14px; }
`
const KINDS = ['lost', 'changed', 'left', 'mapped']

let offer = null

function element(tag, { text, ...properties } = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties)
    if (text !== undefined) made.textContent = text
    made.append(...children)
    return made
}

function addStyle() {
    if (document.getElementById('flipbook-style')) return
    document.head.append(element('style', { id: 'flipbook-style', text: STYLE }))
}

/** Ask whether to convert nodes of these types; one offer at a time. */
export function showOffer(types, { onAccept, onDecline }) {
    addStyle()
    hideOffer()
    const answer = (then) => () => {
        hideOffer()
        then()
    }
    const names = types.length > 4 ? [...types.slice(0, 3), say('more', { count: types.length - 3 })] : types
    offer = element(
        'div',
        { className: 'flipbook-offer', role: 'status' },
        element('p', { text: say('offer', { names: names.join(', ') }) }),
        element(
            'div',
            { className: 'flipbook-buttons' },
            element('button', { text: say('notNow'), title: say('later'), onclick: answer(onDecline) }),
            element('button', { text: say('convert'), className: 'flipbook-first', onclick: answer(onAccept) }),
        ),
    )
    document.body.append(offer)
}

/** Take the offer off the page, if there is one. */
export function hideOffer() {
    offer?.remove()
    offer = null
}

/** Show a sentence, the lines of a report below it by kind, and buttons for more that can be done. */
export function showReport(title, sentence, report = { items: [] }, text = sentence, more = []) {
    addStyle()
    const lines = element('div', { className: 'flipbook-lines' })
    for (const kind of KINDS) {
        const items = report.items.filter((item) => item.kind === kind)
        if (!items.length) continue
        const list = items.map((item) =>
            element('li', {}, element('b', { text: `#${item.node_id} ${item.node_type}` }), `: ${item.text}`),
        )
        lines.append(element('h3', { text: say(kind, { count: items.length }) }), element('ul', {}, ...list))
    }
    const dialog = element(
        'dialog',
        { className: 'flipbook-report' },
        element('h2', { text: title }),
        element('p', { text: sentence }),
        lines,
        element(
            'div',
            { className: 'flipbook-buttons' },
            ...more.map((one) => element('button', { text: one.text, onclick: () => (dialog.close(), one.onclick()) })),
            element('button', { text: say('copy'), onclick: () => navigator.clipboard?.writeText(text) }),
            element('button', { text: say('close'), className: 'flipbook-first', onclick: () => dialog.close() }),
        ),
    )
    dialog.onclose = () => dialog.remove()
    // Keys belong to the dialog while it is open: Delete would take selected nodes out of the graph behind it.
    dialog.onkeydown = (event) => event.stopPropagation()
    document.body.append(dialog)
    dialog.showModal()
    dialog.querySelector('.flipbook-first').focus()
}
