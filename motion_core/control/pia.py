"""PIA (Zhang et al., CVPR 2024): a reference picture in the UNet's input, with a value per frame that says
how near the frame stays to it.

The input of the first convolution is ``latent 4 | value 1 | reference 4``. A convolution is linear, so the
part of the five added channels is computed by itself and added behind the base's own convolution: the base
keeps its layer, weights, patches and bias.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..module.injection import LayerOfOneCall, entered
from ..module.unet import plain

SETTINGS: dict[str, tuple[float, ...]] = {
    "animation small": (1.0, 0.9, 0.85, 0.85, 0.85, 0.8),
    "animation medium": (1.0, 0.8, 0.8, 0.8, 0.79, 0.78, 0.75),
    "animation large": (1.0, 0.8, *(0.7,) * 8, 0.6, 0.5, 0.5),
    "loop small": (1.0, 0.9, 0.85, 0.85, 0.85, *(0.8,) * 7, 0.85, 0.85, 0.9, 1.0),
    "loop medium": (1.0, 0.8, 0.8, 0.8, 0.79, 0.78, *(0.75,) * 5, 0.78, 0.79, 0.8, 0.8, 1.0),
    "loop large": (1.0, 0.8, 0.7, 0.7, 0.7, 0.7, 0.6, 0.5, 0.5, 0.6, 0.7, 0.7, 0.7, 0.7, 0.8, 1.0),
    "style large": (0.5, 0.2),
    "style medium": (0.5, 0.4, 0.4, 0.4, 0.35, 0.35, 0.3, 0.25, 0.2),
    "style small": (0.5, 0.4, 0.4, 0.4, 0.35, 0.3),
}
"""Published motion settings: values by distance from the reference frame. ``small`` moves little; loops are
lists for 16 frames."""

LOOP_HALVES: dict[str, tuple[float, ...]] = {
    "loop small": SETTINGS["animation small"],
    "loop medium": SETTINGS["animation medium"],
    "loop large": (1.0, 0.8, 0.7, 0.7, 0.7, 0.7, 0.6, 0.5),
}
"""First halves of loops of other lengths, which run back the way they came."""

LATENT_CHANNELS = 4
ADDED_CHANNELS = 5
FIRST_CONVOLUTION = "0"
"""Its key in the UNet's first block."""


def frame_values(setting: str | Sequence[float], frames: int, reference_frame: int = 0) -> torch.Tensor:
    """How near each frame stays to the reference, ``(F,)``.

    Args:
        setting: a key of :data:`SETTINGS`, or values by distance from the reference frame, of which the last
            goes on.
        frames: of the whole clip.
        reference_frame: which frame the reference is; negative ones count from the end.

    Raises:
        ValueError: an unknown setting, no values, or a frame outside of the clip.
    """
    if not -frames <= reference_frame < frames:
        raise ValueError(f"The reference is frame {reference_frame} of a clip of {frames} frames.")
    if isinstance(setting, str):
        if setting not in SETTINGS:
            raise ValueError(f"Unknown motion setting {setting!r}; expected one of {', '.join(SETTINGS)}.")
        values = SETTINGS[setting]
        if setting in LOOP_HALVES and frames != len(values):
            values = _mirrored(LOOP_HALVES[setting], frames)
    else:
        values = tuple(setting)
    if not values:
        raise ValueError("A motion setting needs at least one value.")
    last = len(values) - 1
    centre = reference_frame % frames
    return torch.tensor([values[min(abs(frame - centre), last)] for frame in range(frames)])


def input_channels(values: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """The five added channels, ``(F, 5, h, w)``.

    Args:
        values: ``(F,)``, or masks ``(F, h, w)`` at the size of the reference.
        reference: latents in model scale, ``(1 or F, 4, h, w)``.
    """
    height, width = reference.shape[-2:]
    masks = values.view(-1, 1, 1, 1) if values.ndim == 1 else values.unsqueeze(1)
    masks = masks.to(reference).expand(-1, 1, height, width)
    return torch.cat([masks, reference.expand(masks.shape[0], -1, -1, -1)], dim=1)


def input_layer(weight: torch.Tensor, *, operations: Any = nn, dtype: torch.dtype | None = None) -> nn.Module:
    """The part of PIA's first convolution that belongs to the added channels.

    Args:
        weight: of the whole convolution, ``(C0, 9, k, k)``; what it has for
            the latent is the base's business.
        operations: where layers come from.
        dtype: of the weights.

    Raises:
        ValueError: the convolution has other inputs.
    """
    if weight.ndim != 4 or weight.shape[1] != LATENT_CHANNELS + ADDED_CHANNELS or not weight.shape[-1] % 2:
        raise ValueError(
            f"PIA's input convolution has the shape {tuple(weight.shape)}, expected (width, 9, 3, 3)."
        )
    own = weight[:, LATENT_CHANNELS:].contiguous()
    size = own.shape[-1]
    layer = operations.Conv2d(
        ADDED_CHANNELS, own.shape[0], size, padding=size // 2, bias=False, dtype=dtype, device="meta"
    )
    layer.load_state_dict({"weight": own.to(dtype)}, assign=True)
    layer.latent_part = weight[:, :LATENT_CHANNELS].to(own.dtype if dtype is None else dtype, copy=True)
    return layer.requires_grad_(False).eval()


def whole_convolution(layer: nn.Module, own: torch.Tensor) -> torch.Tensor:
    """The weight of PIA's whole first convolution ``(C0, 9, k, k)``, as files hold it.

    Args:
        layer: of :func:`input_layer`.
        own: its weight, or what that has become.
    """
    return torch.cat([layer.latent_part.to(own), own], dim=1)


class AddedInput(LayerOfOneCall):
    """Behind the base's first convolution: adds what the added channels give."""

    def __init__(self, layer: nn.Module, channels: torch.Tensor) -> None:
        super().__init__()
        object.__setattr__(self, "layer", layer)  # no child: it belongs to the motion model
        self.channels = channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` (B*F, C0, h, w)."""
        if self.is_foreign():
            return x
        added = self.layer(self.channels.to(x))
        return (x.unflatten(0, (-1, added.shape[0])) + added).flatten(0, 1)


def check_base(unet: nn.Module, layer: nn.Module) -> None:
    """Refuse a base that PIA's convolution does not fit.

    Raises:
        ValueError: says what is there and what to load.
    """
    there = _first_convolution(unet).weight.shape[:2]
    if tuple(there) != (layer.out_channels, LATENT_CHANNELS):
        raise ValueError(
            f"PIA's input convolution makes {layer.out_channels} channels from latents of {LATENT_CHANNELS}, "
            f"and this base's {there[0]} from {there[1]}. Load an SD1.5 checkpoint that is not for "
            "inpainting."
        )


@contextmanager
def with_reference(unet: nn.Module, layer: nn.Module, channels: torch.Tensor) -> Iterator[None]:
    """Run a UNet with a reference in its input.

    Args:
        unet: ComfyUI's ``UNetModel`` with 4 input channels.
        layer: from :func:`input_layer`.
        channels: from :func:`input_channels`, of the frames of this call (or of all its videos).

    Raises:
        ValueError: the convolution is not that of this base.
    """
    check_base(unet, layer)
    added = AddedInput(layer, channels)
    with entered(plain(plain(unet).input_blocks[0]), FIRST_CONVOLUTION, added):
        yield


def _first_convolution(unet: nn.Module) -> nn.Module:
    return plain(plain(unet).input_blocks[0])._modules[FIRST_CONVOLUTION]


def _mirrored(values: Sequence[float], frames: int) -> tuple[float, ...]:
    """A loop: ``values`` on, then back to the first."""
    half = [values[min(index, len(values) - 1)] for index in range(frames // 2 + 1)]
    middle = half[frames // 2 :] if frames % 2 else []
    return (*half[: frames // 2], *middle, *reversed(half[: frames // 2]))
