"""The moving preview as a user sees it: a real server, the real page, and pictures of the sampler's node."""

import subprocess
import sys

import pytest
from animatediff_flipbook.demo.base_directory import prepare_base
from animatediff_flipbook.demo.server import ComfyServer
from animatediff_flipbook.tests.browser.frontend import Frontend, browser_path
from animatediff_flipbook.tests.test_server import COMFYUI, prompt

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


@pytest.fixture(scope="module")
def server(tmp_path_factory, root):
    models, base = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("base")
    script = str(root / "demo" / "random_models.py")
    subprocess.run([sys.executable, script, "--comfyui", str(COMFYUI), "--output", str(models)], check=True)
    prepare_base(
        base,
        {"animatediff-flipbook": root, "tiny-family": root / "demo" / "tiny_family"},
        {
            "checkpoints": [models / "checkpoints" / "tiny_ad.safetensors"],
            "animatediff_models": [models / "animatediff_models" / "tiny_mm.safetensors"],
        },
    )
    arguments = ("--preview-method", "latent2rgb")
    with ComfyServer(
        COMFYUI,
        base,
        wait_for=("FlipbookApplyMotionModule",),
        environment={"OMP_NUM_THREADS": "1"},
        extra_args=arguments,
    ) as running:
        yield running


@pytest.mark.parametrize("elements", [False, True], ids=["canvas", "elements"])
def test_the_clip_moves_on_the_node_while_it_is_sampled(server, elements, tmp_path):
    """Between two sheets the pictures on the node change, again and again; nothing goes on after a cancel."""
    with Frontend(server.url) as frontend:
        page = frontend.page
        frontend.draw_nodes_as_elements(elements)
        page.evaluate("prompt => window.app.loadApiJson(prompt, 'preview')", prompt(steps=4000, size=128))
        frontend.drawn_nodes()
        page.evaluate("""async () => {
            const { api } = await import('/scripts/api.js');
            window.sheets = []; window.previews = 0;
            api.addEventListener('animatediff_flipbook.preview', ({ detail }) => window.sheets.push(detail));
            api.addEventListener('b_preview_with_metadata', () => window.previews++);
        }""")
        page.evaluate("() => window.app.queuePrompt(0, 1)")
        page.wait_for_function("() => window.sheets.length > 1")
        assert page.evaluate("() => window.sheets.at(-1).frames") == 16
        distinct = set()
        for _ in range(80):  # a machine with other work draws slowly
            distinct |= {page.evaluate(SHOWN)} - {None}
            page.wait_for_timeout(120)
        page.screenshot(path=str(tmp_path / "preview.png"))
        sheets = page.evaluate("() => window.sheets.length")
        assert len(distinct) >= 8, f"{len(distinct)} pictures, {sheets} sheets"
        server.interrupt()
        page.wait_for_timeout(3000)
        before = page.evaluate("() => window.previews")
        page.wait_for_timeout(1000)
        assert page.evaluate("() => window.previews") == before, "goes on after the run was cancelled"
        assert not frontend.errors
