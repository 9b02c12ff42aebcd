"""AnimateLCM-I2V's image encoder (Wang et al. 2024): a reference picture as features of the UNet's levels.

``h = conv(latent) + motion_scale * positions``, then per level two blocks ``h + conv1(relu(conv3(h)))``;
levels beyond the first halve the size before. The feature of a level is added to the UNet in front of the
level's second motion module, and so goes into its skip as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..module.layers import sinusoidal_positions

PREFIX = "img_encoder."
DEFAULT_MOTION_SCALE = 0.8
"""As released; 0 asks for a still clip, up to 1.5 for more motion."""


class FeatureBlock(nn.Module):
    """A residual block; the inner convolution sees 3 x 3 pixels."""

    def __init__(self, channels: int, width: int, operations: Any, factory: dict) -> None:
        super().__init__()
        if channels != width:
            self.in_conv = operations.Conv2d(channels, width, 1, **factory)
        self.block1 = operations.Conv2d(width, width, 3, padding=1, **factory)
        self.block2 = operations.Conv2d(width, width, 1, **factory)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if hasattr(self, "in_conv"):
            x = self.in_conv(x)
        return x + self.block2(F.relu(self.block1(x)))


class ImageEncoder(nn.Module):
    """Reference latents to features, one for each level.

    Args:
        widths: channels of the levels.
        latent_channels: of the reference.
        blocks_per_level: residual blocks, 2 as released.
    """

    def __init__(
        self,
        widths: Sequence[int],
        latent_channels: int = 4,
        blocks_per_level: int = 2,
        *,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.widths = tuple(widths)
        self.blocks_per_level = blocks_per_level
        self.conv_in = operations.Conv2d(latent_channels, widths[0], 3, padding=1, **factory)
        channels = [widths[0]] + [width for width in widths for _ in range(blocks_per_level)]
        self.body = nn.ModuleList(
            FeatureBlock(before, width, operations, factory)
            for before, width in zip(channels, channels[1:], strict=False)
        )

    def forward(
        self, reference: torch.Tensor, frames: int, motion_scale: float = DEFAULT_MOTION_SCALE
    ) -> list[torch.Tensor]:
        """Features of every level, ``(F, width, h, w)``.

        Args:
            reference: latents in model scale, ``(1 or F, C, H, W)``; one is shown at all frames.
            frames: of the clip.
            motion_scale: share of the frames' positions.

        Raises:
            ValueError: neither one reference nor one per frame.
        """
        if reference.shape[0] not in (1, frames):
            raise ValueError(
                f"There are {reference.shape[0]} reference pictures for {frames} frames; expected one, or "
                "one per frame."
            )
        h = self.conv_in(reference)
        positions = sinusoidal_positions(frames, h.shape[1])[0].to(h)
        h = h + motion_scale * positions[:, :, None, None]
        features = []
        for index, block in enumerate(self.body):
            level, first = divmod(index, self.blocks_per_level)
            if level and not first:
                h = F.avg_pool2d(even_size(h), 2)
            h = block(h)
            if first == self.blocks_per_level - 1:
                features.append(h)
        return features


def feature_places(modules: Iterable[str]) -> list[str]:
    """Of a motion model's modules, those in front of which features are added: the last one of every level on
    the way down (of two, in SD1.5)."""
    last: dict[int, str] = {}
    for name in sorted(modules):
        if match := re.match(r"down_blocks\.(\d+)\.", name):
            last[int(match[1])] = name
    return [last[level] for level in sorted(last)]


def features_by_module(
    features: Sequence[torch.Tensor], modules: Iterable[str], weights: Sequence[float] | None = None
) -> dict[str, torch.Tensor]:
    """Each level's feature, times its weight, under the motion module in front of which it is added."""
    weights = weights or [1.0] * len(features)
    return {
        name: feature if weight == 1.0 else weight * feature
        for name, feature, weight in zip(feature_places(modules), features, weights, strict=True)
    }


def encoder_for(state: Mapping[str, torch.Tensor], **options: Any) -> ImageEncoder:
    """An encoder with the sizes and weights of a file's tensors, whose names begin with ``img_encoder.``.

    Raises:
        ValueError: it lacks tensors or has others.
    """
    own = {key.removeprefix(PREFIX): value for key, value in state.items() if key.startswith(PREFIX)}
    blocks = sorted({int(m[1]) for key in own if (m := re.match(r"body\.(\d+)\.", key))})
    if "conv_in.weight" not in own or blocks != list(range(len(blocks))) or not blocks or len(blocks) % 2:
        raise ValueError("The file's image encoder is incomplete. Download it again.")
    widths = [own[f"body.{index}.block1.weight"].shape[0] for index in blocks[::2]]
    sizes = (widths, own["conv_in.weight"].shape[1])
    layout = ImageEncoder(*sizes, device="meta").state_dict()
    expected = {key: tuple(value.shape) for key, value in layout.items()}
    found = {key: tuple(value.shape) for key, value in own.items()}
    if expected != found:
        odd = sorted(set(expected.items()) ^ set(found.items()))[0]
        raise ValueError(f"The file's image encoder is not laid out as AnimateLCM-I2V's: {odd[0]} {odd[1]}.")
    encoder = ImageEncoder(*sizes, **options)
    encoder.load_state_dict(own)
    return encoder.eval()


def even_size(x: torch.Tensor) -> torch.Tensor:
    """Padded at the bottom and right to an even size, as the UNet rounds odd sizes up."""
    return F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2), mode="replicate")
