"""ComfyUI's own page in another language: our nodes, settings, menu and dialogs speak it.

    python run.py test -m slow tests/browser/test_words.py [--comfyui DIR]

Pages before 1.33.13 drop the words of all packs when they load a language; dialogs of ours bring their own.
"""

import json
import re
from importlib.metadata import version

import pytest
from animatediff_flipbook.tests import test_workflows
from animatediff_flipbook.tests.browser.incumbent_graph import OLD_TYPES, WORKFLOW
from animatediff_flipbook.tests.browser.test_conversion_offer import COMMAND, OFFER, REPORT, fresh
from animatediff_flipbook.words import catalogue

pytestmark = pytest.mark.slow
server, page = test_workflows.server, test_workflows.page
NODE = "FlipbookApplyMotionModule"
SETTING = "AnimateDiff Flipbook.Preview.Style"
PAGE = tuple(int(part) for part in version("comfyui-frontend-package").split(".")[:3])
keeps_words = pytest.mark.skipif(PAGE < (1, 33, 13), reason="this page drops the words of node packs")
_PARTS = """type => {
    const {title, inputs, outputs, widgets} = window.app.graph._nodes.find(one => one.type === type);
    const names = parts => Object.fromEntries(parts.map(one => [one.name, one.label ?? one.localized_name]));
    const {category, description} = window.LiteGraph.registered_node_types[type].nodeData;
    const all = {...names(inputs), ...names(widgets)};
    return {title, category, description, inputs: all, outputs: names(outputs)};
}"""


@pytest.fixture(params=["zh", "ja"])
def language(request, page):
    """The page in a language that somebody has chosen in its settings."""
    page.set_language(request.param)
    yield request.param
    page.close_dialogs()
    page.set_language("en")


def words(language, file="nodeDefs"):
    return json.loads((catalogue.LOCALES / language / f"{file}.json").read_text("utf-8"))


def untitled():
    """One of our graphs, whose nodes have the titles that the page gives them."""
    graph = fresh(json.loads(WORKFLOW.read_text("utf-8")))
    for node in graph["nodes"]:
        node.pop("title", None)
    return graph


@keeps_words
def test_nodes(page, language):
    english, theirs = words("en")[NODE], words(language)[NODE]
    page.draw_nodes_as_elements(True)
    page.open(untitled())
    page.drawn_nodes()
    shown = page.page.evaluate(_PARTS, NODE)
    assert shown["title"] == theirs["display_name"]
    assert shown["description"] == theirs["description"]
    assert shown["inputs"] == {key: part["name"] for key, part in theirs["inputs"].items()}
    names = [part["name"] for part in english["outputs"].values()]
    assert [shown["outputs"][name] for name in names] == [p["name"] for p in theirs["outputs"].values()]
    seen = page.page.inner_text("body")
    assert theirs["display_name"] in seen and english["display_name"] not in seen
    assert theirs["inputs"]["scale"]["name"] in seen
    page.draw_nodes_as_elements(False)
    assert page.errors == []


@keeps_words
def test_settings_and_menu(page, language):
    setting = words(language, "settings")[catalogue.normal(SETTING)]
    page.page.evaluate("() => void window.app.extensionManager.command.execute('Comfy.ShowSettingsDialog')")
    page.page.get_by_text("AnimateDiff Flipbook").last.click()
    page.page.get_by_text(setting["name"]).first.wait_for()
    assert words(language, "main")["settingsCategories"]["Preview"] in page.page.inner_text("body")
    assert page.errors == []


def test_dialogs(page, language):
    said = words(language, "main")["animateDiffFlipbook"]
    graph = fresh()
    page.open(graph)
    page.page.wait_for_selector(OFFER)
    offer = page.page.inner_text(OFFER)
    start, end = said["offer"].split("{names}")
    assert offer.startswith(start) and end in offer and said["convert"] in offer and said["notNow"] in offer
    assert any(name in offer for name in OLD_TYPES)
    page.page.click(f"{OFFER} >> text={said['notNow']}")
    page.close_dialogs()
    page.open(untitled())
    page.page.evaluate(f"() => void window.app.extensionManager.command.execute('{COMMAND}')")
    page.page.wait_for_selector(REPORT)
    report = page.page.inner_text(REPORT)
    assert [*filter(None, re.split(r"\n+", report))] == [
        said[key] for key in ("title", "nothing", "copy", "close")
    ]
    page.page.keyboard.press("Escape")
    assert page.errors == []
