/**
 * What our scripts say, in English and in the layout of ComfyUI's locale files (locales/, written from here by
 * words/write_locales.py), and in the language that the page has.
 *
 * The page itself translates settings and commands. It hands its own words to nobody, so those of dialogs are
 * looked up here.
 */

import { api } from '../../scripts/api.js'
import { app } from '../../scripts/app.js'

export const ENGLISH = {
    "main": {
        "menuLabels": {
            "Convert AnimateDiff nodes": "Convert AnimateDiff nodes"
        },
        "settingsCategories": {
            "AnimateDiff Flipbook": "AnimateDiff Flipbook",
            "Preview": "Preview"
        },
        "animateDiffFlipbook": {
            "title": "Convert AnimateDiff nodes",
            "offer": "This graph holds nodes of another AnimateDiff pack that this ComfyUI does not have: {names}. AnimateDiff Flipbook can turn them into its own. You see what changes, and Ctrl-Z takes it back.",
            "more": "{count} more",
            "notNow": "Not now",
            "later": "Later: Edit > Convert AnimateDiff nodes",
            "convert": "Convert",
            "converted": "Converted",
            "convertedCount": "Nodes of other packs that were converted: {count}. Ctrl-Z brings them back.",
            "nothing": "Nothing to convert: this graph holds no nodes of another AnimateDiff pack.",
            "otherGraph": "Another graph was opened in the meantime, so nothing was changed.",
            "noAnswer": "The server answered {status}.",
            "lost": "Lost ({count})",
            "changed": "Changed ({count})",
            "left": "Left to another pack ({count})",
            "mapped": "Mapped one to one ({count})",
            "also": "Convert {pack} too ({count})",
            "copy": "Copy",
            "close": "Close"
        }
    },
    "commands": {
        "AnimateDiffFlipbook_ConvertNodes": {
            "label": "Convert AnimateDiff nodes"
        }
    },
    "settings": {
        "AnimateDiff Flipbook_Preview_Fps": {
            "name": "Frames per second of the moving preview"
        },
        "AnimateDiff Flipbook_Preview_Style": {
            "name": "Preview of clips while they are sampled",
            "tooltip": "Needs ComfyUI's live previews. A contact sheet shows up to 16 frames side by side.",
            "options": {
                "moving": "moving",
                "contact sheet": "contact sheet",
                "off": "off"
            }
        }
    }
}

/** What the server has in other languages, by language; nothing until it has answered. */
let translations = {}

/** Fetch the words of dialogs. Until they are here, and without them, English is spoken. */
export async function fetchWords() {
    const all = await (await api.fetchApi('/i18n')).json()
    translations = Object.fromEntries(
        Object.entries(all).map(([language, words]) => [language, words.animateDiffFlipbook ?? {}]),
    )
}

/** A dialog's words in the page's language, with values in the places of their {names}. */
export function say(key, values = {}) {
    const language = app.extensionManager?.setting?.get('Comfy.Locale')
    const text = translations[language]?.[key] ?? ENGLISH.main.animateDiffFlipbook[key]
    return text.replace(/\{(\w+)\}/g, (place, name) => values[name] ?? place)
}

/** Name and tooltip of a setting, which the page translates. */
export function settingWords(id) {
    const { name, tooltip } = ENGLISH.settings[normal(id)]
    return { name, tooltip }
}

/** Label of a command, which the page translates. */
export function commandLabel(id) {
    return ENGLISH.commands[normal(id)].label
}

/** An id as a key of the page's tables, which cuts keys at dots. */
function normal(id) {
    return id.replaceAll('.', '_')
}
