"""Golden tensors of the families after v1-v3: where they are, and the models that they belong to.

The small ones lie in tests/golden. The others are looked for in the folder that the environment variable
FLIPBOOK_GOLDEN names, or in ``shared/golden`` beside the repository; tests of those that are in neither are
skipped.
"""

import json
import os
from pathlib import Path

import comfy.ops
import pytest
import torch
from animatediff_flipbook.motion_core.files.checkpoint import load_motion_module
from animatediff_flipbook.motion_core.module.injection import inserted
from animatediff_flipbook.tests.support import GOLDEN, fold, unfold
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from safetensors.torch import load_file

MORE_GOLDEN = Path(os.environ.get("FLIPBOOK_GOLDEN") or GOLDEN.parents[2] / "shared" / "golden")
FP32 = 3e-6


def golden_file(name: str) -> Path:
    for folder in (GOLDEN, MORE_GOLDEN):
        if (folder / name).is_file():
            return folder / name
    pytest.skip(f"{name} is neither in tests/golden nor in {MORE_GOLDEN}")


def tensors(name: str) -> dict[str, torch.Tensor]:
    return {key: value.float() for key, value in load_file(golden_file(name)).items()}


def meta(name: str) -> dict:
    return json.loads(golden_file(f"{name}/meta.json").read_text())


def base_unet(family: str) -> UNetModel:
    """The base of ``sd``, ``sdxl``, ``pia`` or ``animatelcm`` in fp32."""
    config = json.loads(golden_file(f"{family}/unet_config.json").read_text())
    unet = UNetModel(**config, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    weights = tensors(f"{family}/unet.safetensors")
    unet.load_state_dict({k.removeprefix("model.diffusion_model."): v for k, v in weights.items()})
    return unet.eval()


def v3_module():
    """The motion module of ``sd``."""
    return load_motion_module(golden_file("sd/v3_motion_module.safetensors"), dtype=torch.float32)


def run_frames(unet, x, timestep, context, motions=(), **more) -> torch.Tensor:
    """One UNet call as ComfyUI makes it: ``x`` (B*F, C, h, w), ``context`` (B, tokens, width)."""
    context = context.repeat_interleave(x.shape[0] // context.shape[0], dim=0)
    with torch.inference_mode(), inserted(unet, motions):
        return unet(
            x, timestep.float().expand(x.shape[0]), context=context, transformer_options={}, **more
        ).float()


def run_videos(unet, io, motions=(), **more) -> torch.Tensor:
    """The authors' layout, ``(B, C, F, h, w)``."""
    y = run_frames(unet, fold(io["x"]), io["timestep"], io["context"], motions, **more)
    return unfold(y, io["x"].shape[0])
