"""A small SDXL with random weights and its two motion modules, as files in the published forms."""

from pathlib import Path

import comfy.ops
import torch
from animatediff_flipbook.demo.tiny_family import build
from animatediff_flipbook.demo.tiny_family.model import TinySDClipModel
from animatediff_flipbook.demo.tiny_family.xl import ADM_WIDTH, TinyXL
from animatediff_flipbook.motion_core.files.checkpoint import motion_state_dict
from animatediff_flipbook.tests.support import initialise, motion_for
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from safetensors.torch import save_file

SHAPE = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 1, 1, 2, 2],
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2],
    "transformer_depth_middle": 2,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "legacy": False,
    "num_head_channels": 64,
    "num_classes": "sequential",
    "adm_in_channels": ADM_WIDTH,
    "model_channels": TinyXL.unet_config["model_channels"],
    "context_dim": TinyXL.unet_config["context_dim"],
}
"""ComfyUI's arguments for the UNet: SDXL's with smaller widths and fewer transformers."""


def xl_unet() -> UNetModel:
    """The UNet of the tiny family's SDXL."""
    return initialise(UNetModel(**SHAPE, operations=comfy.ops.disable_weight_init), 2).eval()


def write_xl_checkpoint(path: Path) -> Path:
    """A checkpoint that ComfyUI takes for the tiny family's SDXL, by SDXL's key names."""
    networks = build.build_networks()
    options = {"custom_operations": comfy.ops.disable_weight_init}
    text = [initialise(TinySDClipModel(dtype=torch.float32, model_options=options), seed) for seed in (3, 4)]
    parts = {
        "model.diffusion_model.": xl_unet(),
        "conditioner.embedders.0.": text[0],
        "conditioner.embedders.1.": text[1],
        "first_stage_model.": networks.vae,
    }
    state = {prefix + key: v.half() for prefix, part in parts.items() for key, v in part.state_dict().items()}
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return path


def write_xl_module(path: Path) -> Path:
    """An SDXL beta module by the original's names."""
    torch.save(motion_state_dict(motion_for(xl_unet(), "sdxl", fused_qkv=False)), path)
    return path


def hotshot_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The original's names of a motion module to HotshotXL's."""
    return {
        key.replace("motion_modules", "temporal_attentions")
        .replace(".temporal_transformer.", ".")
        .replace("pos_encoder.pe", "pos_encoder.positional_encoding"): value.contiguous()
        for key, value in state.items()
        if not key.startswith("mid_block")
    }


def write_hotshot_module(path: Path) -> Path:
    """A HotshotXL module."""
    save_file(hotshot_names(motion_state_dict(motion_for(xl_unet(), "hotshotxl", fused_qkv=False))), path)
    return path
