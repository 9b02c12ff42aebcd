"""The offer to convert an old graph, in ComfyUI's own page: never without a click, undone by Ctrl-Z.

    python run.py test -m slow tests/browser [--comfyui DIR]

Both node renderers, where the page has two. One pass through it is in tests/test_workflows.py, among the fast
tests.
"""

import copy
import json
import re
import time
import uuid

import pytest
from animatediff_flipbook.tests import test_workflows
from animatediff_flipbook.tests.browser.incumbent_graph import OLD_TYPES, WORKFLOW, old_graph

pytestmark = pytest.mark.slow
server, page = test_workflows.server, test_workflows.page
OFFER, REPORT = ".flipbook-offer", ".flipbook-report"
COMMAND = "AnimateDiffFlipbook.ConvertNodes"
SMALL = {
    "ADE_EmptyLatentImageLarge": [64, 64, 16],
    "KSampler": [1, "fixed", 2, 7.5, "euler", "normal", 1],
}


@pytest.fixture(params=[False, True], ids=["canvas", "elements"])
def renderer(request, page):
    """The page with each of its node renderers."""
    page.draw_nodes_as_elements(request.param)
    yield page
    page.draw_nodes_as_elements(False)


def fresh(graph: dict | None = None) -> dict:
    """A graph that the page has not seen, small enough to render in seconds."""
    graph = copy.deepcopy(graph or old_graph())
    graph["id"] = str(uuid.uuid4())
    for node in graph["nodes"]:
        node["widgets_values"] = SMALL.get(node["type"], node.get("widgets_values"))
    return graph


def types(page) -> set[str]:
    return {node["type"] for node in page.ui_form()["nodes"]}


def content(page) -> tuple:
    """What a graph is, without what the page measures and counts."""
    graph = page.ui_form()
    nodes = {n["id"]: (n["type"], n.get("widgets_values"), n["mode"]) for n in graph["nodes"]}
    return nodes, sorted(link[:5] for link in graph["links"])


def is_offered(page) -> bool:
    page.page.wait_for_timeout(1500)
    return page.page.query_selector(OFFER) is not None


def accept(page) -> str:
    """Click Convert, and return what the dialog with the report says after closing it."""
    page.page.click(f"{OFFER} >> text=Convert")
    page.page.wait_for_selector(REPORT)
    words = page.page.inner_text(REPORT)
    page.page.click(f"{REPORT} >> text=Close")
    page.page.wait_for_selector(REPORT, state="detached")
    page.close_dialogs()
    return words


def press(page, keys: str) -> None:
    page.page.keyboard.press(keys)
    page.page.wait_for_timeout(1500)


def test_accept_run_undo_redo(renderer, server):
    renderer.open(fresh())
    renderer.page.wait_for_selector(OFFER)
    old = content(renderer)
    words = accept(renderer)
    assert all(name in words for name in OLD_TYPES)
    assert not types(renderer) & OLD_TYPES and renderer.missing_nodes() == []
    new = content(renderer)

    before = set(server.get("/history"))
    renderer.queue()
    end = time.monotonic() + 120
    while not (runs := [run for key, run in server.get("/history").items() if key not in before]):
        assert time.monotonic() < end, server.log_tail()
        renderer.page.wait_for_timeout(200)
    assert runs[0]["status"]["status_str"] == "success"
    assert any("images" in output for output in runs[0]["outputs"].values())

    press(renderer, "Control+z")
    assert content(renderer) == old
    assert not is_offered(renderer), "it was answered"
    press(renderer, "Control+y")
    assert content(renderer) == new
    assert renderer.errors == []


def test_a_click_on_the_canvas_is_no_step_between(renderer):
    """Nodes that were drawn a moment later must not stand between the conversion and its undo."""
    renderer.open(fresh())
    renderer.page.wait_for_selector(OFFER)
    old = content(renderer)
    accept(renderer)
    renderer.page.mouse.click(1200, 900)
    press(renderer, "Control+z")
    assert content(renderer) == old


def test_decline(renderer):
    graph = fresh()
    renderer.open(graph)
    renderer.page.wait_for_selector(OFFER)
    old = content(renderer)
    renderer.page.click(f"{OFFER} >> text=Not now")
    assert renderer.page.query_selector(OFFER) is None
    assert content(renderer) == old
    renderer.close_dialogs()
    renderer.open(graph)
    assert not is_offered(renderer), "asked twice for one graph"
    renderer.close_dialogs()
    # The command is there all the same.
    renderer.page.evaluate(f"() => window.app.extensionManager.command.execute('{COMMAND}')")
    renderer.page.wait_for_selector(REPORT)
    renderer.page.keyboard.press("Escape")
    renderer.page.wait_for_selector(REPORT, state="detached")
    assert not types(renderer) & OLD_TYPES


def test_packs_that_may_stay_are_offered_in_the_report(renderer):
    graph = fresh()
    prompt = next(node for node in graph["nodes"] if node["type"] == "CLIPTextEncode")
    outputs = [{"name": name, "type": "CONDITIONING", "links": None} for name in ("POS", "NEG")]
    outputs[0]["links"] = prompt["outputs"][0]["links"]
    inputs = [slot for slot in prompt["inputs"] if slot["type"] == "CLIP"]
    text = ['"0": "a red square"', 16, "", "", 0, 0, 0, 0]
    prompt |= {"type": "BatchPromptSchedule", "inputs": inputs, "outputs": outputs, "widgets_values": text}
    renderer.page.evaluate(  # a pack that is there
        """() => {
            const {LiteGraph} = window
            class Schedule extends LiteGraph.LGraphNode {}
            LiteGraph.registerNodeType('BatchPromptSchedule', Schedule)
        }"""
    )
    try:
        renderer.open(graph)
        renderer.page.wait_for_selector(OFFER)
        renderer.page.click(f"{OFFER} >> text=Convert")
        renderer.page.wait_for_selector(REPORT)
        assert "BatchPromptSchedule" in types(renderer)
        renderer.page.click(f"{REPORT} >> text=Convert FizzNodes too (1)")
        renderer.page.wait_for_function(
            "() => window.app.graph._nodes.some(node => node.type === 'FlipbookPromptSchedule')"
        )
        renderer.page.wait_for_selector(REPORT)
        assert "BatchPromptSchedule" not in types(renderer)
        assert "Convert FizzNodes" not in renderer.page.inner_text(REPORT)
        renderer.page.click(f"{REPORT} >> text=Close")
        press(renderer, "Control+z")
        assert "BatchPromptSchedule" in types(renderer)
    finally:
        renderer.page.evaluate("() => window.LiteGraph.unregisterNodeType('BatchPromptSchedule')")
        renderer.close_dialogs()


def test_graphs_without_such_nodes_see_nothing(page):
    asked = []
    page.page.on("request", lambda request: asked.append(request.url))
    ours = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    page.open(fresh(ours))
    assert not is_offered(page)
    assert not [url for url in asked if "animatediff_flipbook" in url], "and the server is not asked"
    unknown = fresh(ours)
    unknown["nodes"][-1]["type"] = "NobodyKnowsThisNode"
    page.open(unknown)
    assert not is_offered(page)
    page.close_dialogs()
    page.page.evaluate(f"() => window.app.extensionManager.command.execute('{COMMAND}')")
    page.page.wait_for_selector(REPORT)
    assert "Nothing to convert" in page.page.inner_text(REPORT)
    page.page.keyboard.press("Escape")


def test_the_offer_goes_with_its_graph(page):
    page.open(fresh())
    page.page.wait_for_selector(OFFER)
    page.close_dialogs()
    page.open(fresh(json.loads(WORKFLOW.read_text(encoding="utf-8"))))
    assert not is_offered(page)


def test_words_of_a_file_are_shown_as_text(page):
    graph = fresh()
    (loader,) = [node for node in graph["nodes"] if node["type"] == "ADE_AnimateDiffLoaderWithContext"]
    loader["widgets_values"][0] = "<img src=x onerror='window.broken=1'>.ckpt"
    loader["widgets_values"][1] = "<img src=x onerror='window.broken=1'>"
    page.open(graph)
    page.page.wait_for_selector(OFFER)
    accept(page)
    assert page.page.evaluate("() => window.broken") is None
    assert page.page.query_selector(f"{REPORT} img") is None


def test_nodes_in_a_subgraph_are_seen(page):
    graph = fresh(json.loads(WORKFLOW.read_text(encoding="utf-8")))
    inner = {"id": 1, "type": "ADE_EmptyLatentImageLarge", "pos": [0, 0], "size": [200, 100], "flags": {}}
    inner |= {"order": 0, "mode": 0, "inputs": [], "outputs": [], "widgets_values": [64, 64, 16]}
    edge, inside = {"bounding": [0, 0, 100, 60]}, str(uuid.uuid4())
    outer = {"id": 99, "type": inside, "pos": [0, 900], "size": [200, 60], "flags": {}, "order": 0}
    graph["nodes"].append({**outer, "mode": 0, "inputs": [], "outputs": [], "properties": {}})
    graph["definitions"] = {
        "subgraphs": [
            {
                "id": inside,
                "version": 1,
                "name": "Latent",
                "revision": 0,
                "state": {"lastGroupId": 0, "lastNodeId": 1, "lastLinkId": 0, "lastRerouteId": 0},
                "inputNode": {"id": -10, **edge},
                "outputNode": {"id": -20, **edge},
                "inputs": [],
                "outputs": [],
                "widgets": [],
                "nodes": [inner],
                "groups": [],
                "links": [],
            }
        ]
    }
    page.open(graph)
    assert inner["type"] in page.page.wait_for_selector(OFFER).inner_text()


def test_a_server_that_refuses_is_quoted(page):
    page.open(fresh())
    page.page.wait_for_selector(OFFER)
    old = content(page)
    sentence = "A sentence <b>of the server</b>."
    refusal = json.dumps({"error": sentence})
    convert = re.compile(r"/animatediff_flipbook/convert(\?|$)")
    page.page.route(convert, lambda route: route.fulfill(status=400, body=refusal))
    try:
        assert sentence in accept(page)
    finally:
        page.page.unroute(convert)
    assert content(page) == old
