"""The page's part of the moving preview, by what the server tells it: in Node.js, with a page that only
listens (tests/browser looks at it)."""

import json
import shutil
import subprocess

import pytest

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="no Node.js")

PAGE = """
class Api extends EventTarget {
    fetchApi(route, { body }) { log.push(["said", JSON.parse(body)]); return Promise.resolve(); }
}
export const log = [];
export const api = new Api();
"""
APP = """
export const extensions = [];
export const app = { registerExtension(one) { extensions.push(one); } };
"""
SCENE = """
import { api, log } from "./scripts/api.js";
import { extensions } from "./scripts/app.js";
globalThis.window = { matchMedia: () => ({ matches: false }) };
await import("./extensions/flipbook/preview.js");
const tell = (name, detail) => api.dispatchEvent(new CustomEvent(name, { detail }));
const setUp = () => extensions.forEach((one) => one.setup?.());
const pause = (time) => new Promise((done) => setTimeout(done, time));
api.addEventListener("b_preview_with_metadata", ({ detail }) => log.push(["shown", detail.nodeId]));
"""


@pytest.fixture
def played(tmp_path, root):
    """``played(script)``: what the page has said and shown."""
    shutil.copytree(root / "web", tmp_path / "extensions" / "flipbook", ignore=shutil.ignore_patterns("docs"))
    (tmp_path / "scripts").mkdir()
    for name, text in (("scripts/api.js", PAGE), ("scripts/app.js", APP)):
        (tmp_path / name).write_text(text)
    (tmp_path / "package.json").write_text('{"type": "module"}')

    def play(script: str) -> list:
        end = "\nconsole.log(JSON.stringify(log)); process.exit(0);"
        (tmp_path / "scene.js").write_text(SCENE + script + end)
        done = subprocess.run(["node", str(tmp_path / "scene.js")], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return play


def test_a_page_that_learns_its_id_after_its_set_up_says_what_it_shows(played):
    """After a reload in the middle of a run, which else would not be shown moving until the next one."""
    said = played("""
        setUp();
        tell("status", null);
        api.clientId = "page";
        tell("status", null);
        tell("status", null);
    """)
    assert said == [["said", {"client_id": "page", "on": True}]]


def test_of_nodes_that_are_shown_as_one_the_running_one_plays_on(played):
    """Loops of other packs run copies of a node, and each is shown on the node that is drawn."""
    log = played("""
        api.clientId = "page";
        setUp();
        const node = (id, state) => ({ node_id: id, display_node_id: "3", state });
        const nodes = { "9.3": node("9.3", "finished"), "12.3": node("12.3", "running") };
        tell("animatediff_flipbook.preview", {
            node_id: "12.3", display_node_id: "3", frames: 1, columns: 1, image: "",
        });
        await pause(200);
        tell("progress_state", { nodes });
        log.length = 0;
        await pause(600);
        log.push("the node ends");
        nodes["12.3"].state = "finished";
        tell("progress_state", { nodes });
        await pause(400);
    """)
    playing = log[: log.index("the node ends")]
    assert len(playing) > 1 and all(entry == ["shown", "12.3"] for entry in playing)
    assert log[-1] == "the node ends"
