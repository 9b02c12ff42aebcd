"""CameraCtrl's pose encoder (He et al., ICLR 2025): rays of pixels to features for the motion modules.

Per level two times a residual block and a temporal one (attention, feed-forward). The feature of a level
goes into the first attention of the motion modules of that level, down and up, through a layer of each
module's own (:class:`motion_core.module.call.CameraMerge`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..clips.context import ContextOptions
from ..clips.views import views_of
from ..module.call import CameraMerge, MotionCall, View
from ..module.config import ModuleShape
from ..module.layers import (
    CHUNK_VALUES,
    MAX_SEQUENCES_TIMES_HEADS,
    TemporalBlock,
    frames_of_pixels,
    pixels_of_frames,
)
from ..module.values import Value
from .image_encoder import FeatureBlock, even_size

SHRINK = 8
"""Pixels of a latent's pixel, each way."""
MERGE_KEY = re.compile(
    r"((?:down_blocks\.\d+|up_blocks\.\d+|mid_block)\.motion_modules\.\d+)\..*attention_blocks\.0\."
    r"processor\.qkv_merge\.(weight|bias)$"
)
PREFIX = "encoder_"


class PoseEncoder(nn.Module):
    """Rays to features, one for each level.

    Args:
        widths: channels of the levels.
        channels: of the rays, 64 pixels together; 384 as released.
        pe_length: frames that attend to each other; longer clips do so in windows.
        blocks_per_level: 2 as released.
    """

    def __init__(
        self,
        widths: Sequence[int],
        channels: int = 6 * SHRINK**2,
        pe_length: int = 16,
        blocks_per_level: int = 2,
        *,
        num_heads: int = 8,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.pe_length, self.num_heads = pe_length, num_heads
        self.encoder_conv_in = operations.Conv2d(channels, widths[0], 3, padding=1, **factory)
        self.encoder_down_conv_blocks = nn.ModuleList()
        self.encoder_down_attention_blocks = nn.ModuleList()
        before = widths[0]
        for width in widths:
            shape = ModuleShape(width, width, 1, 1, 4 * width, pe_length)
            pairs = [
                (
                    FeatureBlock(before if first else width, width, operations, factory),
                    TemporalBlock(shape, num_heads, False, operations, factory),
                )
                for first in (True, *(False,) * (blocks_per_level - 1))
            ]
            self.encoder_down_conv_blocks.append(nn.ModuleList(pair[0] for pair in pairs))
            self.encoder_down_attention_blocks.append(nn.ModuleList(pair[1] for pair in pairs))
            before = width

    def forward(self, rays: torch.Tensor) -> list[torch.Tensor]:
        """``rays`` (F, 6, H, W) of the whole clip, sides multiples of 8 -> ``(F, width, h, w)`` per level."""
        frames = rays.shape[0]
        call = MotionCall(frames, views=clip_views(frames, self.pe_length))
        h = self.encoder_conv_in(F.pixel_unshuffle(rays, SHRINK))
        features = []
        levels = zip(self.encoder_down_conv_blocks, self.encoder_down_attention_blocks, strict=True)
        for level, (convolutions, attentions) in enumerate(levels):
            if level:
                h = F.avg_pool2d(even_size(h), 2)
            for convolution, attention in zip(convolutions, attentions, strict=True):
                h = convolution(h)
                size = h.shape[-2:]
                # Pixels do not know each other: in parts, so that a long clip's need no more memory.
                parts = frames_of_pixels(h, frames).split(self._sequences(frames, h.shape[1]))
                h = pixels_of_frames(torch.cat([attention(part, call) for part in parts]), *size)
            features.append(h)
        return features

    def _sequences(self, frames: int, width: int) -> int:
        """Pixels that one attention works on at a time."""
        return max(1, min(CHUNK_VALUES // (8 * width * frames), MAX_SEQUENCES_TIMES_HEADS // self.num_heads))


class CameraModel(nn.Module):
    """All of a CameraCtrl file: the encoder, and a layer for each motion module, by the module's name."""

    def __init__(self, encoder: PoseEncoder, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.encoder = encoder
        self.names = tuple(layers)
        self.merges = nn.ModuleList(layers.values())

    @property
    def layers(self) -> dict[str, nn.Module]:
        """The layer of each motion module."""
        return dict(zip(self.names, self.merges, strict=True))

    @property
    def widths(self) -> dict[str, int]:
        """Channels by motion module."""
        return {name: layer.out_features for name, layer in self.layers.items()}

    def get_dtype(self) -> torch.dtype:
        """Type of the weights, as ComfyUI asks for it."""
        return next(self.parameters()).dtype


def clip_views(frames: int, length: int) -> tuple[View, ...]:
    """Windows for clips that are longer than the position table, each half covered by the next."""
    options = ContextOptions(length=length, overlap=length // 2, schedule="standard_static", fuse="pyramid")
    return views_of(options, frames)


def merge_layers(
    state: Mapping[str, torch.Tensor], *, operations: Any = nn, dtype: torch.dtype | None = None
) -> dict[str, nn.Module]:
    """The layer of each motion module, by the module's name."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in state.items():
        match = MERGE_KEY.search(key)
        if match:
            found.setdefault(match[1], {})[match[2]] = value
    layers = {}
    for name, parts in found.items():
        if set(parts) != {"weight", "bias"}:
            raise ValueError(f"The CameraCtrl file lacks a part of {name}'s qkv_merge. Download it again.")
        layer = operations.Linear(*reversed(parts["weight"].shape), dtype=dtype)
        layer.load_state_dict(parts)
        layers[name] = layer.eval()
    if not layers:
        raise ValueError("The file holds no qkv_merge layers: it is no whole CameraCtrl file.")
    return layers


def pose_encoder_for(state: Mapping[str, torch.Tensor], **options: Any) -> PoseEncoder:
    """An encoder with the sizes and weights of a file's tensors.

    Raises:
        ValueError: it lacks tensors or has others.
    """
    own = {key: value for key, value in state.items() if key.startswith(PREFIX)}
    tables = [value for key, value in own.items() if key.endswith("pos_encoder.pe")]
    own = {key: value for key, value in own.items() if not key.endswith("pos_encoder.pe")}
    places = {
        (int(m[1]), int(m[2]))
        for key in own
        if (m := re.match(r"encoder_down_conv_blocks\.(\d+)\.(\d+)\.", key))
    }
    try:
        levels = 1 + max(level for level, _ in places)
        blocks = 1 + max(block for _, block in places)
        widths = [
            own[f"encoder_down_conv_blocks.{level}.0.block1.weight"].shape[0] for level in range(levels)
        ]
        channels = own["encoder_conv_in.weight"].shape[1]
    except (KeyError, ValueError) as error:
        raise ValueError("The file's pose encoder is incomplete. Download it again.") from error
    length = min((table.shape[-2] for table in tables), default=16)
    sizes = (widths, channels, length, blocks)
    layout = PoseEncoder(*sizes, device="meta").state_dict()
    expected = {key: tuple(value.shape) for key, value in layout.items()}
    found = {key: tuple(value.shape) for key, value in own.items()}
    if expected != found:
        odd = sorted(set(expected.items()) ^ set(found.items()))[0]
        raise ValueError(f"The file's pose encoder is not laid out as CameraCtrl's: {odd[0]} {odd[1]}.")
    encoder = PoseEncoder(*sizes, **options)
    encoder.load_state_dict(own)
    return encoder.eval()


def cameras(
    features: Sequence[torch.Tensor], layers: Mapping[str, nn.Module], strength: Value = 1.0
) -> dict[str, CameraMerge]:
    """What each motion module is told: the feature of its level, for the frames of one call."""
    merges = {}
    for name, layer in layers.items():
        side, level = name.split(".")[:2]
        place = int(level) if side == "down_blocks" else len(features) - 1 - int(level)
        merges[name] = CameraMerge(features[place], layer, strength)
    return merges
