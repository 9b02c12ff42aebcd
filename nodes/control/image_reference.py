"""Image Reference: animate a picture with an AnimateLCM-I2V motion module."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ...motion_core.control.image_encoder import DEFAULT_MOTION_SCALE, feature_places, features_by_module
from ...motion_core.files.control_parts import IMAGE_ENCODER
from ...motion_core.module.call import MotionCall
from ..checks import check_inputs
from ..compat import make_schema
from ..types import CATEGORY, LoadedMotionModule
from .control_run import ControlCall, ControlRun, Part
from .motion_control import Control, MotionControl, chosen_controls, control_input
from .reference import Reference, image_input, reference, vae_input


@dataclass(frozen=True, eq=False)
class ImageControl(Control):
    """What the node was told."""

    reference: Reference
    motion_scale: float

    title = "Image Reference"
    part = IMAGE_ENCODER

    def check(self, module: LoadedMotionModule, model: ModelPatcher) -> str:
        encoder = getattr(module.patcher.model, IMAGE_ENCODER, None)
        if encoder is None:
            raise ValueError(
                f"Image Reference needs an AnimateLCM-I2V motion module, and {module.name} is none: it has "
                "no image encoder (img_encoder). Load AnimateLCM_sd15_i2v.ckpt, or take Image Reference away."
            )
        widths = tuple(module.config.widths[name] for name in feature_places(module.config.widths))
        if widths != encoder.widths:
            raise ValueError(
                f"The image encoder of {module.name} does not fit its motion modules: their levels have "
                f"{widths} channels, the encoder's {encoder.widths}. Download the file again."
            )
        return f"Image Reference: motion scale {self.motion_scale:g}"

    def begin(self, run: ControlRun) -> None:
        self.reference.begin(run, self.title)

    def tell(self, call: MotionCall, motion: ModelPatcher, place: ControlCall) -> MotionCall:
        encoder = getattr(motion.model, IMAGE_ENCODER)

        def features(part: Part) -> list[torch.Tensor]:
            latents = self.reference.latents(place, part)
            return encoder(latents, place.run.num_frames, self.motion_scale)

        made = place.rows(self, features)
        return replace(call, features=features_by_module(made, motion.model.config.widths))


class ImageReference(io.ComfyNode):
    """A picture for an AnimateLCM-I2V module."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlipbookImageReference",
            display_name="Image Reference",
            category=CATEGORY,
            description=(
                "Animates a picture with an AnimateLCM-I2V motion module, whose image encoder shows it to "
                "all frames."
            ),
            search_aliases=[
                "Apply AnimateLCM-I2V Model",
                "Scale Ref Image and VAE Encode",
                "image to video",
                "animate image",
                "ref drift",
            ],
            inputs=[
                image_input("The picture, or one per frame. It is cut and scaled to the clip's size."),
                vae_input(),
                io.Float.Input(
                    "motion_scale",
                    default=DEFAULT_MOTION_SCALE,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip=(
                        "How much the frames drift away from the picture. 0.8 is as released, 0 stands "
                        "still, up to 1.5 moves more."
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
        motion_scale: float = DEFAULT_MOTION_SCALE,
        previous: tuple[Control, ...] | None = None,
    ) -> io.NodeOutput:
        check_inputs(cls, locals())
        control = ImageControl(reference(image, vae), float(motion_scale))
        return io.NodeOutput(chosen_controls((*chosen_controls(previous, "previous"), control), "previous"))
