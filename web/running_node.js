/** The node that a message of the server is about. */

import { app } from "../../scripts/app.js";

/** Node with an id of the running graph, or null: "3:7" is node 7 in the subgraph of node 3. */
export function nodeOf(id) {
    let graph = app.rootGraph ?? app.graph;
    let node = null;
    for (const part of String(id).split(":")) {
        node = graph?.getNodeById(Number(part)) ?? null;
        graph = node?.subgraph;
    }
    return node;
}
