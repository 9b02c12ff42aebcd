"""Noise schedules by the names that people know, as tables of noise levels; and the steps of AnimateLCM.

``lcm`` names are distilled tables: they hold every 20th (``lcm[100_ots]``: every 10th) of the 1000 timesteps,
because a consistency model was taught at no others. ``a >> b`` is the one's timesteps on the other's noise,
``avg`` the mean of two tables.

AnimateLCM's authors sample in another way than ``lcm``: at :func:`lcm_timesteps` of ``sqrt_linear``, which
ComfyUI's scheduler ``simple`` gives for 1, 2, 4 and 8 steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .beta_schedules import LINEAR_SDXL, NUM_TIMESTEPS, SQRT_LINEAR, BetaSchedule, sigmas

MAX_BETA = 0.999
COSINE_OFFSET = 8e-3

LCM_T2V = SQRT_LINEAR, 100
"""AnimateLCM's noise schedule, and into how many steps its timesteps were cut in training."""
LCM_I2V = BetaSchedule("sqrt_linear", end=0.014), 200
"""The same of AnimateLCM-I2V."""


@dataclass(frozen=True)
class SigmaTable:
    """Noise levels of a schedule, ascending."""

    sigmas: torch.Tensor
    """``(T,)``, float64."""
    skip: int = 1
    """Timesteps from one entry to the next; the last entry is timestep 999."""

    def timesteps(self) -> torch.Tensor:
        """Timestep of each entry, ``(T,)``."""
        return torch.arange(len(self.sigmas)) * self.skip + self.skip - 1

    def distilled(self, steps: int) -> SigmaTable:
        """The table of a model that was taught ``steps`` evenly spaced timesteps of this one."""
        skip = NUM_TIMESTEPS // steps
        return SigmaTable(self.sigmas[skip - 1 :: skip], skip)


NAMES = (
    "sqrt_linear",
    "linear",
    "linear_sdxl",
    "avg(sqrt_linear,linear)",
    "lcm",
    "lcm[100_ots]",
    "lcm >> sqrt_linear",
    "lcm avg(sqrt_linear,linear)",
    "sqrt",
    "cosine",
    "squaredcos_cap_v2",
)
"""What :func:`sigma_table` knows."""


def sigma_table(name: str, start: float = 0.00085, end: float = 0.012) -> SigmaTable:
    """The table of a name.

    Args:
        name: one of :data:`NAMES`.
        start, end: first and last beta of the plain schedules, ``linear_sdxl`` excepted; ``cosine`` and
            ``squaredcos_cap_v2`` have none.

    Raises:
        ValueError: another name.
    """
    if name not in NAMES:
        raise ValueError(f"Unknown beta schedule {name!r}; expected one of {', '.join(NAMES)}.")
    linear = sigmas(BetaSchedule("linear", start, end))
    sqrt_linear = sigmas(BetaSchedule("sqrt_linear", start, end))
    plain = {
        "sqrt_linear": sqrt_linear,
        "lcm >> sqrt_linear": sqrt_linear,
        "avg(sqrt_linear,linear)": (sqrt_linear + linear) / 2,
        "lcm avg(sqrt_linear,linear)": (sqrt_linear + linear) / 2,
        "linear_sdxl": sigmas(LINEAR_SDXL),
        "sqrt": _from_betas(torch.linspace(start, end, NUM_TIMESTEPS, dtype=torch.float64).sqrt()),
        "cosine": _from_betas(_cosine_betas()),
        "squaredcos_cap_v2": _from_betas(_cosine_betas()),
    }
    table = SigmaTable(plain.get(name, linear))
    if not name.startswith("lcm"):
        return table
    return table.distilled(100 if name == "lcm[100_ots]" else 50)


def lcm_timesteps(steps: int, original_steps: int = LCM_T2V[1]) -> list[int]:
    """Timesteps of a few-step run as AnimateLCM's authors take them, descending.

    Args:
        steps: of the run, 1 .. ``original_steps``.
        original_steps: into how many the 1000 timesteps were cut in training.

    Raises:
        ValueError: more steps than there are to take.
    """
    if not 1 <= steps <= original_steps:
        raise ValueError(f"AnimateLCM takes 1 to {original_steps} steps, got {steps}.")
    skip = NUM_TIMESTEPS // original_steps
    return [(original_steps - index * original_steps // steps) * skip - 1 for index in range(steps)]


def lcm_sigmas(
    steps: int, schedule: BetaSchedule = SQRT_LINEAR, original_steps: int = LCM_T2V[1]
) -> torch.Tensor:
    """Noise levels of such a run, 0 at the end, ``(steps + 1,)``, float64."""
    table = sigmas(schedule)[lcm_timesteps(steps, original_steps)]
    return torch.cat([table, table.new_zeros(1)])


def _from_betas(betas: torch.Tensor) -> torch.Tensor:
    alphas = torch.cumprod(1.0 - betas, dim=0)
    return ((1.0 - alphas) / alphas).sqrt()


def _cosine_betas() -> torch.Tensor:
    """Nichol and Dhariwal 2021: the signal falls as a squared cosine."""
    place = torch.arange(NUM_TIMESTEPS + 1, dtype=torch.float64) / NUM_TIMESTEPS
    signal = torch.cos((place + COSINE_OFFSET) / (1 + COSINE_OFFSET) * torch.pi / 2) ** 2
    return (1.0 - signal[1:] / signal[:-1]).clamp(0.0, MAX_BETA)
