"""The context handler: runs a model call window by window, for every sampler and guider.

It is a handler of ComfyUI's own kind (``model_options["context_handler"]``), which the sampling code asks
for every prediction. ComfyUI's handler is made for videos with an axis of their own. With frames in the batch
it stops with a shape error on older versions; newer ones run, and put a frame of their choice before every
window but the first unless told not to. On all of them windows see the first frames' ControlNet hints, and at
larger strides frames are left out. Settings, windows, cutting and fusing are ours; what others may rely on
(the class, its attributes, its callbacks) is kept.

The handler on a MODEL only holds settings. At the start of a run an OUTER_SAMPLE wrapper puts a copy in its
place, for this run alone, that also knows the seed, the noise levels and the tables made so far.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import comfy.context_windows
import comfy.model_management
import comfy.patcher_extension
import torch
from comfy.context_windows import IndexListCallbacks, IndexListContextHandler
from comfy.patcher_extension import WrappersMP

from ...motion_core.clips.context import context_windows, needs_windows
from ..compat import easy_cache_is_on, free_memory, guidance_is_plain, self_attention_guidance_is_on
from ..preview import sample_with_preview
from ..run_start import begin_run
from .context_conds import HintStore, WindowControls, cut_conds, entries_of
from .context_run import ContextRun, ContextSettings
from .euler import GUIDER
from .frame_window import FrameWindow
from .other_packs import ENTRY, sees_single_windows, window_entry

KEY = "animatediff_flipbook_context"
"""Under which our wrapper is found on a patcher."""
CORE_PREPARE_KEY = "ContextWindows_prepare_sampling"
"""Under which ComfyUI enters its own, which estimates the memory of one window instead of the clip's."""
AUTO_POSITIONS = 2 * 16 * 64 * 64
"""Latent positions per model call up to which ``auto`` puts windows together: one window of 16 frames at
512 x 512 with its two prompts. Larger calls keep any GPU busy by themselves."""


class WindowHandler(IndexListContextHandler):
    """ComfyUI's context handler for frames in the batch."""

    def __init__(self, settings: ContextSettings, run: ContextRun | None = None) -> None:
        options = settings.stages[0].options
        super().__init__(
            context_schedule=comfy.context_windows.ContextSchedule(options.schedule, _core_schedule),
            fuse_method=comfy.context_windows.ContextFuseMethod(options.fuse, _core_fuse),
            context_length=_most_frames(settings),
            context_overlap=options.overlap,
            context_stride=options.stride,
            closed_loop=options.closed_loop,
            dim=0,
        )
        self.settings = settings
        self.run = run

    def for_run(self, model_sampling: Any, sigmas: torch.Tensor, seed: int | None) -> WindowHandler:
        """A copy for one sampling run."""
        handler = WindowHandler(self.settings, ContextRun(self.settings, model_sampling, sigmas, seed))
        handler.callbacks = self.callbacks
        return handler

    def should_use_context(
        self, model: Any, conds: list, x_in: torch.Tensor, timestep: torch.Tensor, model_options: dict
    ) -> bool:
        """Whether the clip is longer than a window, at this noise level's settings."""
        num_frames = x_in.shape[0]
        if not any(needs_windows(stage.options, num_frames) for stage in self.settings.stages):
            return False
        options = self._current(model, model_options).options_at(_sigma(timestep))
        return options is not None and needs_windows(options, num_frames)

    def get_resized_cond(
        self, cond_in: list[dict] | None, x_in: torch.Tensor, window: FrameWindow, device: Any = None
    ) -> list[dict] | None:
        """The conds of one window."""
        controls = WindowControls(window, HintStore(), x_in.device)
        try:
            return cut_conds(cond_in, window, controls)
        finally:
            controls.release()

    def set_step(self, timestep: torch.Tensor, model_options: dict) -> None:
        """Note the position of the noise level in the whole schedule, where ComfyUI keeps it."""
        if self.run is not None:
            self._step = self.run.step(_sigma(timestep), self.settings.stages[0].options)

    def get_context_windows(self, model: Any, x_in: torch.Tensor, model_options: dict) -> list[FrameWindow]:
        """The windows of the current step, one by one."""
        options = self.settings.stages[0].options
        windows = context_windows(options, x_in.shape[0], self._step)
        return [FrameWindow([window.indices], x_in.shape[0]) for window in windows]

    def execute(
        self,
        calc_cond_batch: Callable,
        model: Any,
        conds: list[list[dict] | None],
        x_in: torch.Tensor,
        timestep: torch.Tensor,
        model_options: dict,
    ) -> list[torch.Tensor]:
        """Predictions of the whole clip for every cond, fused from its windows.

        ``x_in`` (F, C, H, W), ``timestep`` (F,); one tensor like ``x_in`` per entry of ``conds``.
        """
        run = self._current(model, model_options)
        sigma = _sigma(timestep)
        stage = run.stage_at(sigma)
        options = stage.options
        self._step = run.step(sigma, options)
        plan = run.plan(options, x_in.shape[0], sigma)
        length = len(plan.windows[0])
        together = self.settings.windows_per_batch or _fitting_windows(model, conds, x_in, length)
        if together > 1 and (reader := sees_single_windows(model, conds, model_options)):
            together = 1
            if self.settings.windows_per_batch:
                run.say_once(
                    f"{reader} may depend on the frames that it sees together: windows run one by one, not "
                    f"{self.settings.windows_per_batch} in a call."
                )
        if stage.split_conds and any(cond is not None and len(cond) > 1 for cond in conds):
            together = 1  # windows with different prompts are different calls
        scale = _guidance(conds, model_options)
        fused = [torch.zeros_like(x_in) for _ in (conds if scale is None else conds[:1])]
        self._notify(IndexListCallbacks.EXECUTE_START, model, x_in, conds, timestep, model_options)
        try:
            done = 0
            for number, group in _groups(plan.windows, together):
                comfy.model_management.throw_exception_if_processing_interrupted()
                window = run.window(group, x_in.shape[0])
                self._notify(
                    IndexListCallbacks.EVALUATE_CONTEXT_WINDOWS,
                    *(model, x_in, conds, timestep, model_options, number, window, model_options, None, None),
                )
                controls = WindowControls(window, run.hints, x_in.device)
                try:
                    whole = [entries_of(cond, window) for cond in conds] if stage.split_conds else conds
                    sub_conds = [cut_conds(cond, window, controls) for cond in whole]
                    outputs = calc_cond_batch(
                        model,
                        sub_conds,
                        window.get_tensor(x_in, retain_index_list=stage.latent_retain),
                        window.get_tensor(timestep, dim=0),
                        _options_for(model_options, window),
                    )
                    controls.collect_hints()
                finally:
                    controls.release()
                if scale is not None:
                    # Guidance is linear: before fusing or after it, the sum is the same.
                    outputs = [_guided(*outputs, scale) if conds[1] is not None else outputs[0]]
                weights = run.weights(plan, number, len(group), x_in)
                for total, output, cond in zip(fused, outputs, conds[: len(fused)], strict=True):
                    if cond is not None:
                        window.add_weighted(total, output, weights)
                # Where ComfyUI hands over its sums of weights and biases: ours add up to 1 beforehand.
                self._notify(
                    IndexListCallbacks.COMBINE_CONTEXT_WINDOW_RESULTS,
                    *(x_in, outputs, sub_conds, window, number, len(plan.windows), timestep),
                    *(fused, None, None),
                )
                done += len(group)
                run.report(sigma, done, len(plan.windows))
            # ComfyUI guides what it is given; between a prediction and itself that changes nothing.
            return fused if scale is None else [fused[0], fused[0]]
        finally:
            self._notify(IndexListCallbacks.EXECUTE_CLEANUP, model, x_in, conds, timestep, model_options)

    def _current(self, model: Any, model_options: dict) -> ContextRun:
        if self.run is not None:
            return self.run
        # Somebody samples without CFGGuider.sample: what the call itself knows must do.
        sigmas = model_options["transformer_options"]["sample_sigmas"]
        return ContextRun(self.settings, model.model_sampling, sigmas, None)

    def _notify(self, event: str, *arguments: Any) -> None:
        for callback in comfy.patcher_extension.get_all_callbacks(event, self.callbacks):
            callback(self, *arguments)


def run_with_context(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """OUTER_SAMPLE wrapper: give the run a handler of its own.

    Raises:
        ValueError: the model carries what cannot work with windows.
    """
    guider = executor.class_obj
    handler = guider.model_options.get("context_handler")
    if isinstance(handler, WindowHandler):
        known = inspect.signature(executor.original).bind(*args, **kwargs).arguments
        begin_run(guider, known["noise"])
        num_frames = known["noise"].shape[0]
        if any(needs_windows(stage.options, num_frames) for stage in handler.settings.stages):
            _refuse_what_keeps_calls(guider.model_options, num_frames)
        # The guider's options are a copy for this run already; nothing outlives it.
        guider.model_options["context_handler"] = handler.for_run(
            guider.model_patcher.get_model_object("model_sampling"), known["sigmas"], known.get("seed")
        )
        return sample_with_preview(executor, *args, **kwargs)
    return executor(*args, **kwargs)


def _refuse_what_keeps_calls(model_options: dict, num_frames: int) -> None:
    """Stop where something on the model takes one call's frames for the next one's."""
    for name, is_on in (
        ("Self-Attention Guidance", self_attention_guidance_is_on),
        ("EasyCache", easy_cache_is_on),
    ):
        if is_on(model_options):
            raise ValueError(
                f"{name} keeps what it sees in one model call for the next and cannot be used with context "
                f"windows, which this clip of {num_frames} frames has. Take one of the two off the model."
            )


def put_on(model: Any, settings: ContextSettings) -> None:
    """Give a cloned MODEL its context handler. Doing so again replaces it."""
    model.model_options["context_handler"] = WindowHandler(settings)
    model.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, run_with_context)
    model.remove_wrappers_with_key(WrappersMP.PREPARE_SAMPLING, CORE_PREPARE_KEY)
    comfy.context_windows.create_prepare_sampling_wrapper(model)


def _most_frames(settings: ContextSettings) -> int:
    """Frames in one model call at most: what ComfyUI, which takes no more than the clip's, estimates memory
    for."""
    if settings.stages[0].start_percent > 0.0:
        return sys.maxsize  # before the first stage the clip runs whole
    return max(stage.options.length for stage in settings.stages) * max(1, settings.windows_per_batch)


def settings_on(model: Any) -> ContextSettings | None:
    """The context settings of a MODEL, if it has ours."""
    handler = model.model_options.get("context_handler")
    return handler.settings if isinstance(handler, WindowHandler) else None


def _sigma(timestep: torch.Tensor) -> float:
    """The noise level of a call: all frames of a clip share it."""
    return float(timestep.flatten()[0])


def _guidance(conds: Sequence, model_options: dict) -> float | None:
    """The scale by which windows can be guided before they are fused, so that one prediction of the clip is
    kept instead of two. None where the sampler does not say that it needs no more, or something on the model
    wants both."""
    guider = model_options.get(GUIDER)
    if guider is None or len(conds) != 2 or not guidance_is_plain(model_options):
        return None
    return guider.cfg


def _guided(cond: torch.Tensor, uncond: torch.Tensor, scale: float) -> torch.Tensor:
    """Classifier-free guidance, as ComfyUI has it."""
    return uncond + (cond - uncond) * scale


def _options_for(model_options: dict, window: FrameWindow) -> dict:
    """The options of one window's call; the sampler's own stay as they are."""
    transformer_options = {
        **model_options["transformer_options"],
        "context_window": window,
        ENTRY: window_entry(window),
    }
    return {**model_options, "transformer_options": transformer_options}


def _groups(
    windows: Sequence[tuple[int, ...]], together: int
) -> Iterator[tuple[int, Sequence[tuple[int, ...]]]]:
    """``(number of the first, windows)`` of every model call: neighbours of equal length."""
    start = 0
    while start < len(windows):
        end = start + 1
        while end < len(windows) and end - start < together and len(windows[end]) == len(windows[start]):
            end += 1
        yield start, windows[start:end]
        start = end


def _fitting_windows(model: Any, conds: Sequence, x_in: torch.Tensor, length: int) -> int:
    """How many windows ``auto`` puts into one call."""
    if x_in.device.type == "cpu":
        return 1  # one window keeps every core busy; more only crowd the caches
    prompts = sum(cond is not None for cond in conds)
    frames = prompts * length
    wanted = max(1, AUTO_POSITIONS // (frames * math.prod(x_in.shape[2:])))
    free = free_memory(model, x_in.device)
    # The factor is the one by which ComfyUI decides whether conds fit into one call.
    while wanted > 1 and model.memory_required([wanted * frames, *x_in.shape[1:]]) * 1.5 > free:
        wanted -= 1
    return wanted


def _core_schedule(num_frames: int, handler: WindowHandler, model_options: dict) -> list[list[int]]:
    """Our windows in the form of ComfyUI's schedule functions."""
    windows = context_windows(handler.settings.stages[0].options, num_frames, handler._step)
    return [list(window.indices) for window in windows]


def _core_fuse(length: int, **kwargs: Any) -> list[float]:
    """ComfyUI's handler asks this for weights; ours fuses by itself and never does."""
    raise NotImplementedError("Windows of AnimateDiff Flipbook are fused by WindowHandler.execute.")
