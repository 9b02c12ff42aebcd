"""What one UNet call asks of its motion modules.

``B`` videos of ``F`` frames; a UNet feature is ``(B*F, C, H, W)``, and its pixels are ``N = B H W`` sequences
of frames, ``(N, F, C)``. Values are numbers, rows per frame, or masks (:mod:`motion_core.module.values`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from einops import rearrange
from torch import nn

from .low_rank import LowRank
from .values import Value, at_size, is_number, rows_per_video, times

Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]
"""``(q, k, v, scale) -> out``, each ``(N, heads, F, D)``; ``scale`` multiplies the logits."""


@dataclass(frozen=True)
class BlockValues:
    """Values for some of the modules, on top of those for all."""

    block: str
    """Modules by the beginning of their name: ``up_blocks``, ``down_blocks.0``,
    ``down_blocks.0.motion_modules.1``."""
    effect: Value | None = None
    scales: tuple[Value | None, ...] | None = None
    """One for each attention; None is 1."""

    def names(self, module: str) -> bool:
        """Whether a module, by its full name, is one of those meant."""
        return f"{module}.".startswith(f"{self.block}.")


@dataclass(frozen=True)
class View:
    """A window inside temporal attention: frames that attend to each other, and what each of them counts."""

    frames: tuple[int, ...]
    weights: tuple[float, ...]
    """Of all views that hold a frame these add up to 1."""


@dataclass(frozen=True)
class CameraMerge:
    """What CameraCtrl adds to a module's first attention: ``z + strength * layer(z + feature)``."""

    feature: torch.Tensor
    """Of the camera at the module's level: ``(F or B*F, C, H, W)``, later ``(N or HW, F, C)``."""
    layer: Callable[[torch.Tensor], torch.Tensor]
    strength: Value = 1.0

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        """``z`` (N, F, C), normalised, with its positions."""
        return torch.add(z, self.layer(z + self.feature) * self.strength)


class OnDevice:
    """Numbers of a call as tensors, put on a device once, however many modules ask for them."""

    def __init__(self) -> None:
        self._made: dict[tuple, torch.Tensor] = {}

    def __call__(self, numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """``(len(numbers),)``; not to be written to."""
        key = (numbers, dtype, device)
        if key not in self._made:
            self._made[key] = torch.tensor(numbers, dtype=dtype, device=device)
        return self._made[key]


@dataclass(frozen=True)
class MotionCall:
    """What one UNet call asks of its motion modules."""

    frames: int
    """Frames per video in the batch."""
    scale: Value | tuple[Value, ...] = 1.0
    """Factor on the logits of temporal attention: the amount of motion. One for all attentions of a module,
    or one for each."""
    effect: Value = 1.0
    """Blend of a module's input (0) and output (1); may exceed 1."""
    positions: tuple[float, ...] | None = None
    """Row of the position table for each place in a sequence, between two rows where it is no whole number;
    by default 0, 1, 2, ..."""
    position_factor: float = 1.0
    """Factor on the rows of the position table."""
    attention: Attention | None = None
    """The attention to use; by default torch's."""
    blocks: tuple[BlockValues, ...] = ()
    """Values for some modules. For effect and for scales, the first entry that names a module and has one
    counts; it multiplies the value for all."""
    views: tuple[View, ...] = ()
    """Windows inside temporal attention; without any, all frames attend to each other."""
    features: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """By module: what is added to the UNet's feature in front of it, ``(F or B*F, C, H, W)``
    (AnimateLCM-I2V)."""
    cameras: Mapping[str, CameraMerge] = field(default_factory=dict)
    """By module: what its first attention is told of the camera (CameraCtrl)."""
    camera: CameraMerge | None = None
    """Of the module at hand."""
    loras: Mapping[nn.Module, tuple[LowRank, ...]] = field(default_factory=dict)
    """By linear layer: MotionLoRAs that are not part of the weights."""
    lora_strengths: tuple[Value, ...] = ()
    """Of each MotionLoRA in :attr:`loras`, by its number; a value per frame works on that frame's rows."""
    name: str = "The motion module"
    """Of the motion model, for messages."""
    on_device: OnDevice = field(default_factory=OnDevice, compare=False, repr=False)
    """What the call's modules share; it ends with the call."""

    @property
    def is_off(self) -> bool:
        """Whether no module takes part."""
        return is_number(self.effect) and self.effect == 0.0

    def for_module(self, name: str) -> MotionCall:
        """What is asked of one module."""
        if not self.blocks and not self.cameras:
            return self
        named = [values for values in self.blocks if values.names(name)]
        effect = next((values.effect for values in named if values.effect is not None), 1.0)
        scales = next((values.scales for values in named if values.scales is not None), None)
        scale = self.scale
        if scales is not None:
            scale = tuple(
                self.scale_of(index) if own is None else times(self.scale_of(index), own)
                for index, own in enumerate(scales)
            )
        return replace(
            self,
            scale=scale,
            effect=times(self.effect, effect),
            camera=self.cameras.get(name),
            blocks=(),
            cameras={},
        )

    def scale_of(self, attention: int) -> Value:
        """The scale of one attention of a module; those beyond the last given have the last one's."""
        if isinstance(self.scale, tuple):
            return self.scale[min(attention, len(self.scale) - 1)]
        return self.scale

    def through(self, layer: nn.Module, z: torch.Tensor) -> torch.Tensor:
        """A linear layer's output for ``z`` (N, F, C), with what MotionLoRAs add to it."""
        y = layer(z)
        for one in self.loras.get(layer, ()):
            y = one.added_to(y, z, self.lora_strengths[one.number])
        return y

    def laid_out(self, x: torch.Tensor) -> MotionCall:
        """This call with everything that differs between frames or places as sequences of pixels are:
        ``(1 or N, 1, F, 1)`` for scales, ``(1 or N, F, 1)`` for strengths, ``(1 or N, F, C)`` for the camera.
        ``x`` (B*F, C, H, W)."""
        scales = self.scale if isinstance(self.scale, tuple) else (self.scale,)
        if self.camera is None and all(is_number(value) for value in (*scales, *self.lora_strengths)):
            return self
        scale = tuple(s if is_number(s) else _by_pixel(s, x, self.frames).unsqueeze(1) for s in scales)
        strengths = tuple(s if is_number(s) else _by_pixel(s, x, self.frames) for s in self.lora_strengths)
        camera = self.camera
        if camera is not None:
            feature = rows_per_video(camera.feature.to(x), x.shape[0] // self.frames, self.frames)
            feature = feature.expand(x.shape[0] // self.frames, *feature.shape[1:])
            strength = camera.strength
            camera = replace(
                camera,
                feature=rearrange(feature, "b f c h w -> (b h w) f c"),
                strength=strength if is_number(strength) else _by_pixel(strength, x, self.frames),
            )
        return replace(self, scale=scale, camera=camera, lora_strengths=strengths)

    def of_pixels(self, first: int, count: int) -> MotionCall:
        """The part of a laid-out call that belongs to ``count`` pixels."""
        return self._cut(lambda value: value[first : first + count] if value.shape[0] > 1 else value)

    def of_view(self, view: View, device: torch.device) -> MotionCall:
        """The part of a laid-out call that belongs to a view, whose positions start anew."""
        frames = self.on_device(view.frames, torch.int64, device)
        cut = self._cut(lambda value: value.index_select(-2, frames))
        positions = None if self.positions is None else self.positions[: len(view.frames)]
        return replace(cut, frames=len(view.frames), positions=positions, views=())

    def _cut(self, part: Callable[[torch.Tensor], torch.Tensor]) -> MotionCall:
        if not isinstance(self.scale, tuple):
            return self

        def of(value: Any) -> Any:
            return part(value) if isinstance(value, torch.Tensor) else value

        camera = self.camera
        if camera is not None:
            camera = replace(camera, feature=part(camera.feature), strength=of(camera.strength))
        strengths = tuple(map(of, self.lora_strengths))
        return replace(self, scale=tuple(map(of, self.scale)), camera=camera, lora_strengths=strengths)


def effect_of_frames(effect: torch.Tensor, x: torch.Tensor, frames: int) -> torch.Tensor:
    """A value as a factor on a UNet feature ``(B*F, C, H, W)``: ``(B*F, 1, 1 or H, 1 or W)``."""
    if effect.ndim == 3:
        effect = at_size(effect.to(x), *x.shape[-2:])
    videos = x.shape[0] // frames
    rows = rows_per_video(effect.to(x), videos, frames)
    rows = rows.expand(videos, *rows.shape[1:]).flatten(0, 1)
    return rows.view(-1, 1, 1, 1) if rows.ndim == 1 else rows.unsqueeze(1)


def _by_pixel(value: torch.Tensor, x: torch.Tensor, frames: int) -> torch.Tensor:
    """A value for sequences of frames, ``(1 or N, F, 1)``."""
    videos, (height, width) = x.shape[0] // frames, x.shape[-2:]
    value = value.to(x)
    if value.ndim == 3:
        rows = rows_per_video(at_size(value, height, width), videos, frames)
        rows = rows.expand(videos, *rows.shape[1:])
        return rearrange(rows, "b f h w -> (b h w) f").unsqueeze(-1)
    rows = rows_per_video(value, videos, frames)
    if rows.shape[0] > 1:
        rows = rows.repeat_interleave(height * width, dim=0)
    return rows.unsqueeze(-1)
