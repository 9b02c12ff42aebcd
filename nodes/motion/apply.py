"""Apply Motion Module: make an image model animate its batch.

The motion model's weights are an additional model of the patcher, so that ComfyUI loads, offloads and patches
them as it does with every model. Its layers enter the UNet inside an APPLY_MODEL wrapper and leave it when
the call ends, so the model that clones share is never seen changed: not by another branch of the graph, not
by Save Checkpoint, not after an error or a cancelled run. (An injection would keep the layers in while the
model is loaded, and rename the base's own layers.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from comfy.model_sampling import ModelSamplingDiscrete
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import io

from ...motion_core.module.config import GENERATIONS
from ...motion_core.module.injection import check_fit
from ...motion_core.module.unet import unet_slots
from ...motion_core.module.values import Value, is_number, times
from ...motion_core.schedule.keyframes import Keyframe, KeyframeSchedule
from ..checks import check_inputs
from ..compat import (
    INCUMBENT,
    follow_device,
    incumbent_is_on,
    keep_copies_alike,
    logger,
    make_schema,
    node_id,
    show_on_node,
)
from ..control.motion_control import Control, MotionControl, attach_controls, chosen_controls
from ..types import CATEGORY, LoadedMotionModule, MotionKeyframes, MotionLora, MotionModule, MotionSettings
from .load import chosen_loras
from .motion_keyframe import given_keyframes
from .motion_lora import load_beside, patch_motion_lora
from .motion_run import KEY, LORA_KEY, apply_model_with_motion, run_with_motion, sample_with_keyframes
from .motion_settings import given_settings
from .motion_value import as_value, value_input
from .noise_schedule import CHOICES, LCM_NOTE, ChosenSchedule, patch_schedule
from .settings import AppliedMotion, ModuleSettings, patch_factors


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
            search_aliases=[
                "AnimateDiff",
                "animate",
                "AnimateDiff Loader",
                "Apply AnimateDiff Model",
                "Use Evolved Sampling",
                "Create Sigma Schedule",
                "motion model",
                "ADE",
            ],
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
                    max=10.0,
                    step=0.01,
                    tooltip=(
                        "Blend between the plain model (0: the module is skipped) and the module (1). Above "
                        "1 the module counts more than it was trained to; 1.1 is a careful choice."
                    ),
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
                value_input(
                    "scale_values",
                    "Scale for each frame or place, times `scale`: Float Schedule, masks or Motion Value.",
                ),
                value_input(
                    "effect_values",
                    "Effect for each frame or place, times `effect`: Float Schedule, masks or Motion Value.",
                ),
                MotionSettings.Input(
                    "motion_settings", optional=True, tooltip="Positions, weights and blocks."
                ),
                MotionKeyframes.Input(
                    "motion_keyframes", optional=True, tooltip="Values that change over the steps."
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
        scale_values: object = None,
        effect_values: object = None,
        motion_settings: object = None,
        motion_keyframes: object = None,
        motion_control: tuple[Control, ...] | None = None,
    ) -> io.NodeOutput:
        # A FLOAT link may carry a list: then it is a value for each frame.
        given = {"scale": scale, "effect": effect}
        lists = {name: 1.0 for name, value in given.items() if isinstance(value, list | tuple | torch.Tensor)}
        check_inputs(cls, {**locals(), **lists})
        amount = times(_value("scale", scale), _value("scale_values", scale_values))
        share = times(_value("effect", effect), _value("effect_values", effect_values))
        settings = given_settings("motion_settings", motion_settings)
        keyframes = given_keyframes("motion_keyframes", motion_keyframes)
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
        if beta_schedule == "auto" and is_number(share) and share == 0.0:
            beta_schedule = "keep"  # a motion module that takes no part has no wishes
        # The schedule first: a node of ordinary size has room for two lines.
        before = model.get_model_object("model_sampling")
        lines = [_patch_schedule(model, beta_schedule, motion_module)]
        sampling = model.get_model_object("model_sampling")
        schedule = None if sampling is before else ChosenSchedule(sampling, lines[0], node_id(cls))
        patch_factors(patcher, settings.factors)
        lines += _without_use(settings, keyframes, motion_module, motion_lora)
        loras = chosen_loras(motion_lora)
        strengths: tuple[Value, ...] = ()
        besides = model.get_additional_models_with_key(LORA_KEY)
        changing = any("lora_strength" in keyframe.values for keyframe in keyframes)
        if changing or not all(is_number(one.strength) for one in loras):
            strengths = tuple(one.strength for one in loras)
            if loras:
                beside, about = load_beside(loras, patcher, motion_module)
                if elsewhere:
                    follow_device(beside, model)
                besides = [*besides, beside]
                lines += about
        else:
            lines += [patch_motion_lora(patcher, one, motion_module) for one in loras]

        controls = chosen_controls(motion_control)
        lines += attach_controls(controls, model, patcher, motion_module, present)

        applied = AppliedMotion(
            name=motion_module.name,
            scale=amount,
            effect=share,
            start_percent=start_percent,
            end_percent=end_percent,
            schedule=schedule,
            module=settings,
            keyframes=KeyframeSchedule.of(keyframes) if keyframes else None,
            lora_strengths=strengths,
            controls=controls,
        )
        model.set_additional_models(KEY, [*present, patcher])
        model.set_additional_models(LORA_KEY, besides)
        for key in (KEY, LORA_KEY):
            keep_copies_alike(model, key)
        model.set_attachments(KEY, (*(model.get_attachment(KEY) or ()), applied))
        wrappers = {
            WrappersMP.OUTER_SAMPLE: run_with_motion,
            WrappersMP.SAMPLER_SAMPLE: sample_with_keyframes,
            WrappersMP.APPLY_MODEL: apply_model_with_motion,
        }
        for place, wrapper in wrappers.items():
            model.remove_wrappers_with_key(place, KEY)
            model.add_wrapper_with_key(place, KEY, wrapper)

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


def _value(name: str, given: object) -> Value:
    return as_value(name, given, 0.0, 10.0)


def _without_use(
    settings: ModuleSettings, keyframes: Sequence[Keyframe], module: LoadedMotionModule, motion_lora: object
) -> list[str]:
    """A line for each thing that is set and does nothing."""
    lines = []
    if motion_lora is None and any("lora_strength" in keyframe.values for keyframe in keyframes):
        lines.append("A keyframe sets lora_strength, and there is no MotionLoRA to have it")
    blocks = [*settings.blocks, *(block for one in keyframes for block in one.values.get("blocks") or ())]
    missing = [
        values.block for values in blocks if not any(values.names(name) for name in module.config.widths)
    ]
    if missing:
        named = ", ".join(dict.fromkeys(missing))
        lines.append(f"{module.name} has no block {named}: values for it do nothing")
    for line in lines:
        logger.warning("%s", line)
    return lines


def _require_loaded(value: object) -> None:
    if not hasattr(value, "load_again"):
        raise ValueError(
            f"The motion_module input got a {type(value).__name__}. Connect Load Motion Module "
            "(FlipbookLoadMotionModule)."
        )
