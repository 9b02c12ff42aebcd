"""What nodes write on themselves, on the real page: text, whatever the words are."""

import pytest
from animatediff_flipbook.tests.browser.conftest import MARKUP
from animatediff_flipbook.tests.browser.frontend import Frontend, browser_path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser_path() is None, reason="no Chromium"),
]
NODE = "FlipbookInspectMotionModule"
DRAWN = """() => [...document.querySelectorAll('span, p')].map(element => element.innerText)
    .filter(text => text.startsWith('marked.safetensors')).at(-1)"""


@pytest.mark.parametrize("elements", [False, True], ids=["canvas", "elements"])
def test_a_files_words_run_nothing_and_fetch_nothing(flipbook_server, elements):
    flipbook_server.free()  # a node whose result is cached writes nothing
    with Frontend(flipbook_server.url) as frontend:
        page, fetched = frontend.page, []
        frontend.draw_nodes_as_elements(elements)
        page.on("request", lambda request: fetched.append(request.url))
        graph = {"1": {"class_type": NODE, "inputs": {"file": "animatediff_models/marked.safetensors"}}}
        page.evaluate("prompt => window.app.loadApiJson(prompt, 'inspect')", graph)
        frontend.drawn_nodes()
        frontend.queue()
        shown = frontend.node_texts(NODE)[NODE]
        page.wait_for_function(DRAWN)
        page.wait_for_timeout(1000)
        drawn = page.evaluate(DRAWN)
        assert page.evaluate("() => window.hit") is None
        assert not [url for url in fetched if "flipbook-was-here" in url]
        assert "onerror" in drawn and "bold" in drawn and "code" in drawn, "told all the same"
        assert set(MARKUP) <= {line.split(":")[0].strip() for line in drawn.splitlines()}, "a line each"
        assert len(drawn.splitlines()) == len(shown.splitlines())
        assert not frontend.errors
