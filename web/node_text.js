/** What our nodes say about a run stays on them when it has ended. Newer pages take every node's text away
 * then, while ours is to be read afterwards: which module was found, what was ignored and why.
 */
import { api } from "../../scripts/api.js";
import { nodeOf } from "./running_node.js";

/** Name that pages give the widget of a text. */
const WIDGET = "$$node-text-preview";
/** Node -> its last text. */
const texts = new WeakMap();
/** Ids of nodes that have said something; nodes themselves may be gone. */
const spoken = new Set();

api.addEventListener("progress_text", ({ detail }) => {
    const node = nodeOf(detail.nodeId);
    if (!node?.type?.startsWith("Flipbook")) return;
    texts.set(node, detail.text);
    spoken.add(String(detail.nodeId));
});

/** Say it again where the page has wiped it. */
function restore() {
    for (const nodeId of spoken) {
        const node = nodeOf(nodeId);
        const text = node && texts.get(node);
        if (text && !node.widgets?.some((widget) => widget.name === WIDGET)) {
            api.dispatchEvent(new CustomEvent("progress_text", { detail: { nodeId, text } }));
        }
    }
}

for (const end of ["execution_success", "execution_error", "execution_interrupted"]) {
    api.addEventListener(end, () => setTimeout(restore, 0)); // after the page's own listeners
}
