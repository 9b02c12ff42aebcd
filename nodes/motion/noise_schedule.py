"""The noise schedule of a model: a motion module wants the one it was trained with, not the image model's."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.model_sampling import ModelSamplingDiscrete, rescale_zero_terminal_snr_sigmas

from ...motion_core.schedule.beta_schedules import LINEAR, LINEAR_SDXL, SQRT_LINEAR, BetaSchedule
from ...motion_core.schedule.sigma_tables import NAMES, SigmaTable, sigma_table
from ..compat import logger, show_on

CHOICES: dict[str, BetaSchedule | None] = {
    "auto": None,
    "sqrt_linear": SQRT_LINEAR,
    "linear": LINEAR,
    "linear_sdxl": LINEAR_SDXL,
    "keep": None,
    **{name: None for name in NAMES if name not in ("sqrt_linear", "linear", "linear_sdxl")},
}
"""The widget's options. auto: what the motion module was trained with; keep: what the model came with. Those
without betas of their own are tables (:mod:`motion_core.schedule.sigma_tables`)."""

LCM_NOTE = "noise schedule: lcm (auto); the authors' own steps are sqrt_linear with scheduler simple"


@dataclass(frozen=True)
class ChosenSchedule:
    """A noise schedule that a node has set, to be recognised when the model samples."""

    sampling: Any
    """ComfyUI's model_sampling with that schedule."""
    line: str
    """What the node shows about it."""
    node_id: str | None
    told: set[str] = field(default_factory=set, compare=False)
    """What was said already, by all clones of the model."""


def tell_if_replaced(chosen: ChosenSchedule, there: Any) -> None:
    """Say so, once, if the model samples with another schedule than the node has set: a ModelSampling node
    behind it puts the model's own back."""
    if there is chosen.sampling or _same_levels(there, chosen.sampling):
        return
    line = (
        f"A node behind Apply Motion Module has replaced the {chosen.line} by one of its own "
        f"({type(there).__name__}, sigma up to {float(there.sigma_max):.4g}): expect flicker and washed-out "
        "colours. Put that node in front of Apply Motion Module, which keeps what else it does, or choose "
        "`keep` if it is meant."
    )
    if line not in chosen.told:
        chosen.told.add(line)
        logger.warning("%s", line)
        show_on(chosen.node_id, line)


def _same_levels(one: Any, other: Any) -> bool:
    """Whether two samplings have the same noise levels. Distilled ones (LCM) hold every 20th only."""
    if not math.isclose(float(one.sigma_max), float(other.sigma_max), rel_tol=1e-4):
        return False
    levels = [getattr(sampling, "sigmas", None) for sampling in (one, other)]
    if not all(isinstance(level, torch.Tensor) for level in levels) or levels[0].shape != levels[1].shape:
        return True
    return torch.allclose(*(level.float().cpu() for level in levels), rtol=1e-4)


def patch_schedule(patcher: ModelPatcher, choice: str, wanted: BetaSchedule) -> str:
    """Give a model the betas of ``choice``, keeping its kind of prediction (eps, v, LCM).

    Args:
        patcher: changed in place; must be a clone.
        choice: a key of :data:`CHOICES`.
        wanted: what ``auto`` means here.

    Returns:
        One line for the user.

    Raises:
        ValueError: the model's sampling has no betas, and a schedule was asked for by name.
    """
    if choice not in CHOICES:
        raise ValueError(f"beta_schedule must be one of {', '.join(CHOICES)}, got {choice!r}.")
    current = patcher.get_model_object("model_sampling")
    if choice == "keep":
        return "noise schedule: the model's own"
    schedule = CHOICES[choice] or (wanted if choice == "auto" else LINEAR)
    if not isinstance(current, ModelSamplingDiscrete):
        if choice == "auto":
            return f"noise schedule: the model's own ({type(current).__name__} has no betas to set)"
        raise ValueError(
            f"beta_schedule {choice!r} cannot be set: this model samples with {type(current).__name__}, "
            "which has no betas. Choose `keep`, or take the sampling node in front off."
        )
    settings = dict(getattr(patcher.model.model_config, "sampling_settings", None) or {})
    settings |= {
        "beta_schedule": schedule.name,
        "linear_start": schedule.start,
        "linear_end": schedule.end,
        "zsnr": getattr(current, "zsnr", False),
    }
    # The class of the sampling in place carries the kind of prediction; only its table is made anew.
    config = SimpleNamespace(sampling_settings=settings)
    if choice != "auto" and CHOICES[choice] is None:
        patcher.add_object_patch("model_sampling", _with_table(current, config, sigma_table(choice)))
        return f"noise schedule: {choice}"
    patcher.add_object_patch("model_sampling", type(current)(config))
    return f"noise schedule: {schedule}" + (" (auto)" if choice == "auto" else "")


class DistilledTimesteps:
    """In front of a ModelSamplingDiscrete: its table holds every ``skip_steps``-th timestep only, as that of
    a model that was taught at no others."""

    skip_steps = 1

    def timestep(self, sigma: torch.Tensor) -> torch.Tensor:
        """Timestep of the nearest entry."""
        return ModelSamplingDiscrete.timestep(self, sigma) * self.skip_steps + self.skip_steps - 1

    def sigma(self, timestep: torch.Tensor) -> torch.Tensor:
        """Noise level of a timestep, between entries by its logarithm."""
        return ModelSamplingDiscrete.sigma(self, (timestep.float() - self.skip_steps + 1) / self.skip_steps)


def _with_table(current: Any, config: SimpleNamespace, table: SigmaTable) -> ModelSamplingDiscrete:
    """A sampling of the kind in place, with other noise levels."""
    kind = type(current)
    sampling = kind(config)
    if table.skip == 1 and len(sampling.sigmas) != len(table.sigmas):
        table = table.distilled(len(sampling.sigmas))  # an LCM node in front has cut the timesteps
    if table.skip > 1 and DistilledTimesteps not in kind.__mro__:
        sampling = type(f"Distilled{kind.__name__}", (DistilledTimesteps, kind), {})(config)
    sampling.skip_steps = table.skip
    sigmas = table.sigmas
    sampling.set_sigmas(
        rescale_zero_terminal_snr_sigmas(sigmas) if getattr(current, "zsnr", False) else sigmas
    )
    return sampling
