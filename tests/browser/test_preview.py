"""The moving preview as a user sees it: a real server, the real page, and pictures of the sampler's node."""

import time

import pytest
from animatediff_flipbook.tests.browser.frontend import Frontend, browser_path
from animatediff_flipbook.tests.test_server import prompt

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser_path() is None, reason="no Chromium"),
]
SHOWN = """() => {
    const node = window.app.graph._nodes.find(node => node.type === 'KSampler');
    const element = document.querySelector(`[data-node-id="${node.id}"] img`);
    const picture = element ?? node.imgs?.[0];
    if (!picture?.naturalWidth) return null;
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [32, 32];
    canvas.getContext('2d').drawImage(picture, 0, 0, 32, 32);
    return canvas.toDataURL();
}"""


def show(frontend, graph):
    """Load a prompt with all its nodes in view. The page lays out a prompt's nodes only after it has made
    elements of them, which stay where they were: loaded once more, they are where they belong."""
    frontend.page.evaluate("prompt => window.app.loadApiJson(prompt, 'preview')", graph)
    frontend.open(frontend.ui_form())
    frontend.drawn_nodes()


@pytest.mark.parametrize("elements", [False, True], ids=["canvas", "elements"])
def test_the_clip_moves_on_the_node_while_it_is_sampled(flipbook_server, elements, tmp_path):
    """Between two sheets the pictures on the node change, again and again; nothing goes on after a cancel."""
    with Frontend(flipbook_server.url) as frontend:
        page = frontend.page
        frontend.draw_nodes_as_elements(elements)
        show(frontend, prompt(steps=4000, size=128))
        page.evaluate("""async () => {
            const { api } = await import('/scripts/api.js');
            window.sheets = []; window.previews = 0;
            api.addEventListener('animatediff_flipbook.preview', ({ detail }) => window.sheets.push(detail));
            api.addEventListener('b_preview_with_metadata', () => window.previews++);
        }""")
        page.evaluate("() => window.app.queuePrompt(0, 1)")
        page.wait_for_function("() => window.sheets.length > 1")
        assert page.evaluate("() => window.sheets.at(-1).frames") == 16
        distinct, end = set(), time.monotonic() + 120  # a machine with other work draws slowly
        while len(distinct) < 8 and time.monotonic() < end:
            distinct |= {page.evaluate(SHOWN)} - {None}
            page.wait_for_timeout(120)
        page.screenshot(path=str(tmp_path / "preview.png"))
        sheets = page.evaluate("() => window.sheets.length")
        assert len(distinct) >= 8, f"{len(distinct)} pictures, {sheets} sheets"
        flipbook_server.interrupt()
        page.wait_for_timeout(3000)
        before = page.evaluate("() => window.previews")
        page.wait_for_timeout(1000)
        assert page.evaluate("() => window.previews") == before, "goes on after the run was cancelled"
        assert not frontend.errors


SIZE_SHOWN = """() => {
    const node = window.app.graph._nodes.find(node => node.type === 'KSampler');
    const picture = document.querySelector(`[data-node-id="${node.id}"] img`) ?? node.imgs?.[0];
    return picture?.naturalWidth ? [picture.naturalWidth, picture.naturalHeight] : null;
}"""


def test_a_page_that_cannot_play_shows_all_frames_at_once(flipbook_server):
    """Without our extension: six square frames lie on a sheet of three by two, in place of ComfyUI's own
    preview."""
    graph = prompt(steps=4000, size=128)
    graph["6"]["inputs"]["batch_size"] = 6
    with Frontend(flipbook_server.url) as frontend:
        page = frontend.page
        page.route("**/animatediff-flipbook/preview.js*", lambda route: route.abort())
        frontend.reload()
        show(frontend, graph)
        page.evaluate("() => window.app.queuePrompt(0, 1)")
        try:
            page.wait_for_function(f"() => String(({SIZE_SHOWN})()) === '512,341'")
            sizes = [page.evaluate(SIZE_SHOWN) for _ in range(20) if not page.wait_for_timeout(100)]
        finally:
            flipbook_server.interrupt()
        assert sizes.count([512, 341]) > 10, sizes
        assert not frontend.errors
