/**
 * Graphs of other AnimateDiff packs: an offer to convert their nodes when this server does not have them.
 *
 * Nothing happens without a click, and the change is one step of the page's own undo. The server has the rules.
 */

import { api } from '../../scripts/api.js'
import { app } from '../../scripts/app.js'
import { hideOffer, showOffer, showReport } from './convert_view.js'
import { commandLabel, fetchWords, say } from './words.js'

const COMMAND = 'AnimateDiffFlipbook.ConvertNodes'
const SETTLING = 300 // milliseconds

/** Ids of graphs whose offer was answered, for as long as this tab of the browser lives. */
const answered = {
    key: (id) => `AnimateDiffFlipbook.answered.${id}`,
    has: (id) => sessionStorage.getItem(answered.key(id)) !== null,
    add: (id) => sessionStorage.setItem(answered.key(id), ''),
}

const rootGraph = () => app.rootGraph ?? app.graph
const activeWorkflow = () => app.extensionManager.workflow.activeWorkflow

/** POST JSON to one of the pack's routes; throws an Error with the server's sentence. */
async function post(route, body) {
    const response = await api.fetchApi(`/animatediff_flipbook/${route}`, {
        method: 'POST',
        headers: { 'Content-Type': 'application/json' },
        body: JSON.stringify(body),
    })
    const answer = await response.json().catch(() => ({}))
    if (!response.ok) throw new Error(answer.error ?? say('noAnswer', { status: response.status }))
    return answer
}

/** Types of nodes that nobody has registered, of a whole workflow: subgraphs and group nodes too. */
function missingTypes(workflow) {
    const lists = [
        workflow,
        ...(workflow.definitions?.subgraphs ?? []),
        ...Object.values(workflow.extra?.groupNodes ?? {}),
    ]
    const types = new Set(lists.flatMap((graph) => (graph?.nodes ?? []).map((node) => node?.type)))
    return [...types].filter((type) => typeof type === 'string' && !(type in LiteGraph.registered_node_types))
}

/** Offer to convert the graph that has just been opened, if it needs that and has not been asked before. */
async function offerConversion() {
    hideOffer()
    const graph = rootGraph()
    const { id } = graph
    if (answered.has(id)) return
    const missing = missingTypes(graph.serialize())
    if (!missing.length) return
    const { types, also } = await post('convertible', { types: missing })
    // Another graph may have been opened while the server thought.
    if (!types.length || rootGraph().id !== id || answered.has(id)) return
    showOffer(types, { onAccept: () => convertGraph(also), onDecline: () => answered.add(id) })
}

/**
 * Send the open graph to the server, put its answer in the graph's place and show the report.
 *
 * also: names of packs that work with ours as they are, and whose nodes are to be converted all the same.
 */
async function convertGraph(also = []) {
    hideOffer()
    const workflow = activeWorkflow()
    const graph = rootGraph()
    answered.add(graph.id)
    try {
        const query = also.map((name) => `also=${encodeURIComponent(name)}`).join('&')
        const answer = await post(`convert?${query}`, graph.serialize())
        const { graph: converted, report, text } = answer
        const more = answer.offers.map(({ name, pack, count }) => ({
            text: say('also', { pack, count }),
            onclick: () => convertGraph([...also, name]),
        }))
        if (!report.count) {
            return showReport(say('title'), say('nothing'), report, text, more)
        }
        if (activeWorkflow() !== workflow) {
            return showReport(say('title'), say('otherGraph'))
        }
        await replaceGraph(workflow, converted)
        showReport(say('converted'), say('convertedCount', { count: report.count }), report, text, more)
    } catch (error) {
        showReport(say('title'), error.message)
    }
}

/** Load a graph into the tab of another one, so that undo brings the other back. */
async function replaceGraph(workflow, document) {
    const tracker = workflow.changeTracker
    const capture = () => (tracker.captureCanvasState ? tracker.captureCanvasState() : tracker.checkState())
    capture()
    const { initialState, activeState } = tracker
    // As the page's own undo loads a graph: into the same tab, with the view where it was.
    await app.loadGraphData(document, false, false, workflow, {
        showMissingNodesDialog: false,
        showMissingModelsDialog: false,
    })
    // Loading counts as opening: it makes the new graph the one without changes. It is a change of the old one.
    tracker.initialState = initialState
    tracker.activeState = activeState
    capture()
    // Nodes that are elements of the page get their sizes a moment later, which is no step of its own.
    await new Promise((resolve) => setTimeout(resolve, SETTLING))
    if (activeWorkflow() === workflow && tracker.undoQueue.at(-1) === activeState) {
        tracker.activeState = JSON.parse(JSON.stringify(rootGraph().serialize()))
    }
}

app.registerExtension({
    name: 'AnimateDiffFlipbook.Convert',
    commands: [{ id: COMMAND, label: commandLabel(COMMAND), icon: 'pi pi-sync', function: () => convertGraph() }],
    menuCommands: [{ path: ['Edit'], commands: [COMMAND] }],
    setup() {
        fetchWords().catch((error) => console.warn('AnimateDiff Flipbook:', error))
    },
    afterConfigureGraph() {
        // Not awaited: opening a graph waits for nobody's rules.
        offerConversion().catch((error) => console.warn('AnimateDiff Flipbook:', error))
    },
})
