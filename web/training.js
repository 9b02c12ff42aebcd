/** A node that trains shows its curve as a preview while it runs, and as its own picture afterwards. Nodes that
 * are elements of the page would then show both, one below the other, for the page keeps previews until the
 * next run.
 */
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { nodeOf } from "./running_node.js";

api.addEventListener("executed", ({ detail }) => {
    const id = String(detail.display_node ?? detail.node);
    if (!detail.output?.images?.length || !nodeOf(id)?.type?.startsWith("FlipbookTrain")) return;
    // Pages have no public way to take a preview away. Where this one is not there, two pictures are shown.
    const store = app.extensionManager?._p?._s?.get("nodeOutput");
    const parts = id.split(":");
    parts.forEach((_, depth) => store?.revokePreviewsByExecutionId?.(parts.slice(0, depth + 1).join(":")));
});
