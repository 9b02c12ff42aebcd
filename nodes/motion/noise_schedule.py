"""The noise schedule of a model: a motion module wants the one it was trained with, not the image model's."""

from __future__ import annotations

from types import SimpleNamespace

from comfy.model_patcher import ModelPatcher
from comfy.model_sampling import ModelSamplingDiscrete

from ...motion_core.schedule.beta_schedules import LINEAR, LINEAR_SDXL, SQRT_LINEAR, BetaSchedule

CHOICES: dict[str, BetaSchedule | None] = {
    "auto": None,
    "sqrt_linear": SQRT_LINEAR,
    "linear": LINEAR,
    "linear_sdxl": LINEAR_SDXL,
    "keep": None,
}
"""The widget's options. auto: what the motion module was trained with; keep: what the model came with."""


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
    schedule = CHOICES[choice] or wanted
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
    patcher.add_object_patch("model_sampling", type(current)(SimpleNamespace(sampling_settings=settings)))
    return f"noise schedule: {schedule}" + (" (auto)" if choice == "auto" else "")
