"""The real IPAdapter plus in context windows, where its folder is given:
``IPADAPTER_PLUS_PATH=/.../ComfyUI_IPAdapter_plus``. Nothing of it is part of this project. Its file is a
small one with random weights; everything else goes through its own nodes.
"""

import importlib.util
import os
import sys
from pathlib import Path

import folder_paths
import pytest
import torch
from animatediff_flipbook.motion_core.clips.context import ContextOptions, context_windows
from animatediff_flipbook.motion_core.clips.context_fuse import fused_weights
from animatediff_flipbook.nodes.context.context import ContextWindows
from animatediff_flipbook.tests.nodes.motion.test_apply import apply, sample
from animatediff_flipbook.tests.nodes.motion.test_motion_values import one_step
from safetensors.torch import save_file

FOLDER = os.environ.get("IPADAPTER_PLUS_PATH")
pytestmark = pytest.mark.skipif(
    not FOLDER, reason="IPADAPTER_PLUS_PATH names no copy of ComfyUI_IPAdapter_plus"
)

FRAMES, EMBEDDING, TOKENS, TEXT = 10, 24, 4, 64
CLOSE = {"atol": 2e-4, "rtol": 1e-3}
WIDTHS = {31: 128}
"""Of the layers that the pack numbers 1, 3, .. 31: the middle block's is wider, those that the tiny UNet does
not have are of any width."""


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def write_adapter(path):
    """An IPAdapter for the tiny family, by the published files' names."""
    state = {
        "image_proj.proj.weight": 0.2 * random(TOKENS * TEXT, EMBEDDING),
        "image_proj.proj.bias": torch.zeros(TOKENS * TEXT),
        "image_proj.norm.weight": torch.ones(TEXT),
        "image_proj.norm.bias": torch.zeros(TEXT),
    }
    for number in range(1, 32, 2):
        for part in "kv":
            weight = 0.2 * random(WIDTHS.get(number, 64), TEXT, seed=number)
            state[f"ip_adapter.{number}.to_{part}_ip.weight"] = weight
    save_file(state, path)


@pytest.fixture(scope="module")
def pack():
    """The pack's nodes by name, loaded by path as ComfyUI does."""
    name = "ipadapter_plus_under_test"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, Path(FOLDER) / "__init__.py", submodule_search_locations=[FOLDER]
        )
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    nodes = sys.modules[name].NODE_CLASS_MAPPINGS

    def run(node, **given):
        return getattr(nodes[node](), nodes[node].FUNCTION)(**given)

    return run


@pytest.fixture
def adapter(pack, tmp_path, monkeypatch):
    write_adapter(tmp_path / "tiny.safetensors")
    folders = {**folder_paths.folder_names_and_paths, "ipadapter": ([str(tmp_path)], {".safetensors"})}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", folders)
    return pack("IPAdapterModelLoader", ipadapter_file="tiny.safetensors")[0]


WEIGHTS = torch.linspace(0.0, 1.5, FRAMES)
MASKS = random(FRAMES, 64, 64, seed=8).sigmoid()
PICTURES = random(FRAMES, EMBEDDING, seed=9)
BATCH = "IPAdapterEmbedsBatch"
CASES = {
    "weights": (BATCH, lambda rows: {"weight": WEIGHTS[rows].tolist(), "images": PICTURES[:1]}),
    "pictures": (BATCH, lambda rows: {"weight": 1.2, "images": PICTURES[rows]}),
    "both": (BATCH, lambda rows: {"weight": WEIGHTS[rows].tolist(), "images": PICTURES[rows]}),
    "masks": (
        "IPAdapterEmbeds",
        lambda rows: {"weight": 1.2, "images": PICTURES[:1], "attn_mask": MASKS[rows]},
    ),
    "one for all": ("IPAdapterEmbeds", lambda rows: {"weight": 0.8, "images": PICTURES[:1]}),
}
"""The pack's node, and what it is given for some frames of the clip."""


def adapted(pack, adapter, model, case, rows=slice(None)):
    """The model with the IPAdapter, as a graph has it: for the clip, or for some of its frames."""
    node, settings = CASES[case]
    given = settings(rows)
    images = given.pop("images").unsqueeze(1)
    negative = torch.zeros_like(images[:1])
    common = {"weight_type": "linear", "start_at": 0.0, "end_at": 1.0, "embeds_scaling": "V only"}
    return pack(
        node, model=model, ipadapter=adapter, pos_embed=images, neg_embed=negative, **common, **given
    )[0]


@pytest.mark.parametrize("together", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_without_motion_windows_change_nothing(pack, adapter, tiny_model, motion_module, case, together):
    """A frame that sees no other is what it is, in whatever window it stands."""
    still = apply(tiny_model, motion_module(), effect=0.0, beta_schedule="keep")
    model = adapted(pack, adapter, still, case)
    whole = sample(model, frames=FRAMES)
    assert not torch.allclose(whole, sample(still, frames=FRAMES), atol=1e-2)
    windows = ContextWindows.execute(model, length=4, overlap=2, windows_per_batch=together)[0]
    assert torch.allclose(sample(windows, frames=FRAMES), whole, **CLOSE)


@pytest.mark.parametrize("case", CASES)
def test_with_motion_each_window_has_its_frames_own(pack, adapter, tiny_model, motion_module, case):
    """One evaluation in windows is the sum of the windows, each made alone from its part of everything; with
    the IPAdapter in front of the motion module or behind it."""
    module = motion_module()
    noise = random(FRAMES, 4, 8, 8, seed=2)
    options = ContextOptions(4, 2)
    windows = context_windows(options, FRAMES)
    expected = torch.zeros_like(noise)
    for window, weights in zip(windows, fused_weights(windows, options, FRAMES), strict=True):
        rows = list(window.indices)
        part = adapted(pack, adapter, apply(tiny_model, module), case, rows)
        expected[rows] += weights.view(-1, 1, 1, 1) * one_step(part, noise[rows])
    front = apply(adapted(pack, adapter, tiny_model, case), module)
    behind = adapted(pack, adapter, apply(tiny_model, module), case)
    for model in (front, behind):
        for together in (1, 2):
            windowed = ContextWindows.execute(model, length=4, overlap=2, windows_per_batch=together)[0]
            assert torch.allclose(one_step(windowed, noise), expected, **CLOSE)
