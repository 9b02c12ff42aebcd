"""How motion modules take part in a run: what each of them is asked in each model call.

Apply Motion Module puts the wrappers on the model. Between the calls of a run only the place in the
keyframes is kept, in the run's own options, which end with it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ...motion_core.clips.context import step_at
from ...motion_core.clips.views import views_of
from ...motion_core.module.call import MotionCall, View
from ...motion_core.module.injection import inserted
from ...motion_core.module.model import MotionModel
from ...motion_core.module.positions import too_many_frames
from ...motion_core.module.values import Value, is_number, of_frames, times
from ...motion_core.schedule.keyframes import KeyframeSchedule, KeyframeState
from ..compat import INCUMBENT, causal_frame_is_added, chosen_attention, incumbent_is_on, logger
from ..context.context_handler import settings_on
from ..control.control_run import control_call
from ..control.motion_control import added_inputs, begin_controls, with_controls, with_inputs
from ..preview import sample_with_preview
from ..run_start import begin_run
from .noise_schedule import tell_if_replaced
from .settings import AppliedMotion

KEY = "animatediff_flipbook"
"""Under which our models, settings and wrapper are found on a patcher."""
LORA_KEY = "animatediff_flipbook_motion_lora"
"""Under which MotionLoRAs are found that are not in the weights."""
KEYFRAMES = "animatediff_flipbook_keyframes"
"""Entry of a run's transformer options: how far each module's keyframes have come."""


@dataclass
class KeyframeStates:
    """Where each module's keyframes stand in a run. No dict: ComfyUI copies those for each model call."""

    by_module: dict[int, KeyframeState] = field(default_factory=dict)


def run_with_motion(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """OUTER_SAMPLE wrapper: look at what the run was given, and at the noise schedule."""
    guider = executor.class_obj
    noise = inspect.signature(executor.original).bind(*args, **kwargs).arguments["noise"]
    begin_run(guider, noise)
    patcher = guider.model_patcher
    applied = patcher.get_attachment(KEY) or ()
    begin_controls(guider, noise, [one.controls for one in applied])
    chosen = [one.schedule for one in applied if one.schedule is not None]
    if chosen:
        tell_if_replaced(chosen[-1], patcher.get_model_object("model_sampling"))
    for one in applied:
        _tell_of_short_values(one, noise.shape[0])
    return sample_with_preview(executor, *args, **kwargs)


def sample_with_keyframes(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """SAMPLER_SAMPLE wrapper: keyframes begin anew with each run of steps, an iteration of FreeInit too."""
    # By its place: samplers of other packs may name their arguments otherwise.
    extra_args = kwargs["extra_args"] if "extra_args" in kwargs else args[2]
    extra_args["model_options"].setdefault("transformer_options", {})[KEYFRAMES] = KeyframeStates()
    return executor(*args, **kwargs)


def apply_model_with_motion(
    executor: Any,
    x: Any,
    t: Any,
    c_concat: Any = None,
    c_crossattn: Any = None,
    control: Any = None,
    transformer_options: dict | None = None,
    **kwargs: Any,
) -> Any:
    """APPLY_MODEL wrapper: run one model call with the motion modules in the UNet.

    ``x`` is (B*F, C, H, W): every cond folded into the batch is one video. ``t`` is the noise level, (B*F,).
    """
    base = executor.class_obj
    options = transformer_options or {}
    # The patcher that samples, not the one the node saw: a clone carries its own copies.
    patcher = base.current_patcher
    besides = iter(patcher.get_additional_models_with_key(LORA_KEY))
    motions, inputs = [], []
    for number, (motion_patcher, applied) in enumerate(
        zip(patcher.get_additional_models_with_key(KEY), patcher.get_attachment(KEY), strict=True)
    ):
        beside = next(besides).model if applied.lora_strengths else None
        values = _values_now(number, applied.keyframes, base.model_sampling, t, options)
        if not _is_active(applied, base.model_sampling, t):
            continue
        motion = motion_patcher.model
        call = _motion_call(applied, values, motion, x, t, patcher, options)
        if beside is not None:
            now = values.get("lora_strength", 1.0)
            strengths = (_rows(one, now, x, call.frames, options) for one in applied.lora_strengths)
            call = replace(call, loras=beside.by_layer(motion), lora_strengths=tuple(strengths))
        if applied.controls and not call.is_off:
            place = control_call(base, x, options, call.frames)
            call = with_controls(call, applied.controls, motion_patcher, place)
            inputs += added_inputs(applied.controls, motion_patcher, place)
        motions.append((motion, call))
    if motions and incumbent_is_on(patcher):
        raise ValueError(INCUMBENT)
    with inserted(base.diffusion_model, motions), with_inputs(base.diffusion_model, inputs):
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)


def _motion_call(
    applied: AppliedMotion,
    values: Mapping[str, Any],
    motion: MotionModel,
    x: torch.Tensor,
    t: torch.Tensor,
    patcher: Any,
    options: dict,
) -> MotionCall:
    """What a model call asks of one motion model."""
    frames = _frames(x, options, applied)
    known = motion.config.pe_length
    if frames > known and causal_frame_is_added(options):
        fix = (
            "ComfyUI's Context Windows (Manual) adds a frame to each of its windows. Switch its "
            "causal_window_fix off, or use AnimateDiff Flipbook's Context Windows, which cuts ControlNet "
            "images as well."
        )
        raise too_many_frames(applied.name, frames, known, fix)
    views = _views(patcher, frames, t, options)
    together = max((len(view.frames) for view in views), default=frames)
    stretch = applied.module.stretch
    return MotionCall(
        frames=frames,
        scale=_rows(applied.scale, values.get("scale", 1.0), x, frames, options),
        effect=_rows(applied.effect, values.get("effect", 1.0), x, frames, options),
        positions=None if stretch is None else stretch.places(together, known, applied.name),
        position_factor=applied.module.position_factor * applied.module.factors.get("all_weights", 1.0),
        attention=chosen_attention(options),
        blocks=values.get("blocks", applied.module.blocks),
        views=views,
        name=applied.name,
    )


def _values_now(
    number: int, keyframes: KeyframeSchedule | None, model_sampling: Any, t: torch.Tensor, options: dict
) -> dict[str, Any]:
    """What the keyframes of a module say at this noise level."""
    if keyframes is None:
        return {}
    sigma, levels = float(t.flatten()[0]), options.get("sample_sigmas")
    levels = [float(model_sampling.sigma_max)] if levels is None else levels.tolist()
    starts = keyframes.start_sigmas(model_sampling.percent_to_sigma)
    states = options.get(KEYFRAMES)
    if states is None:
        # Somebody samples without ComfyUI's guider: the levels of the run that lie behind us must do.
        state = KeyframeState()
        for level in (*(level for level in levels if level > sigma), sigma):
            state = keyframes.next_state(state, level, starts, max(levels))
    else:
        before = states.by_module.get(number, KeyframeState())
        states.by_module[number] = state = keyframes.next_state(before, sigma, starts, max(levels))
    return keyframes.values_at(state.keyframe)


def _rows(given: Value, keyed: Value, x: torch.Tensor, frames: int, options: dict) -> Value:
    """A clip's value, times that of a keyframe, for the frames of this call, where the call computes."""
    if is_number(given) and is_number(keyed):
        return given * keyed
    window = options.get("context_window")
    if window is not None:
        indices = list(window.index_list)
        num_frames = getattr(window, "num_frames", None) or getattr(window, "total_frames", 0)
    else:
        indices, num_frames = list(range(frames)), frames
    num_frames = max(num_frames, 1 + max(indices))
    value = times(*(of_frames(one, indices, num_frames) for one in (given, keyed)))
    value = value.to(device=x.device, dtype=x.dtype)
    if len(indices) != frames:  # several windows in a call: so many videos, for each cond
        value = value.repeat(x.shape[0] // len(indices), *(1,) * (value.ndim - 1))
    return value


def _views(patcher: Any, frames: int, t: torch.Tensor, options: dict) -> tuple[View, ...]:
    """Windows inside attention, as Context Windows has them at this noise level."""
    settings = settings_on(patcher)
    if settings is None or not any(stage.views for stage in settings.stages):
        return ()
    sigma, sampling = float(t.flatten()[0]), patcher.get_model_object("model_sampling")
    stage = settings.stage_at(sigma, sampling.percent_to_sigma)
    if stage is None or stage.views is None:
        return ()
    levels = options.get("sample_sigmas")
    step = 0 if levels is None else step_at(sigma, levels.tolist())
    return views_of(stage.views, frames, sigma=sigma, step=step)


def _tell_of_short_values(applied: AppliedMotion, num_frames: int) -> None:
    """Say what ends before the clip does."""
    values = {"scale": applied.scale, "effect": applied.effect}
    values |= {f"strength of MotionLoRA {n}": one for n, one in enumerate(applied.lora_strengths, 1)}
    for keyframe in applied.keyframes.keyframes if applied.keyframes else ():
        at = f" in the keyframe at {keyframe.start_percent:g}"
        values |= {name + at: value for name, value in keyframe.values.items() if name != "blocks"}
    for name, value in values.items():
        if not is_number(value) and 1 < value.shape[0] < num_frames:
            logger.warning(
                "%s has %d values for %s and the clip has %d frames: the last one goes on.",
                *(applied.name, value.shape[0], name, num_frames),
            )


def _frames(x: Any, options: dict, settings: AppliedMotion) -> int:
    """Frames per video in this call.

    Raises:
        ValueError: the batch cannot be a clip.
    """
    # Context windows that share a call are videos of their own.
    windows = getattr(options.get("context_window"), "num_windows", 1)
    videos = len(options.get("cond_or_uncond") or [0]) * windows
    if x.shape[0] % videos:
        raise ValueError(
            f"The model was called with a batch of {x.shape[0]} for {videos} conds, so the frames of a clip "
            "are not together. Another node re-batches model calls; take it off the model."
        )
    frames = x.shape[0] // videos
    if frames < 2 and "context_window" in options:
        raise ValueError(
            f"{settings.name} got windows of a single frame, but motion needs several: set `length` of "
            "Context Windows to 16, or bypass Apply Motion Module."
        )
    if frames < 2:
        raise ValueError(
            f"{settings.name} got a single frame, but motion needs several: set the batch size of the empty "
            "latent to the number of frames (16 is what motion modules were trained on), or bypass Apply "
            "Motion Module."
        )
    return frames


def _is_active(settings: AppliedMotion, model_sampling: Any, t: Any) -> bool:
    """Whether the noise level lies in the part of the schedule that the user chose."""
    if is_number(settings.effect) and settings.effect == 0.0:
        return False
    if settings.start_percent <= 0.0 and settings.end_percent >= 1.0:
        return True  # without a look at t, which would make a GPU wait
    sigma = float(t.flatten()[0])
    first = model_sampling.percent_to_sigma(settings.start_percent)
    last = model_sampling.percent_to_sigma(settings.end_percent)
    return last <= sigma <= first
