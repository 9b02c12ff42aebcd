"""Apply Motion Module: make an image model animate its batch.

The motion model's weights are an additional model of the patcher, so that ComfyUI loads, offloads and patches
them as it does with every model. Its layers enter the UNet inside an APPLY_MODEL wrapper and leave it when
the call ends, so the model that clones share is never seen changed: not by another branch of the graph, not
by Save Checkpoint, not after an error or a cancelled run. (An injection would keep the layers in while the
model is loaded, and rename the base's own layers.)
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from comfy.model_sampling import ModelSamplingDiscrete
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import io

from ...motion_core.module.call import MotionCall
from ...motion_core.module.config import GENERATIONS
from ...motion_core.module.injection import check_fit, inserted
from ...motion_core.module.unet import unet_slots
from ..checks import check_inputs
from ..compat import (
    INCUMBENT,
    causal_frame_is_added,
    chosen_attention,
    follow_device,
    incumbent_is_on,
    keep_copies_alike,
    logger,
    make_schema,
    node_id,
    show_on_node,
)
from ..control.control_run import control_call
from ..control.motion_control import (
    Control,
    MotionControl,
    added_inputs,
    attach_controls,
    begin_controls,
    chosen_controls,
    with_controls,
    with_inputs,
)
from ..run_start import begin_run
from ..types import CATEGORY, LoadedMotionModule, MotionLora, MotionModule
from .load import chosen_loras
from .motion_lora import patch_motion_lora
from .noise_schedule import CHOICES, LCM_NOTE, ChosenSchedule, patch_schedule, tell_if_replaced

KEY = "animatediff_flipbook"
"""Under which our models, settings and wrapper are found on a patcher."""


@dataclass(frozen=True)
class MotionSettings:
    """What the node was told; one per motion module on the model, in the order of application."""

    name: str
    scale: float
    effect: float
    start_percent: float
    end_percent: float
    schedule: ChosenSchedule | None = None
    """The noise schedule that the node has set; None if it has left the model's."""
    controls: tuple[Control, ...] = ()
    """What steers the frames by a picture or a camera."""


class ApplyMotionModule(io.ComfyNode):
    """Puts a motion module on a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlipbookApplyMotionModule",
            display_name="Apply Motion Module",
            category=CATEGORY,
            description=(
                "Makes the model animate: the images of a batch become the frames of one clip. Set the "
                "batch size of the empty latent to the number of frames (16 is what motion modules were "
                "trained on)."
            ),
            search_aliases=["animatediff", "use animatediff", "motion model"],
            inputs=[
                io.Model.Input("model", tooltip="An SD1.5 or SDXL model, with or without patches."),
                MotionModule.Input("motion_module", tooltip="From Load Motion Module."),
                MotionLora.Input(
                    "motion_lora", optional=True, tooltip="Camera motions, from Load MotionLoRA."
                ),
                io.Float.Input(
                    "scale",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Amount of motion: a factor on the temporal attention logits. 1 is as trained.",
                ),
                io.Float.Input(
                    "effect",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Blend between the plain model (0: the module is skipped) and the module (1).",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Part of the noise schedule at which the motion module sets in.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Part of the noise schedule at which the motion module ends.",
                ),
                io.Combo.Input(
                    "beta_schedule",
                    options=list(CHOICES),
                    default="auto",
                    tooltip=(
                        "Noise schedule. auto: the one the motion module was trained with; the wrong one "
                        "shows as flicker and washed-out colours. sqrt_linear: v1, v2, v3. linear: SD1.5's "
                        "own, HotshotXL. linear_sdxl: SDXL beta. keep: the model's, or that of a "
                        "ModelSampling node. lcm and its relatives: few steps with AnimateLCM."
                    ),
                ),
                MotionControl.Input(
                    "motion_control",
                    optional=True,
                    tooltip="A picture to start from or a camera's path: PIA Reference, Image Reference, "
                    "Camera Control.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model, animated.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: io.Model.Type,
        motion_module: LoadedMotionModule,
        motion_lora: object = None,
        scale: float = 1.0,
        effect: float = 1.0,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        beta_schedule: str = "auto",
        motion_control: tuple[Control, ...] | None = None,
    ) -> io.NodeOutput:
        check_inputs(cls, locals())
        _require_loaded(motion_module)
        if incumbent_is_on(model):
            raise ValueError(INCUMBENT)
        if start_percent > end_percent:
            raise ValueError(
                f"start_percent {start_percent:g} lies behind end_percent {end_percent:g}. Swap them."
            )
        slots = {slot.name: slot for slot in unet_slots(model.get_model_object("diffusion_model"))}
        check_fit(motion_module.patcher.model, slots, motion_module.name)

        model = model.clone()
        present = model.get_additional_models_with_key(KEY)
        patcher = motion_module.patcher.clone()
        elsewhere = patcher.load_device != model.load_device
        if elsewhere or any(other.is_clone(patcher) for other in present):
            # One set of weights is in one place, and cannot carry two sets of patches in the same call.
            patcher = motion_module.load_again()
        if elsewhere:
            follow_device(patcher, model)
        if beta_schedule == "auto" and effect == 0.0:
            beta_schedule = "keep"  # a motion module that takes no part has no wishes
        # The schedule first: a node of ordinary size has room for two lines.
        before = model.get_model_object("model_sampling")
        lines = [_patch_schedule(model, beta_schedule, motion_module)]
        sampling = model.get_model_object("model_sampling")
        schedule = None if sampling is before else ChosenSchedule(sampling, lines[0], node_id(cls))
        lines += [patch_motion_lora(patcher, chosen, motion_module) for chosen in chosen_loras(motion_lora)]

        controls = chosen_controls(motion_control)
        lines += attach_controls(controls, model, patcher, motion_module, present)

        settings = MotionSettings(
            motion_module.name, scale, effect, start_percent, end_percent, schedule, controls
        )
        model.set_additional_models(KEY, [*present, patcher])
        keep_copies_alike(model, KEY)
        model.set_attachments(KEY, (*(model.get_attachment(KEY) or ()), settings))
        model.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, run_with_motion)
        model.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, KEY)
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, apply_model_with_motion)

        logger.info("%s: %s", motion_module.name, lines[0])
        show_on_node(cls, "\n".join(lines))
        return io.NodeOutput(model)


def _patch_schedule(model: io.Model.Type, choice: str, motion_module: LoadedMotionModule) -> str:
    """Set the noise schedule; *auto* of a consistency model is a distilled one."""
    config = motion_module.config
    known = GENERATIONS[config.generation].beta_schedule
    plain = config.generation.startswith("animatelcm") and config.beta_schedule == known
    discrete = isinstance(model.get_model_object("model_sampling"), ModelSamplingDiscrete)
    if choice == "auto" and plain and discrete:
        patch_schedule(model, "lcm", config.beta_schedule)
        return LCM_NOTE
    return patch_schedule(model, choice, config.beta_schedule)


def run_with_motion(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """OUTER_SAMPLE wrapper: look at what the run was given, and at the noise schedule."""
    guider = executor.class_obj
    noise = inspect.signature(executor.original).bind(*args, **kwargs).arguments["noise"]
    begin_run(guider, noise)
    patcher = guider.model_patcher
    begin_controls(guider, noise, [one.controls for one in patcher.get_attachment(KEY) or ()])
    chosen = [one.schedule for one in patcher.get_attachment(KEY) or () if one.schedule is not None]
    if chosen:
        tell_if_replaced(chosen[-1], patcher.get_model_object("model_sampling"))
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
    motions, inputs = [], []
    for motion_patcher, settings in zip(
        patcher.get_additional_models_with_key(KEY), patcher.get_attachment(KEY), strict=True
    ):
        if _is_active(settings, base.model_sampling, t):
            frames = _frames(x, options, settings)
            known = motion_patcher.model.config.pe_length
            if frames > known and causal_frame_is_added(options):
                raise ValueError(
                    "ComfyUI's Context Windows (Manual) adds a frame to each of its windows, which makes "
                    f"{frames}, and {settings.name} knows positions for {known}. Switch its "
                    "causal_window_fix off, or use AnimateDiff Flipbook's Context Windows, which cuts "
                    "ControlNet images as well."
                )
            call = MotionCall(
                frames=frames,
                scale=settings.scale,
                effect=settings.effect,
                attention=chosen_attention(options),
            )
            if settings.controls and not call.is_off:
                place = control_call(base, x, options, frames)
                call = with_controls(call, settings.controls, motion_patcher, place)
                inputs += added_inputs(settings.controls, motion_patcher, place)
            motions.append((motion_patcher.model, call))
    if motions and incumbent_is_on(patcher):
        raise ValueError(INCUMBENT)
    with inserted(base.diffusion_model, motions), with_inputs(base.diffusion_model, inputs):
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)


def _frames(x: Any, options: dict, settings: MotionSettings) -> int:
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
    if frames < 2:
        raise ValueError(
            f"{settings.name} got a single frame, but motion needs several: set the batch size of the empty "
            "latent to the number of frames (16 is what motion modules were trained on), or bypass Apply "
            "Motion Module."
        )
    return frames


def _is_active(settings: MotionSettings, model_sampling: Any, t: Any) -> bool:
    """Whether the noise level lies in the part of the schedule that the user chose."""
    if settings.effect == 0.0:
        return False
    if settings.start_percent <= 0.0 and settings.end_percent >= 1.0:
        return True  # without a look at t, which would make a GPU wait
    sigma = float(t.flatten()[0])
    first = model_sampling.percent_to_sigma(settings.start_percent)
    last = model_sampling.percent_to_sigma(settings.end_percent)
    return last <= sigma <= first


def _require_loaded(value: object) -> None:
    if not hasattr(value, "load_again"):
        raise ValueError(
            f"The motion_module input got a {type(value).__name__}. Connect Load Motion Module "
            "(FlipbookLoadMotionModule)."
        )
