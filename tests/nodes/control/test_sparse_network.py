"""SparseCtrl: the original's residuals and pictures, through ComfyUI's ControlNet and our motion modules."""

import functools

import comfy.ops
import pytest
import torch
import torch.nn.functional as F
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
ITS_OWN = {"rgb": FP32, "scribble": 8e-6}
"""How far we may be off the golden numbers. Those of the scribble encoder are up to 6.7e-6 off what the same
weights give in float64, and so are ours in fp32 on a processor whose convolutions round as theirs did:
:func:`test_the_scribble_goldens_are_off_by_their_own_rounding`."""


@functools.cache
def encoder(kind, dtype):
    """The golden encoder. It is stateless, so one serves all tests."""
    path = golden_file(f"sparsectrl/{kind}.safetensors")
    network = load_sparse_network(path, comfy.ops.disable_weight_init, dtype)
    network.dtype = dtype
    return network


def inputs(case, io):
    """Condition ``(B*F, C + 1, H, W)`` and strength of a golden case."""
    settings = META["cases"][case]
    places = settings["image_indexes"]
    images = io["images"][0, :, : len(places)].transpose(0, 1)
    hint = sparse_condition(images, places, range(FRAMES)).repeat(VIDEOS, 1, 1, 1)
    return hint, settings["conditioning_scale"]


def residuals(kind, case, io, dtype=torch.float32):
    """``(skips, mid)`` of the encoder for a golden case, times its strength."""
    hint, strength = inputs(case, io)
    network = encoder(kind, dtype)
    x = torch.full_like(fold(io["x"]), 7.0, dtype=dtype)  # the noisy latent must not be seen
    with torch.inference_mode():
        found = network(
            x,
            hint.to(dtype),
            io["timestep"].float().expand(x.shape[0]),
            io["context"].to(dtype).repeat_interleave(FRAMES, dim=0),
            motion_call=MotionCall(FRAMES),
        )
    return {key: [strength * value for value in values] for key, values in found.items()}


def pictures(found, io, dtype=torch.float32):
    """The UNet's output with these residuals and the motion module."""
    unet, motion = base_unet("sd").to(dtype), v3_module().to(dtype)
    unet.dtype = dtype
    control = {key: [value.clone() for value in values] for key, values in found.items()}
    io = {**io, "x": io["x"].to(dtype), "context": io["context"].to(dtype)}
    return run_videos(unet, io, [(motion, MotionCall(FRAMES))], control=control)


def named(found, case):
    """Residuals by their names in the golden file."""
    skips = {f"{case}.down.{index}": value for index, value in enumerate(found["output"])}
    return {key: unfold(value, VIDEOS) for key, value in {**skips, f"{case}.mid": found["middle"][0]}.items()}


def named_with_pictures(case, io, dtype):
    """Everything that a golden case of the scribble encoder holds."""
    found = residuals("scribble", case, io, dtype)
    assert found["middle"][0].dtype == dtype
    return {**named(found, case), f"{case}.y": pictures(found, io, dtype)}


@pytest.mark.parametrize("kind", ["rgb", "scribble"])
@pytest.mark.parametrize("case", META["cases"])
def test_golden(kind, case):
    io = tensors(f"sparsectrl/{kind}_io.safetensors")
    found = residuals(kind, case, io)
    for name, value in named(found, case).items():
        if name in io:
            assert relative_error(value, io[name]) <= ITS_OWN[kind]
    assert relative_error(pictures(found, io), io[f"{case}.y"]) <= ITS_OWN[kind]


@pytest.mark.parametrize("case", META["cases"])
def test_the_scribble_goldens_are_off_by_their_own_rounding(case):
    """The same weights, exact in fp16, in float64, residuals and pictures: ours in fp32 are within the bound
    of them, as the original's are. Which of the two is nearer is the processor's affair: on one with AVX2
    alone they round alike, in some cases to the last digit."""
    io = tensors("sparsectrl/scribble_io.safetensors")
    exact, ours = (named_with_pictures(case, io, dtype) for dtype in (torch.float64, torch.float32))
    for name in filter(io.__contains__, exact):
        for rounded in (ours[name], io[name]):
            assert relative_error(rounded, exact[name]) <= ITS_OWN["scribble"]


def test_the_condition_is_seen_through_these_convolutions():
    """The first residual written out with torch's own functions in float64, a reference that is none of our
    code: the float64 run agrees to its last digits, ours in fp32 and the golden number to fp32's."""
    io = tensors("sparsectrl/scribble_io.safetensors")
    weights = {k: v.double() for k, v in tensors("sparsectrl/scribble.safetensors").items()}

    def conv(name, z, **more):
        return F.conv2d(z, weights[f"{name}.weight"], weights[f"{name}.bias"], **more)

    for case in ("one", "none"):
        hint, strength = inputs(case, io)
        embedding = "controlnet_cond_embedding"
        z = F.silu(conv(f"{embedding}.conv_in", hint.double(), padding=1))
        for block in range(6):
            z = F.silu(conv(f"{embedding}.blocks.{block}", z, padding=1, stride=1 + block % 2))
        seen = conv(f"{embedding}.conv_out", z, padding=1) + weights["conv_in.bias"].view(1, -1, 1, 1)
        wanted = unfold(strength * conv("controlnet_down_blocks.0", seen), VIDEOS)
        name = f"{case}.down.0"
        exact = named(residuals("scribble", case, io, torch.float64), case)[name]
        ours = named(residuals("scribble", case, io), case)[name]
        assert relative_error(exact, wanted) < 1e-12
        for rounded in (ours, io[name]):
            assert relative_error(rounded, wanted) < 2e-6


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
