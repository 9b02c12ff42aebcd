"""Clips from a model in training: DDIM with guidance (Song et al., 2021; Ho & Salimans, 2022), fixed seeds.

For looking at a run, not for making films: that is ComfyUI's part. Shapes as in :mod:`denoiser`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from .. import randomness
from .objective import Objective

Model = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(noisy latents (B, F, C, H, W), timesteps (B,)) -> prediction."""


@torch.no_grad()
def ddim(
    model: Model, objective: Objective, shape: tuple[int, int, int, int], *, steps: int, cfg: float, seed: int
) -> torch.Tensor:
    """Sample one clip.

    Args:
        model: called with the clip twice in a batch, first with the prompt's, then with the negative
        condition. objective: noise schedule and kind of prediction. shape: (F, C, H, W). steps: model
        calls. cfg: guidance scale; 1 is none. seed: of the noise.

    Returns:
        Latents (F, C, H, W), fp32.
    """
    alphas = objective.alphas_cumprod
    times = torch.linspace(len(alphas) - 1, 0, steps + 1).round().long().tolist()
    x = randomness.gaussian(shape, "sample", seed)
    for now, then in zip(times[:-1], times[1:], strict=True):
        out = model(torch.stack([x, x]), torch.tensor([now, now])).float().cpu()
        guided = out[1] + cfg * (out[0] - out[1])
        signal, spread = alphas[now].sqrt().float(), (1 - alphas[now]).sqrt().float()
        if objective.prediction == "eps":
            clean, noise = (x - spread * guided) / signal, guided
        else:
            clean, noise = signal * x - spread * guided, signal * guided + spread * x
        if then == 0:
            return clean
        x = alphas[then].sqrt().float() * clean + (1 - alphas[then]).sqrt().float() * noise
    return x


def to_images(pixels: torch.Tensor) -> list[Image.Image]:
    """Pixels (F, height, width, 3), 0..1 -> pictures."""
    return [Image.fromarray(frame.numpy(), "RGB") for frame in (pixels * 255).round().to(torch.uint8)]


def save_animation(path: Path, frames: list[Image.Image], fps: float) -> None:
    """An animated WEBP, or a plain one of a single frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    more = {"save_all": True, "append_images": frames[1:], "duration": round(1000 / fps), "loop": 0}
    try:
        frames[0].save(temporary, format="WEBP", quality=90, method=4, **(more if len(frames) > 1 else {}))
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
