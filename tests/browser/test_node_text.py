"""What nodes write on themselves, on the real page: text, whatever the words are."""

import json

import pytest
from animatediff_flipbook.nodes.compat import as_plain_text
from animatediff_flipbook.tests.browser.frontend import Frontend, browser_path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser_path() is None, reason="no Chromium"),
]
NODE = "FlipbookLoadMotionModule"
WORDS = """marked.safetensors: a file's words
  html: <img src=/flipbook-was-here.png onerror='window.hit = 1'><b>bold</b>
  markdown: ![x](/flipbook-was-here.png) `code`"""
SHOW = """async ([type, text]) => {
    const { api } = await import('/scripts/api.js');
    const node = window.app.graph._nodes.find(node => node.type === type);
    const detail = { nodeId: String(node.id), text };
    api.dispatchEvent(new CustomEvent('progress_text', { detail }));
}"""
DRAWN = """() => [...document.querySelectorAll('span, p')].map(element => element.innerText)
    .filter(text => text.startsWith('marked.safetensors')).at(-1)"""


WIPE = """async () => {
    const { api } = await import('/scripts/api.js');
    for (const node of window.app.graph._nodes) {
        node.widgets = node.widgets?.filter(widget => widget.name !== '$$node-text-preview');
    }
    api.dispatchEvent(new CustomEvent('execution_success', { detail: {} }));
}"""


@pytest.mark.parametrize("elements", [False, True], ids=["canvas", "elements"])
def test_a_files_words_run_nothing_and_fetch_nothing(flipbook_server, root, elements):
    workflow = json.loads((root / "workflows" / "text-to-animation.json").read_text(encoding="utf-8"))
    with Frontend(flipbook_server.url) as frontend:
        page, fetched = frontend.page, []
        frontend.draw_nodes_as_elements(elements)
        page.on("request", lambda request: fetched.append(request.url))
        frontend.open(workflow)
        frontend.drawn_nodes()
        page.evaluate(SHOW, [NODE, as_plain_text(WORDS)])
        page.wait_for_function(DRAWN)
        page.wait_for_timeout(1000)
        drawn = page.evaluate(DRAWN)
        assert page.evaluate("() => window.hit") is None
        assert not [url for url in fetched if "flipbook-was-here" in url]
        assert "onerror" in drawn and "bold" in drawn and "code" in drawn, "told all the same"
        assert len(drawn.splitlines()) == len(WORDS.splitlines()), "a line each"
        assert not frontend.errors


def test_text_stays_where_the_page_wipes_it_at_the_end_of_a_run(flipbook_server, root):
    workflow = json.loads((root / "workflows" / "text-to-animation.json").read_text(encoding="utf-8"))
    with Frontend(flipbook_server.url) as frontend:
        frontend.open(workflow)
        frontend.page.evaluate(SHOW, [NODE, "one"])
        frontend.page.evaluate(SHOW, [NODE, "two"])
        frontend.page.evaluate(SHOW, ["KSampler", "not ours"])
        assert frontend.node_texts(NODE, "KSampler") == {NODE: "two", "KSampler": "not ours"}
        frontend.page.evaluate(WIPE)
        assert frontend.node_texts(NODE) == {NODE: "two"}
        frontend.page.evaluate("() => { window.app.graph.clear() }")
        frontend.page.evaluate(WIPE)
        frontend.page.wait_for_timeout(200)
        assert not frontend.errors
