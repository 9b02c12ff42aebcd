"""Clips from the trained parts, all of an arm in one batch: DDIM with guidance (Song et al., 2021; Ho &
Salimans, 2022) around ComfyUI's UNet with our motion modules in it.

Shapes: N clips of F frames, latents (N, F, 4, 8, 8).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..motion_core.files.lora import match_layers, read_lora
from ..motion_core.module.injection import inserted
from ..motion_core.module.model import MotionCall, MotionModel
from ..motion_core.schedule.beta_schedules import BetaSchedule, alphas_cumprod
from ..training.model.adapters import merge_domain_adapter
from . import base, world


@dataclass(frozen=True)
class Setup:
    """What an arm samples with."""

    base: Path
    """Of the image model."""
    motion: MotionModel | None = None
    adapter: Path | None = None
    alpha: float = 1.0
    """Strength of the adapter."""
    loras: Mapping[Path, float] = field(default_factory=dict)
    """MotionLoRAs and their strengths."""
    noise: str = "independent"
    """Of the frames: `independent`; `shared`, the same in all; `carried`, the same and moved on by half a
    pixel a frame, as Text2Video-Zero does."""
    cross_frame: bool = False
    """Whether every frame's self-attention looks at the first frame (Text2Video-Zero)."""
    schedule: BetaSchedule = base.SCHEDULE
    control: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], dict] | None = None
    """(x, timesteps, context) -> residuals, as ComfyUI hands them to the UNet."""


BASELINES = ("per_frame", "shared_noise", "cross_frame")
"""Ways to make a clip with an image model alone."""


def baseline(kind: str, image_model: Path) -> Setup:
    """One of these; the last is of Text2Video-Zero's kind."""
    alone = Setup(image_model)
    return {
        "per_frame": alone,
        "shared_noise": replace(alone, noise="shared"),
        "cross_frame": replace(alone, noise="carried", cross_frame=True),
    }[kind]


@torch.no_grad()
def sample(setup: Setup, captions: Sequence[str], seed: int, steps: int, cfg: float) -> np.ndarray:
    """Clips of the captions, (N, F, 8, 8, 3) in 0..1. Clip number n has the same noise in every setup."""
    unet = base.load_base(setup.base).diffusion_model
    if setup.adapter is not None and setup.alpha:
        merge_domain_adapter(unet, read_lora(setup.adapter), setup.alpha)
    motion = setup.motion
    if setup.loras:
        motion = copy.deepcopy(motion)  # else a second sampling would add them twice
        add_loras(motion, setup.loras)
    count, frames = len(captions), world.FRAMES
    words, guided = base.WordVectors(), cfg != 1
    texts = [*captions, *([""] * count if guided else [])]
    context = words(texts).repeat_interleave(frames, 0)
    kept = alphas_cumprod(setup.schedule).float()
    times = torch.linspace(999, 0, steps + 1).round().long().tolist()
    x = torch.cat([_noise(setup.noise, seed * 10_000 + number) for number in range(count)])
    options = {"patches": {"attn1_patch": [_first_frame]}} if setup.cross_frame else {}
    motions = [] if motion is None else [(motion, MotionCall(frames=frames))]
    with inserted(unet, motions):
        for now, then in zip(times[:-1], times[1:], strict=True):
            rows = torch.cat([x, x]) if guided else x
            t = torch.full((len(rows),), float(now))
            control = setup.control(rows, t, context) if setup.control else None
            v = unet(rows, t, context, control=control, transformer_options=options)
            if guided:
                told, free = v.chunk(2)
                v = free + cfg * (told - free)
            clean = kept[now].sqrt() * x - (1 - kept[now]).sqrt() * v
            noise = kept[now].sqrt() * v + (1 - kept[now]).sqrt() * x
            x = clean if then == 0 else kept[then].sqrt() * clean + (1 - kept[then]).sqrt() * noise
    return base.to_pixels(x.unflatten(0, (count, frames)))


def add_loras(motion: MotionModel, loras: Mapping[Path, float]) -> None:
    """Add MotionLoRAs to a motion model's weights, in place.

    Raises:
        ValueError: a LoRA has layers that the model has not.
    """
    layers = {
        name: module for name, module in motion.named_modules() if re.search(r"\.to_(q|k|v|out\.0)$", name)
    }
    for path, strength in loras.items():
        found = match_layers(read_lora(path), layers)
        if found.unmatched or not found.layers:
            raise ValueError(f"{path.name} does not fit the motion module: {found.unmatched[:1]}")
        with torch.no_grad():
            for name, layer in found.layers.items():
                factor = strength * (1.0 if layer.alpha is None else layer.alpha / layer.rank)
                layers[name].weight += factor * layer.up.float() @ layer.down.float()


def _noise(kind: str, seed: int) -> torch.Tensor:
    """Noise of one clip, (F, 4, 8, 8)."""
    noise = torch.randn(world.FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    if kind == "independent":
        return noise
    if kind == "shared":
        return noise[:1].expand(world.FRAMES, -1, -1, -1)
    steps = [frame // 2 for frame in range(world.FRAMES)]
    return torch.stack([torch.roll(noise[0], (step, step), (-2, -1)) for step in steps])


def _first_frame(n: torch.Tensor, key: torch.Tensor, value: torch.Tensor, options: Any) -> tuple:
    """Self-attention's keys and values from each clip's first frame; tokens (N*F, L, C)."""
    first = key.unflatten(0, (-1, world.FRAMES))[:, :1].expand(-1, world.FRAMES, -1, -1).flatten(0, 1)
    return n, first, first
