"""Small files of the families that are steered by a picture or a camera, with random weights."""

from pathlib import Path

import torch
from animatediff_flipbook.motion_core.control.camera_encoder import PoseEncoder
from animatediff_flipbook.motion_core.control.image_encoder import ImageEncoder
from animatediff_flipbook.motion_core.files.checkpoint import motion_state_dict
from animatediff_flipbook.motion_core.module.unet import unet_slots
from animatediff_flipbook.tests.support import initialise, motion_for
from torch import nn


def widths_of(unet: nn.Module) -> tuple[int, ...]:
    """Channels of a UNet's levels."""
    levels = {s.name.split(".")[1]: s.channels for s in unet_slots(unet) if s.name.startswith("down_blocks.")}
    return tuple(levels[level] for level in sorted(levels))


def write_pia(path: Path, unet: nn.Module) -> Path:
    """A PIA module with its input convolution."""
    state = motion_state_dict(motion_for(unet, "pia", fused_qkv=False))
    width = unet_slots(unet)[0].channels
    state["conv_in.weight"] = 0.1 * torch.randn(width, 9, 3, 3, generator=torch.Generator().manual_seed(4))
    torch.save(state, path)
    return path


def write_image_module(path: Path, unet: nn.Module) -> Path:
    """An AnimateLCM-I2V module with its image encoder."""
    state = motion_state_dict(motion_for(unet, "animatelcm_i2v", fused_qkv=False))
    for key in [key for key in state if key.endswith("pos_encoder.pe")]:
        del state[key]  # the published file has none
    encoder = initialise(ImageEncoder(widths_of(unet)), 4)
    state |= {f"img_encoder.{key}": value for key, value in encoder.state_dict().items()}
    torch.save(state, path)
    return path


def write_camera(path: Path, unet: nn.Module) -> Path:
    """A CameraCtrl file as it is published pruned."""
    from safetensors.torch import save_file

    state = dict(initialise(PoseEncoder(widths_of(unet)), 5).state_dict())
    for name, width in motion_for(unet, "v3").config.widths.items():
        place = f"{name}.temporal_transformer.transformer_blocks.0.attention_blocks.0.processor.qkv_merge"
        layer = initialise(nn.Linear(width, width), 6)
        state |= {f"{place}.{key}": value for key, value in layer.state_dict().items()}
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return path
