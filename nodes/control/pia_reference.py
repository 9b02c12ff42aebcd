"""PIA Reference: animate a picture with a PIA motion module."""

from __future__ import annotations

from dataclasses import dataclass

import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import nn

from ...motion_core.control.pia import SETTINGS, check_base, frame_values, input_channels
from ...motion_core.files.control_parts import PIA_INPUT
from ...motion_core.module.values import check_value, extended
from ..checks import check_inputs
from ..compat import logger, make_schema
from ..schedule.prompt_schedule import Floats
from ..types import CATEGORY, LoadedMotionModule
from .control_run import ControlCall, ControlRun, Part
from .motion_control import Control, MotionControl, chosen_controls, control_input
from .numbers import as_numbers
from .reference import Reference, image_input, reference, vae_input


@dataclass(frozen=True, eq=False)
class PiaControl(Control):
    """What the node was told."""

    reference: Reference
    setting: str | tuple[float, ...]
    reference_frame: int
    mask: torch.Tensor | None
    """``(R, h, w)``: where it is 0, nothing holds the frame to the picture."""

    title = "PIA Reference"
    part = PIA_INPUT

    def check(self, module: LoadedMotionModule, model: ModelPatcher) -> str:
        layer = getattr(module.patcher.model, PIA_INPUT, None)
        if layer is None:
            raise ValueError(
                f"PIA Reference needs a PIA motion module, and {module.name} is none: it has no input for a "
                "picture (conv_in with 9 channels). Load pia.ckpt, or take PIA Reference away."
            )
        check_base(model.get_model_object("diffusion_model"), layer)
        values = self.setting if isinstance(self.setting, str) else f"{len(self.setting)} values"
        return f"PIA Reference: {values}, reference is frame {self.reference_frame}"

    def begin(self, run: ControlRun) -> None:
        frame_values(self.setting, run.num_frames, self.reference_frame)
        count = 1 if self.mask is None else self.mask.shape[0]
        if count not in (1, run.num_frames):
            logger.warning("PIA Reference: %d masks for a clip of %d frames.", count, run.num_frames)
        self.reference.begin(run, self.title)

    def added_input(self, motion: ModelPatcher, place: ControlCall) -> tuple[nn.Module, torch.Tensor]:
        (channels,) = place.rows(self, lambda part: [self._channels(place, part)])
        return getattr(motion.model, PIA_INPUT), channels

    def _channels(self, place: ControlCall, part: Part) -> torch.Tensor:
        values = frame_values(self.setting, place.run.num_frames, self.reference_frame)
        if self.mask is not None:
            mask = comfy.utils.common_upscale(
                self.mask.unsqueeze(1), part.width, part.height, "bilinear", "center"
            )
            mask = extended(part.of(mask.squeeze(1)), place.run.num_frames)
            values = values.view(-1, 1, 1).to(mask) * mask
        return input_channels(values, self.reference.latents(place, part))


class PiaReference(io.ComfyNode):
    """A picture for a PIA module."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlipbookPiaReference",
            display_name="PIA Reference",
            category=CATEGORY,
            description=(
                "Animates a picture with a PIA motion module: every frame sees the picture, and a value says "
                "how near it stays to it."
            ),
            search_aliases=[
                "Apply AnimateDiff-PIA Model",
                "PIA Input Paper Presets",
                "PIA Input Multival",
                "image to video",
                "animate image",
            ],
            inputs=[
                image_input("The picture, or one per frame. It is cut and scaled to the clip's size."),
                vae_input(),
                io.Combo.Input(
                    "setting",
                    options=list(SETTINGS),
                    default="animation small",
                    tooltip=(
                        "The authors' settings. animation: from the picture on, with small, medium or large "
                        "motion. loop: back to the picture at the end. style: for a base of another style "
                        "than the picture's."
                    ),
                ),
                io.Int.Input(
                    "reference_frame",
                    default=0,
                    min=-4096,
                    max=4095,
                    tooltip="Which frame the picture is. Negative ones count from the end: -1 is the last.",
                ),
                io.MultiType.Input(
                    "values",
                    [io.Float, Floats],
                    optional=True,
                    tooltip=(
                        "Values of your own in place of the setting's, by distance from the reference frame; "
                        "the last one goes on. 1: as the picture; 0: free."
                    ),
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip=(
                        "Where the picture counts, one or one per frame: the values are multiplied by it, so "
                        "black parts move freely."
                    ),
                ),
                control_input(),
            ],
            outputs=[MotionControl.Output(display_name="motion_control", tooltip="For Apply Motion Module.")],
        )

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        vae: io.Vae.Type,
        setting: str = "animation small",
        reference_frame: int = 0,
        values: object = None,
        mask: torch.Tensor | None = None,
        previous: tuple[Control, ...] | None = None,
    ) -> io.NodeOutput:
        check_inputs(cls, locals())
        if setting not in SETTINGS:
            raise ValueError(f"Unknown motion setting {setting!r}; expected one of {', '.join(SETTINGS)}.")
        chosen = setting
        if values is not None:
            numbers = as_numbers("values", values, 0.0, 10.0)
            chosen = (numbers,) if isinstance(numbers, float) else tuple(numbers.tolist())
        if mask is not None:
            mask = mask.unsqueeze(0) if mask.ndim == 2 else mask
            check_value("mask", mask, 0.0, 1.0)
        control = PiaControl(reference(image, vae), chosen, reference_frame, mask)
        return io.NodeOutput(chosen_controls((*chosen_controls(previous, "previous"), control), "previous"))
