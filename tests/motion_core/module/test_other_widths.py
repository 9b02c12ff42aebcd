"""Whole UNets of widths, depths and frame counts that no golden has, against the original's order of work
written out: frames as a fifth axis, hooks on the plain UNet, the formula of a module from its weights."""

import pytest
import torch
import torch.nn.functional as F
from animatediff_flipbook.motion_core.module.call import MotionCall
from animatediff_flipbook.tests.motion_core.module.test_layers import reference
from animatediff_flipbook.tests.support import motion_for, relative_error, small_unet
from animatediff_flipbook.tests.support_families import run_frames
from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock

SHAPES = {
    "like SDXL": {
        "model_channels": 32,
        "channel_mult": [1, 2, 4],
        "num_res_blocks": [1, 1, 1],
        "transformer_depth": [0, 1, 2],
        "transformer_depth_output": [0, 0, 1, 1, 2, 2],
        "transformer_depth_middle": 2,
        "num_classes": "sequential",
        "adm_in_channels": 24,
        "use_linear_in_transformer": True,
    },
    "96 wide": {
        "model_channels": 96,
        "channel_mult": [1, 1],
        "num_res_blocks": [2, 1],
        "transformer_depth": [1, 0, 1],
        "transformer_depth_output": [1, 0, 0, 1, 1],
        "transformer_depth_middle": 1,
    },
}


LAYERS = (ResBlock, SpatialTransformer)


def joint(norm, args, _):
    """A GroupNorm over all frames of each video."""
    x = args[0].unflatten(0, (-1, norm.frames)).transpose(1, 2)
    y = F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    return y.transpose(1, 2).flatten(0, 1)


def by_hooks(unet, motion, frames, run):
    """The UNet's output with modules as hooks behind the layers that they follow."""
    config, modules, handles = motion.config, dict(motion.motion_modules()), []

    def hook(layer, work):
        handles.append(layer.register_forward_hook(work))

    def follow(layer, transformer):
        kinds = {"heads": 8, "groups": 32, "joint": config.module_groupnorm == "joint"}
        hook(layer, lambda _, __, x: reference(transformer, x, frames, **kinds))

    def behind(blocks, side, per_level):
        names = [
            f"{side}.{level}.motion_modules.{n}"
            for level, count in enumerate(per_level)
            for n in range(count)
        ]
        layers = [[one for one in block if isinstance(one, LAYERS)] for block in blocks]
        for name, layer in zip(names, [found[-1] for found in layers if found], strict=True):
            follow(layer, modules[name].temporal_transformer)

    counts = unet.num_res_blocks
    behind(unet.input_blocks, "down_blocks", counts)
    behind(unet.output_blocks, "up_blocks", [count + 1 for count in reversed(counts)])
    if config.mid_block:
        follow(unet.middle_block[1], modules["mid_block.motion_modules.0"].temporal_transformer)
    if config.unet_groupnorm == "joint":
        norms = [unet.out[0]]
        for block in filter(lambda one: isinstance(one, ResBlock), unet.modules()):
            norms += [block.in_layers[0], block.out_layers[0]]
        for norm in norms:
            norm.frames = frames
            hook(norm, joint)
    try:
        return run()
    finally:
        for handle in handles:
            handle.remove()


slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("videos", "frames"), [(2, 3), pytest.param(1, 8, marks=slow), pytest.param(1, 1, marks=slow)]
)
@pytest.mark.parametrize("generation", ["v1", "v2", "v3", "sdxl", "hotshotxl", "animatelcm", "pia"])
@pytest.mark.parametrize("shape", ["like SDXL", pytest.param("96 wide", marks=slow)])
def test_any_unet_with_any_frames(shape, generation, videos, frames):
    unet = small_unet(**SHAPES[shape]).double()
    unet.dtype = torch.float64  # rounding grows in random layers; it is the order of work that is tested
    motion = motion_for(unet, generation).double()
    generator = torch.Generator().manual_seed(3)
    x, context, y = (
        torch.randn(*size, generator=generator, dtype=torch.float64)
        for size in ((videos * frames, 4, 8, 12), (videos, 5, unet_text(unet)), (videos * frames, 24))
    )
    more = {"y": y} if "adm_in_channels" in SHAPES[shape] else {}

    def run(motions=()):
        return run_frames(unet, x, torch.tensor([421.0]), context, motions, **more)

    got = run([(motion, MotionCall(frames))])
    assert relative_error(got, run()) > 1e-3
    with torch.no_grad():
        wanted = by_hooks(unet, motion, frames, run)
    assert relative_error(got, wanted) < 1e-6


def unet_text(unet):
    """Width of the prompt that a UNet reads."""
    (one, *_) = (layer for layer in unet.modules() if isinstance(layer, SpatialTransformer))
    return one.transformer_blocks[0].attn2.to_k.in_features
