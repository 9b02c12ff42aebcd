"""Motion over frames, places and blocks: the numbers of the field's pack, where its users know a value."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from animatediff_flipbook.motion_core.clips.context import ContextOptions, context_windows
from animatediff_flipbook.motion_core.clips.context_fuse import fused_weights
from animatediff_flipbook.motion_core.module.call import BlockValues, MotionCall, View
from animatediff_flipbook.motion_core.module.config import ModuleShape
from animatediff_flipbook.motion_core.module.layers import TemporalTransformer
from animatediff_flipbook.motion_core.module.values import (
    at_size,
    between,
    check_value,
    extended,
    of_frames,
    times,
)
from animatediff_flipbook.tests.support import initialise, relative_error
from animatediff_flipbook.tests.support_families import (
    FP32,
    base_unet,
    meta,
    run_frames,
    tensors,
    v3_module,
)
from torch.utils._python_dispatch import TorchDispatchMode

VALUES, VIEWS = meta("ade_values"), meta("ade_views")


@pytest.fixture(scope="module")
def unet():
    return base_unet("sd")


@pytest.fixture(scope="module")
def motion():
    return v3_module()


def value_of(case, name, io):
    """A case's ``scale`` or ``effect`` for all modules."""
    value = case.get(name, 1.0)
    if f"{name}_list" in case:
        value = torch.tensor(case[f"{name}_list"])
    if f"{name}_mask" in case:
        value = io[f"mask.{case[f'{name}_mask']}"]
        if name == "scale" and "scaled" in case:
            low, high, kind = case["scaled"]
            value = between(value, low, high, relative=kind == "relative")
        if name == "scale" and "list" in case:
            value = times(value, torch.tensor(case["list"]))
        if "times" in case:
            value = times(value, case["times"])
    return value


def blocks_of(case, io, frames):
    def value(entry):
        return extended(io[f"mask.{entry}"], frames) if isinstance(entry, str) else entry

    found = []
    for side, block, module, effect, *scales in case.get("per_block", []):
        name = f"{side}_blocks"
        name += "" if block is None else f".{block}"
        name += "" if module is None else f".motion_modules.{module}"
        # Its node always hands over two scales, so an entry without any still ends the search for them.
        found.append(BlockValues(name, value(effect), tuple(map(value, scales))))
    return tuple(found)


def options_of(given):
    return ContextOptions(
        length=given["length"],
        overlap=given["overlap"],
        schedule=given["schedule"],
        fuse=given["fuse"],
        closed_loop=given.get("closed_loop", False),
    )


def views_of(case, frames):
    given = case.get("view")
    if given is None or given["length"] >= frames:
        return ()
    options = options_of(given)
    windows = context_windows(options, frames)
    weights = fused_weights(windows, options, frames)
    return tuple(
        View(window.indices, tuple(weight.flatten().tolist()))
        for window, weight in zip(windows, weights, strict=True)
    )


def predicted(unet, motions, x, io, case):
    """The prediction, guided where the case asks for it."""
    cfg = case.get("cfg", 1.0)
    if cfg == 1.0:
        return run_frames(unet, x, io["timestep"], io["context"], motions)
    context = torch.cat([io["context"], io["context_negative"]])
    y = run_frames(unet, torch.cat([x, x]), io["timestep"], context, motions)
    positive, negative = y.chunk(2)
    return negative + cfg * (positive - negative)


def run_case(unet, motion, case, io):
    """A golden case, in windows where it has them."""
    x = io["x"]
    frames = x.shape[0]
    whole = MotionCall(
        frames=frames,
        scale=extended(value_of(case, "scale", io), frames),
        effect=extended(value_of(case, "effect", io), frames),
        blocks=blocks_of(case, io, frames),
    )
    if "windows" not in case:
        return predicted(unet, [(motion, replace(whole, views=views_of(case, frames)))], x, io, case)
    options = options_of(case["windows"])
    windows = context_windows(options, frames)
    total = torch.zeros_like(x)
    for window, weight in zip(windows, fused_weights(windows, options, frames), strict=True):
        indices = list(window.indices)
        call = MotionCall(
            frames=len(indices),
            scale=of_frames(whole.scale, indices, frames),
            effect=of_frames(whole.effect, indices, frames),
            views=views_of(case, len(indices)),
        )
        y = predicted(unet, [(motion, call)], x[indices], io, case)
        total[indices] += y * weight.view(-1, 1, 1, 1)
    return total


SINGLE = [name for name in VALUES["cases"] if not name.startswith("multival") and name != "two_models"]


@pytest.mark.parametrize("name", SINGLE)
def test_values(name, unet, motion):
    io = tensors("ade_values/io.safetensors")
    y = run_case(unet, motion, VALUES["cases"][name], io)
    assert relative_error(y, io[f"{name}.y"]) <= FP32


def test_two_models_run_in_the_order_of_application(unet, motion):
    io = tensors("ade_values/io.safetensors")
    motions = [(motion, MotionCall(5, scale=1.3)), (motion, MotionCall(5, effect=0.35))]
    y = predicted(unet, motions, io["x"], io, {})
    assert relative_error(y, io["two_models.y"]) <= FP32


@pytest.mark.parametrize("name", list(VIEWS["cases"]))
def test_views(name, unet, motion):
    io = tensors("ade_views/io.safetensors")
    case = VIEWS["cases"][name]
    if name == "view_scale_mask_cfg2":
        case = {**case, "scale_mask": "m_frames", "effect_mask": "m_one"}
    y = run_case(unet, motion, case, io)
    assert relative_error(y, io[f"{name}.y"]) <= FP32


def test_masks_with_limits():
    io = tensors("ade_values/io.safetensors")
    mask = io["mask.m_odd"]
    numbers = torch.tensor([0.2, 0.55, 0.9, 1.25, 1.6])
    assert torch.allclose(times(mask, numbers), io["multival.mask_list"], atol=1e-6)
    assert torch.allclose(between(mask, 0.4, 1.5), io["multival.scaled_absolute"], atol=1e-6)
    assert torch.allclose(between(mask, 0.4, 1.5, relative=True), io["multival.scaled_relative"], atol=1e-6)
    limits = torch.tensor([1.4, 0.3]), numbers
    assert torch.allclose(between(mask, *limits), io["multival.scaled_list"], atol=1e-6)


@pytest.mark.parametrize("kind", ["scale", "effect"])
@pytest.mark.parametrize("shape", [(3,), (6,), (3, 4, 5), (6, 9, 7), (1, 2, 2), (1,)])
def test_every_video_has_its_own_rows(kind, shape):
    """Two videos in one call are what each of them is alone; rows for three frames are both videos'."""
    module = initialise(
        TemporalTransformer(
            ModuleShape(32, 32, 1, 2, 128, 8), num_heads=4, norm_groups=8, joint_norm=False, fused_qkv=True
        )
    )
    x, value = torch.randn(6, 32, 4, 5), torch.rand(shape) + 0.3
    with torch.inference_mode():
        both = module(x, MotionCall(3, **{kind: value}))
        for video in range(2):
            own = value[3 * video : 3 * video + 3] if shape[0] == 6 else value
            alone = module(x[3 * video : 3 * video + 3], MotionCall(3, **{kind: own}))
            assert torch.allclose(both[3 * video : 3 * video + 3], alone, atol=1e-5)


def test_chunks_of_pixels_see_their_part_of_a_mask(monkeypatch):
    from animatediff_flipbook.motion_core.module import layers

    module = initialise(
        TemporalTransformer(
            ModuleShape(32, 32, 1, 2, 128, 8), num_heads=4, norm_groups=8, joint_norm=False, fused_qkv=True
        )
    )
    x, call = torch.randn(6, 32, 4, 5), MotionCall(3, scale=torch.rand(6, 4, 5) + 0.5)
    with torch.inference_mode():
        whole = module(x, call)
        monkeypatch.setattr(layers, "CPU_CHUNK_VALUES", 1)
        monkeypatch.setattr(layers, "CPU_CHUNK_TOKENS", 9)
        assert torch.allclose(module(x, call), whole, atol=1e-5)


def test_a_number_is_a_row_and_a_mask_of_it():
    module = initialise(
        TemporalTransformer(
            ModuleShape(32, 32, 1, 2, 128, 8), num_heads=4, norm_groups=8, joint_norm=False, fused_qkv=True
        )
    )
    x = torch.randn(3, 32, 4, 5)
    with torch.inference_mode():
        for kind in ("scale", "effect"):
            wanted = module(x, MotionCall(3, **{kind: 0.7}))
            for same in (torch.full((3,), 0.7), torch.full((1, 2, 3), 0.7)):
                assert torch.allclose(module(x, MotionCall(3, **{kind: same})), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "words"), [((4,), "4 rows"), ((2, 3, 3), "2 rows"), ((5, 2, 2), "expected 1, 3")]
)
def test_rows_that_belong_to_nobody_are_refused(shape, words):
    module = initialise(
        TemporalTransformer(
            ModuleShape(32, 32, 1, 2, 128, 8), num_heads=4, norm_groups=8, joint_norm=False, fused_qkv=True
        )
    )
    with pytest.raises(ValueError, match=words):
        module(torch.randn(6, 32, 4, 5), MotionCall(3, scale=torch.rand(shape)))


def test_ranges_are_checked_over_all_values():
    check_value("scale", torch.tensor([0.0, 10.0]), 0.0, 10.0)
    with pytest.raises(ValueError, match=r"scale is 0 .. 10, got 0.5 .. 11"):
        check_value("scale", torch.tensor([0.5, 11.0]), 0.0, 10.0)
    with pytest.raises(ValueError, match="got nan"):
        check_value("scale", torch.tensor([float("nan")]), 0.0, 10.0)
    with pytest.raises(ValueError, match="shape"):
        check_value("scale", torch.rand(2, 2), 0.0, 10.0)


def test_a_mask_keeps_its_size_where_it_fits():
    mask = torch.rand(2, 3, 4)
    assert at_size(mask, 3, 4) is mask
    assert at_size(mask, 6, 2).shape == (2, 6, 2)


class Operators(TorchDispatchMode):
    """Counts what is computed."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def operators(call):
    module = initialise(
        TemporalTransformer(
            ModuleShape(32, 32, 1, 2, 128, 8), num_heads=4, norm_groups=8, joint_norm=False, fused_qkv=True
        )
    )
    x = torch.randn(6, 32, 4, 5)
    with torch.no_grad(), Operators() as counted:
        module(x, call)
    return counted.counts


ARITHMETIC = ("mul", "add", "addcmul", "mul_", "add_", "addmm", "native_layer_norm", "native_group_norm")
PLAIN = {"add": 4, "add_": 2, "mul_": 1, "addmm": 6, "native_layer_norm": 3, "native_group_norm": 1}
"""Of one module without values, as before there were any."""


def test_the_plain_path_computes_what_it_computed_before():
    counts = operators(MotionCall(3))
    assert {name: counts[name] for name in ARITHMETIC if counts[name]} == PLAIN
    assert counts == operators(MotionCall(3, scale=1.3, effect=0.4)), "numbers cost nothing"


def test_a_number_per_frame_costs_one_multiplication_for_each_attention():
    extra = operators(MotionCall(3, scale=torch.rand(3))) - operators(MotionCall(3))
    assert extra["mul"] == 2
    assert not {"addmm", "mm", "bmm", "add", "cat"} & set(extra)
    effect = operators(MotionCall(3, effect=torch.rand(3)))
    assert effect["addcmul"] == 1
    assert effect["mul"] == operators(MotionCall(3))["mul"]
