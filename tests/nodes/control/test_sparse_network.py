"""SparseCtrl: the original's residuals and pictures, through ComfyUI's ControlNet and our motion modules."""

import comfy.ops
import pytest
import torch
from animatediff_flipbook.motion_core.control.sparse_control import (
    frames_of_pictures,
    read_layout,
    sparse_condition,
)
from animatediff_flipbook.motion_core.files.recognise import recognise
from animatediff_flipbook.motion_core.module.call import MotionCall
from animatediff_flipbook.nodes.control.sparse_network import load_sparse_network
from animatediff_flipbook.tests.support import fold, relative_error, unfold
from animatediff_flipbook.tests.support_families import (
    FP32,
    base_unet,
    golden_file,
    meta,
    run_videos,
    tensors,
    v3_module,
)
from safetensors.torch import load_file, save_file

META = meta("sparsectrl")
FRAMES, VIDEOS = META["frames"], META["batch"]
BOUND = {"rgb": FP32, "scribble": 8e-6}
"""In float64 the scribble encoder is 6e-6 off the original's numbers and 1.6e-6 off ours: what is left is the
rounding of the original's own run."""


def residuals(kind, case, io):
    """``(skips, mid)`` of the encoder for a golden case, times its strength."""
    settings = META["cases"][case]
    places = settings["image_indexes"]
    images = io["images"][0, :, : len(places)].transpose(0, 1)
    hint = sparse_condition(images, places, range(FRAMES)).repeat(VIDEOS, 1, 1, 1)
    network = load_sparse_network(
        golden_file(f"sparsectrl/{kind}.safetensors"), comfy.ops.disable_weight_init, torch.float32
    )
    x = torch.full_like(fold(io["x"]), 7.0)  # the noisy latent must not be seen
    with torch.inference_mode():
        found = network(
            x,
            hint,
            io["timestep"].float().expand(x.shape[0]),
            io["context"].repeat_interleave(FRAMES, dim=0),
            motion_call=MotionCall(FRAMES),
        )
    strength = settings["conditioning_scale"]
    return {key: [strength * value for value in values] for key, values in found.items()}


@pytest.mark.parametrize("kind", ["rgb", "scribble"])
@pytest.mark.parametrize("case", META["cases"])
def test_golden(kind, case):
    io = tensors(f"sparsectrl/{kind}_io.safetensors")
    found = residuals(kind, case, io)
    for index, value in enumerate(found["output"]):
        if f"{case}.down.{index}" in io:
            assert relative_error(unfold(value, VIDEOS), io[f"{case}.down.{index}"]) <= BOUND[kind]
    if f"{case}.mid" in io:
        assert relative_error(unfold(found["middle"][0], VIDEOS), io[f"{case}.mid"]) <= BOUND[kind]
    motions = [(v3_module(), MotionCall(FRAMES))]
    control = {key: [value.clone() for value in values] for key, values in found.items()}
    y = run_videos(base_unet("sd"), io, motions, control=control)
    assert relative_error(y, io[f"{case}.y"]) <= BOUND[kind]


def test_the_layout_is_read_from_the_file():
    shapes = {key: tuple(v.shape) for key, v in load_file(golden_file("sparsectrl/rgb.safetensors")).items()}
    assert recognise(shapes) == "sparsectrl"
    layout = read_layout(shapes)
    assert (layout.kind, layout.widths, layout.depths) == ("rgb", (32, 64), ((1,), (0,)))
    assert layout.condition_channels == 4
    with pytest.raises(ValueError, match="no SparseCtrl"):
        read_layout({})
    with pytest.raises(ValueError, match="incomplete"):
        read_layout({key: shape for key, shape in shapes.items() if "resnets" not in key})


def test_half_a_file_is_refused(tmp_path):
    state = load_file(golden_file("sparsectrl/rgb.safetensors"))
    del state["controlnet_down_blocks.1.bias"]
    save_file(state, tmp_path / "half.safetensors")
    with pytest.raises(ValueError, match="incomplete"):
        load_sparse_network(tmp_path / "half.safetensors", comfy.ops.disable_weight_init, None)
    path = golden_file("sd/v3_motion_module.safetensors")
    with pytest.raises(ValueError, match="is not a SparseCtrl encoder. It is a motion module"):
        load_sparse_network(path, comfy.ops.disable_weight_init, None)


@pytest.mark.parametrize(
    ("spread", "pictures", "places"),
    [
        ("even", 1, [0]),
        ("even", 3, [0, 7, 15]),
        ("start", 2, [0, 7]),
        ("end", 2, [7, 15]),
        ("middle", 1, [7]),
        ([0, -1], 2, [0, 15]),
        ([], 0, []),
    ],
)
def test_places_of_pictures(spread, pictures, places):
    assert frames_of_pictures(spread, pictures, 16) == places


@pytest.mark.parametrize(
    ("chosen", "pictures", "words"),
    [
        ([16], 1, "frame 16 of a clip of 16"),
        ([0, -16], 2, "Two pictures"),
        ([1], 2, "1 frames are named for 2"),
        ("even", 17, "17 pictures"),
        ("left", 1, "Unknown spread"),
    ],
)
def test_places_that_cannot_be(chosen, pictures, words):
    with pytest.raises(ValueError, match=words):
        frames_of_pictures(chosen, pictures, 16)
