"""One sampling run with context windows: its settings, and the tables that are thrown away with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.samplers
import comfy.utils
import torch

from ...motion_core.clips.context import ContextOptions, ascending, context_windows, position_in, step_at
from ...motion_core.clips.context_fuse import fused_weights
from ..compat import logger
from .context_conds import HintStore
from .frame_window import FrameWindow

LONGEST_SCHEDULE = 150
"""Steps up to which the schedule of a partial run is looked for."""
EVEN_SCHEDULES = ("normal", "sgm_uniform")
"""ComfyUI's names of schedules with evenly spaced timesteps: slow to compute, but easy to guess."""


@dataclass(frozen=True)
class ContextStage:
    """Context options from some point of the noise schedule on."""

    start_percent: float
    """0..1 of the noise schedule."""
    options: ContextOptions
    views: ContextOptions | None = None
    """Windows inside temporal attention, cut from the frames of a call."""
    latent_retain: tuple[int, ...] = ()
    """Frames of the clip's latent that stand in those places of every window, whichever frames it holds."""
    split_conds: bool = False
    """Whether parts of a combined prompt take turns over the clip: each window is given one of them."""


@dataclass(frozen=True)
class ContextSettings:
    """What the nodes were told."""

    stages: tuple[ContextStage, ...]
    """In the order of ``start_percent``. Before the first one the clip runs whole."""
    windows_per_batch: int = 0
    """Windows evaluated in one model call; 0: as many as pay and fit the memory."""

    def __post_init__(self) -> None:
        for stage in self.stages:
            if not 0.0 <= stage.start_percent <= 1.0:
                raise ValueError(f"start_percent is 0..1 of the noise schedule, got {stage.start_percent}.")
        if self.windows_per_batch < 0:
            raise ValueError(
                f"windows_per_batch must be 1 or more, or 0 for automatic, got {self.windows_per_batch}."
            )

    def stage_at(self, sigma: float, percent_to_sigma: Callable[[float], float]) -> ContextStage | None:
        """The stage in force at a noise level; None before the first."""
        begun = [stage for stage in self.stages if sigma <= percent_to_sigma(stage.start_percent)]
        return begun[-1] if begun else None

    def with_stage(self, stage: ContextStage, windows_per_batch: int) -> ContextSettings:
        """These settings with one more stage. A stage of the same start is replaced; automatic
        ``windows_per_batch`` (0) keeps the number chosen before."""
        others = [s for s in self.stages if s.start_percent != stage.start_percent]
        ordered = sorted([*others, stage], key=lambda s: s.start_percent)
        return ContextSettings(tuple(ordered), windows_per_batch or self.windows_per_batch)


@dataclass(frozen=True)
class StepPlan:
    """The windows of one step and what each frame of theirs counts."""

    windows: tuple[tuple[int, ...], ...]
    weights: tuple[torch.Tensor, ...]


class ContextRun:
    """What belongs to one sampling run and is thrown away with it."""

    def __init__(
        self, settings: ContextSettings, model_sampling: Any, sigmas: torch.Tensor, seed: int | None
    ) -> None:
        self.hints = HintStore()
        self._sigmas = sigmas.tolist()
        self._seed = seed or 0
        self._model_sampling = model_sampling
        self._first_step: int | None = None
        self._stages = [
            (model_sampling.percent_to_sigma(stage.start_percent), stage) for stage in settings.stages
        ]
        self._plans: dict[tuple, StepPlan] = {}
        self._windows: dict[tuple, FrameWindow] = {}
        self._weights: dict[tuple, torch.Tensor] = {}
        self._bar: comfy.utils.ProgressBar | None = None
        self._shown = 0.0
        self._said: set[str] = set()

    def step(self, sigma: float, options: ContextOptions) -> int:
        """Position of a noise level: for windows that move, in the whole noise schedule, also when the run is
        a part of it; for others in the run, as it takes up to a second to find the whole schedule."""
        position = step_at(sigma, self._sigmas)
        if not _moves(options):
            return position
        if self._first_step is None:
            self._first_step = first_step(self._model_sampling, self._sigmas)
        return self._first_step + position

    def stage_at(self, sigma: float) -> ContextStage | None:
        """The stage in force at a noise level; None before the first."""
        current = None
        for start, stage in self._stages:
            if sigma <= start:
                current = stage
        return current

    def options_at(self, sigma: float) -> ContextOptions | None:
        """Its options."""
        stage = self.stage_at(sigma)
        return None if stage is None else stage.options

    def plan(self, options: ContextOptions, num_frames: int, sigma: float) -> StepPlan:
        """Windows and weights at a noise level, made once for all steps that share them."""
        step = self.step(sigma, options) if _moves(options) else 0
        key = (options, num_frames, step, sigma if "sigma" in options.fuse else 0.0)
        if key not in self._plans:
            windows = context_windows(options, num_frames, step)
            if not self._plans:
                logger.info("Context windows of %d frames for a clip of %d.", len(windows[0]), num_frames)
            else:
                self._forget()
            weights = fused_weights(windows, options, num_frames, sigma=sigma, seed=self._seed, step=step)
            self._plans[key] = StepPlan(tuple(window.indices for window in windows), tuple(weights))
        return self._plans[key]

    def window(self, group: Sequence[tuple[int, ...]], num_frames: int) -> FrameWindow:
        """The windows of one model call."""
        key = (tuple(group), num_frames)
        if key not in self._windows:
            self._windows[key] = FrameWindow(list(group), num_frames)
        return self._windows[key]

    def weights(self, plan: StepPlan, number: int, count: int, like: torch.Tensor) -> torch.Tensor:
        """Weights of ``count`` windows from ``number`` on, ``(count * length, 1, 1, 1)``, as ``like`` is."""
        key = (id(plan), number, count, like.device, like.dtype)
        if key not in self._weights:
            joined = torch.cat(plan.weights[number : number + count])
            self._weights[key] = joined.to(like).view(-1, *(1,) * (like.ndim - 1))
        return self._weights[key]

    def report(self, sigma: float, done: int, total: int) -> None:
        """Move the node's progress bar window by window."""
        steps = len(self._sigmas) - 1
        part = (step_at(sigma, self._sigmas) + done / total) / max(1, steps)
        # Some samplers look ahead and come back: the bar does not go back with them.
        if self._shown < part <= 1.0:
            self._shown = part
            self._bar = self._bar or comfy.utils.ProgressBar(steps * total)
            self._bar.update_absolute(round(part * steps * total), steps * total)

    def say_once(self, line: str) -> None:
        """A warning, once per run."""
        if line not in self._said:
            self._said.add(line)
            logger.warning("%s", line)

    def _forget(self) -> None:
        """Windows that move are not met again: keep no tables of steps gone by."""
        self._plans.clear()
        self._windows.clear()
        self._weights.clear()


def _moves(options: ContextOptions) -> bool:
    """Whether windows or weights change from step to step."""
    return options.schedule in ("standard_uniform", "looped_uniform") or options.fuse == "random"


def first_step(model_sampling: Any, sigmas: Sequence[float]) -> int:
    """How many steps of the whole noise schedule lie before the first of this run.

    KSamplerAdvanced, split sigmas and a denoise below 1 sample a part of a schedule and pass on nothing but
    that part. It is looked for in every schedule that ComfyUI offers; one of another origin counts from 0.
    A part of a single step is one noise level, which schedules of many lengths share: its place is the one in
    the shortest of them, as a rule not the true one.
    """
    present = [sigma for sigma in sigmas if sigma > 0.0]
    whole_run = present and math.isclose(present[0], float(model_sampling.sigma_max), rel_tol=1e-3)
    if not present or whole_run or ascending(sigmas):
        return 0
    fewest, most = _lengths_if_even(model_sampling, present)
    for steps in range(max(2, len(present)), LONGEST_SCHEDULE + 1):
        for name in comfy.samplers.SCHEDULER_NAMES:
            if name in EVEN_SCHEDULES and not fewest <= steps <= most:
                continue
            whole = comfy.samplers.calculate_sigmas(model_sampling, name, steps).tolist()
            position = position_in(present, whole)
            if position is not None:
                return position
    return 0


def _lengths_if_even(model_sampling: Any, present: Sequence[float]) -> tuple[float, float]:
    """Fewest and most steps of a whole schedule whose timesteps are spaced evenly, as those of these noise
    levels may be. Levels tell whole timesteps only, which leaves their distance open by one."""
    ends = torch.tensor([model_sampling.sigma_max, present[0], present[-1]])
    highest, first, last = model_sampling.timestep(ends).tolist()
    gaps = len(present) - 1
    if not gaps:
        return math.inf, 0.0
    widest, narrowest = (first - last + 1) / gaps, max(first - last - 1, 0) / gaps
    return highest / widest - 2, highest / narrowest + 2 if narrowest else math.inf
