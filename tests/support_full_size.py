"""Full-size models with random weights, for benchmarks and slow tests."""

from __future__ import annotations

import comfy.ops
import torch
from animatediff_flipbook.motion_core.module.config import MotionModuleConfig
from animatediff_flipbook.motion_core.module.model import MotionModel
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

SD15 = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
    "context_dim": 768,
    "num_heads": 8,
    "num_head_channels": -1,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "legacy": False,
}
"""ComfyUI's arguments for SD1.5's UNet."""


SDXL = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
    "context_dim": 2048,
    "num_head_channels": 64,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "legacy": False,
}
"""ComfyUI's arguments for SDXL's UNet."""

SDXL_SHALLOW = {
    **SDXL,
    "transformer_depth": [0, 0, 1, 1, 1, 1],
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 1, 1, 1],
    "transformer_depth_middle": 1,
}
"""SDXL's widths with one transformer where it has up to ten: a third of the weights, the same activations."""


def sd15_unet(dtype: torch.dtype = torch.float32, device: str = "cpu") -> UNetModel:
    """SD1.5's UNet, on the CPU with small random weights."""
    unet = UNetModel(**SD15, dtype=dtype, device=device, operations=comfy.ops.disable_weight_init).eval()
    return fill(unet) if device == "cpu" else unet


def motion_model(unet: UNetModel, dtype: torch.dtype = torch.float32, generation: str = "v3") -> MotionModel:
    """A motion module for it, with small random weights."""
    config = MotionModuleConfig.for_unet(unet, generation)
    return fill(MotionModel(config, operations=comfy.ops.manual_cast, dtype=dtype)).eval()


def fill(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random weights of a size that keeps activations near 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, parameter[0].numel() ** -0.5, generator=generator)
            else:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    return model.requires_grad_(False)
