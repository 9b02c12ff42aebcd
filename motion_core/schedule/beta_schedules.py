"""Noise schedules: which betas a motion module was trained with.

The field uses one word for two things. Here names are ComfyUI's (and CompVis'):

===============  ==================================  ================
name here        betas (T = 1000)                    diffusers' name
===============  ==================================  ================
``sqrt_linear``  linspace(start, end)                ``linear``
``linear``       linspace(sqrt start, sqrt end)^2    ``scaled_linear``
===============  ==================================  ================

Motion modules for SD1.5 want ``sqrt_linear`` although their base was trained with ``linear``: it is noisier
at the last step and so leaks less of the frames' common low frequencies (AnimateDiff, first preprint).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

NUM_TIMESTEPS = 1000


@dataclass(frozen=True)
class BetaSchedule:
    """One noise schedule over 1000 steps."""

    name: str
    """``sqrt_linear`` or ``linear``, in ComfyUI's sense."""
    start: float = 0.00085
    """Beta of the first step."""
    end: float = 0.012
    """Beta of the last step."""

    def __post_init__(self) -> None:
        if self.name not in ("sqrt_linear", "linear"):
            raise ValueError(f"Unknown beta schedule {self.name!r}; expected 'sqrt_linear' or 'linear'.")
        if not 0.0 < self.start < self.end < 1.0:
            raise ValueError(
                f"Betas must satisfy 0 < start < end < 1, got start={self.start}, end={self.end}."
            )

    def __str__(self) -> str:
        return f"{self.name} {self.start:g}..{self.end:g}"


SQRT_LINEAR = BetaSchedule("sqrt_linear")
"""AnimateDiff v1, v2, v3, their MotionLoRAs, PIA."""
SQRT_LINEAR_I2V = BetaSchedule("sqrt_linear", end=0.014)
"""AnimateLCM-I2V."""
LINEAR = BetaSchedule("linear")
"""Plain SD1.5 and SDXL, HotshotXL."""
LINEAR_SDXL = BetaSchedule("linear", end=0.020)
"""AnimateDiff SDXL beta."""


def betas(schedule: BetaSchedule) -> torch.Tensor:
    """Betas of all steps, float64 ``(1000,)``."""
    if schedule.name == "sqrt_linear":
        return torch.linspace(schedule.start, schedule.end, NUM_TIMESTEPS, dtype=torch.float64)
    return torch.linspace(schedule.start**0.5, schedule.end**0.5, NUM_TIMESTEPS, dtype=torch.float64) ** 2


def alphas_cumprod(schedule: BetaSchedule) -> torch.Tensor:
    """Cumulative products of ``1 - beta``, float64 ``(1000,)``."""
    return torch.cumprod(1.0 - betas(schedule), dim=0)


def sigmas(schedule: BetaSchedule) -> torch.Tensor:
    """Noise standard deviations relative to a unit signal, ascending, float64 ``(1000,)``."""
    alphas = alphas_cumprod(schedule)
    return ((1.0 - alphas) / alphas).sqrt()
