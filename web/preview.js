/** Moving preview: plays the frames of a clip on the node that samples it, while it does.
 *
 * The server sends a contact sheet now and then (nodes/preview.py). Its frames are handed to the page one after
 * the other, as if each were a preview of the server's own: the page then shows them wherever it shows previews,
 * in nodes drawn on the canvas, in nodes that are elements and on the subgraphs around them.
 */
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { settingWords } from "./words.js";

const EVENT = "animatediff_flipbook.preview";
const ROUTE = "/animatediff_flipbook/preview";
const PREVIEW = "b_preview_with_metadata"; // the page's own event
const STYLE = "AnimateDiff Flipbook.Preview.Style";
const FPS = "AnimateDiff Flipbook.Preview.Fps";
const LONGEST_SIDE = 512; // as of ComfyUI's own previews

/** The id under which this page has said what it shows. */
let announced;

/** Playing clips by the id of the node they are shown on. */
const players = new Map();

class Player {
    constructor(node) {
        this.node = node;
        this.frames = [];
        this.next = 0;
        this.current = null;
        this.showing = false;
        this.timer = null;
        this.waiting = null;
        this.cutting = false;
        this.ended = false;
    }

    /** Take the frames of a newer sheet; what plays goes on at the same place. A busy page is slow at cutting:
     * sheets that came meanwhile are left out but for the newest. */
    async load(message) {
        this.waiting = message;
        if (this.cutting) return;
        this.cutting = true;
        try {
            while (this.waiting && !this.ended) {
                const { image, frames, columns } = this.waiting;
                this.waiting = null;
                const sheet = await blobOf(`data:image/jpeg;base64,${image}`);
                const cells = style() === "contact sheet" ? [sheet] : await cut(sheet, frames, columns);
                if (this.ended) return;
                this.frames = cells;
                if (this.timer === null) this.tick();
            }
        } finally {
            this.cutting = false;
        }
    }

    tick() {
        this.current = this.frames[this.next % this.frames.length];
        this.next = (this.next + 1) % this.frames.length;
        this.show();
        this.timer = setTimeout(() => this.tick(), 1000 / fps());
    }

    show() {
        const before = shown(this.node.displayNodeId);
        this.showing = true;
        api.dispatchEvent(new CustomEvent(PREVIEW, { detail: { ...this.node, blob: this.current } }));
        this.showing = false;
        app.graph?.setDirtyCanvas?.(true, false);
        // Older pages keep every address they made; by then the picture has been replaced.
        setTimeout(() => before.forEach((url) => URL.revokeObjectURL(url)), 2000);
    }

    end() {
        this.ended = true;
        clearTimeout(this.timer);
        this.frames = [];
        this.current = null;
    }
}

/** The frames of a contact sheet as pictures of their own, in the size of ComfyUI's previews. */
async function cut(sheet, count, columns) {
    const picture = await createImageBitmap(sheet);
    const [width, height] = [picture.width / columns, picture.height / Math.ceil(count / columns)];
    const scale = LONGEST_SIDE / Math.max(width, height);
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
    const context = canvas.getContext("2d");
    const frames = [];
    for (let number = 0; number < count; number++) {
        const [left, top] = [(number % columns) * width, Math.floor(number / columns) * height];
        context.drawImage(picture, left, top, width, height, 0, 0, canvas.width, canvas.height);
        // Not toBlob: browsers do that when they are idle, which a page that draws all the time hardly is.
        frames.push(await blobOf(canvas.toDataURL("image/jpeg", 0.9)));
    }
    picture.close();
    return frames;
}

async function blobOf(address) {
    return (await fetch(address)).blob();
}

/** Addresses of the previews that a node of the root graph shows. */
function shown(id) {
    return [...(app.nodePreviewImages?.[id] ?? [])];
}

function setting(id, otherwise) {
    return app.extensionManager?.setting?.get(id) ?? app.ui?.settings?.getSettingValue?.(id) ?? otherwise;
}

function fps() {
    return Math.min(30, Math.max(1, Number(setting(FPS, 8)) || 8));
}

/** "moving", "contact sheet" or "off". Who asked their system for less motion gets the sheet, and so does a
 * page that cannot cut one. */
function style() {
    const chosen = setting(STYLE, "moving");
    const still = window.matchMedia?.("(prefers-reduced-motion: reduce)").matches || !window.createImageBitmap;
    return chosen === "moving" && still ? "contact sheet" : chosen;
}

/** Tell the server whether to make sheets for this page; it forgets when the connection ends. */
function announce() {
    if (!api.clientId) return;
    announced = api.clientId;
    const body = JSON.stringify({ client_id: api.clientId, on: style() !== "off" });
    const headers = { "Content-Type": "application/json" };
    api.fetchApi(ROUTE, { method: "POST", headers, body }).catch(() => {}); // no server, no preview
}

function end(id) {
    players.get(id)?.end();
    players.delete(id);
}

function endAll() {
    [...players.keys()].forEach(end);
}

app.registerExtension({
    name: "AnimateDiff Flipbook.Preview",
    settings: [
        {
            id: FPS,
            category: ["AnimateDiff Flipbook", "Preview", "Fps"],
            ...settingWords(FPS),
            type: "slider",
            attrs: { min: 1, max: 30, step: 1 },
            defaultValue: 8,
        },
        {
            id: STYLE,
            category: ["AnimateDiff Flipbook", "Preview", "Style"],
            ...settingWords(STYLE),
            type: "combo",
            options: ["moving", "contact sheet", "off"],
            defaultValue: "moving",
            onChange: () => announce(),
        },
    ],
    setup() {
        api.addEventListener(EVENT, ({ detail }) => {
            if (style() === "off") return;
            const id = detail.display_node_id;
            if (!players.has(id)) {
                const node = {
                    nodeId: detail.node_id,
                    displayNodeId: id,
                    parentNodeId: detail.parent_node_id,
                    realNodeId: detail.real_node_id,
                    promptId: detail.prompt_id,
                    jobId: detail.prompt_id,
                };
                players.set(id, new Player(node));
            }
            players.get(id).load(detail).catch((error) => console.error("AnimateDiff Flipbook:", error));
        });
        // The server's own preview of the node has just been shown: put the clip over it before it is drawn.
        api.addEventListener(PREVIEW, ({ detail }) => {
            const player = players.get(detail.displayNodeId);
            if (player?.current && !player.showing) player.show();
        });
        api.addEventListener("progress_state", ({ detail }) => {
            const nodes = Object.values(detail.nodes);
            const running = (node) => node.state === "running";
            // Several may be shown on one: copies in a loop, of which the earlier ones have ended.
            const playing = new Set(nodes.filter(running).map((node) => node.display_node_id));
            for (const { display_node_id: id } of nodes) {
                if (!playing.has(id)) end(id);
            }
        });
        for (const over of ["execution_success", "execution_error", "execution_interrupted"]) {
            api.addEventListener(over, endAll);
        }
        api.addEventListener("execution_start", () => {
            endAll();
            announce();
        });
        api.addEventListener("reconnected", announce);
        // A page that was reloaded may hear its id only after this.
        api.addEventListener("status", () => {
            if (api.clientId !== announced) announce();
        });
        announce();
    },
});
