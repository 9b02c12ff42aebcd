"""Loss on held-out clips, with the same noise and the same timesteps every time: the curve to trust.

The training loss jumps with the timestep drawn; here one fixed timestep of each range is measured for each
clip, so two values differ only by the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from .. import randomness
from ..config import ValidationConfig
from ..data.dataset import Batch, ClipData
from ..randomness import Key
from .objective import Objective, bin_range

Predict = Callable[[Batch, torch.Tensor, torch.Tensor], torch.Tensor]
"""(batch, noisy latents, timesteps) -> prediction (B, F, C, H, W)."""


def held_out(hashes: Sequence[str], fraction: float) -> list[bool]:
    """Which files are for validation: by content alone, so that it does not change when files are added; at
    least one."""
    draws = [float(randomness.stream("held out", content).random()) for content in hashes]
    limit = max(fraction, min(draws, default=0.0))
    return [draw <= limit for draw in draws]


@torch.no_grad()
def validation_loss(
    predict: Predict, objective: Objective, data: ClipData, config: ValidationConfig, seed: int
) -> dict[str, float]:
    """Mean loss over clips and timestep ranges.

    Returns:
        ``validation/loss`` and ``validation/t000-249`` ... for each range.
    """
    sums = [0.0] * config.bins
    clips = range(min(len(data), config.max_clips))
    for index in clips:
        for number in range(config.bins):
            key: Key = (seed, "validation", f"{data.tracks[index].key}.{number}")
            batch = data.load([index], [key], training=False)
            first, last = bin_range(number, config.bins)
            timestep = int(randomness.stream(*key, "timestep").integers(first, last + 1))
            noised = objective.noised(batch.latents, [key], [timestep])
            prediction = predict(batch, noised.latents, noised.timesteps)
            # Unweighted: a change of loss weights must not move this curve.
            error = (prediction.float().cpu() - noised.target).square().mean(dim=(2, 3, 4))
            if batch.mask is not None:
                error = (error * batch.mask).sum(dim=1) / batch.mask.sum(dim=1)
            sums[number] += float(error.mean())
    means = [total / len(clips) for total in sums]
    result = {"validation/loss": sum(means) / len(means)}
    for number, value in enumerate(means):
        first, last = bin_range(number, config.bins)
        result[f"validation/t{first:03d}-{last:03d}"] = value
    return result
