"""Model Noise: start noise that rides on the MODEL, for every sampler node that draws its own.

KSampler, detailers and tiled upscalers have no socket for noise. What they drew is exchanged when sampling
begins (:mod:`~.model_start`) for noise of the same seed whose frames are related as the user wants.
"""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ...motion_core.clips.frame_noise import FrameNoise
from ..checks import check_inputs
from ..compat import make_schema
from ..sampler_inputs import noise_kind_input, noise_shape_inputs
from ..types import CATEGORY
from .model_start import ModelNoiseSettings, put_on, start_of

SEEDINGS = ("clip", "frame")


class ModelNoise(io.ComfyNode):
    """Puts start noise on a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlipbookModelNoise",
            display_name="Model Noise",
            category=CATEGORY,
            description=(
                "Start noise for clips that travels with the model: every sampler that gets this model "
                "starts from it, also those without a noise socket (KSampler, detailers, tiled upscalers). "
                "The seed stays the sampler's."
            ),
            search_aliases=[
                "FreeNoise",
                "AnimateDiff noise",
                "Sample Settings",
                "Sampling Settings",
                "seed per frame",
                "ADE",
            ],
            inputs=[
                io.Model.Input("model", tooltip="A model, with a motion module applied before or after."),
                noise_kind_input(),
                io.Combo.Input(
                    "seeding",
                    options=list(SEEDINGS),
                    default="clip",
                    tooltip=(
                        "clip: one seed for all frames, as KSampler draws. frame: each frame has the seed "
                        "before it plus 1, as in A1111."
                    ),
                ),
                *noise_shape_inputs(),
                io.Int.Input(
                    "seed_offset",
                    default=0,
                    min=-0xFFFFFFFF,
                    max=0xFFFFFFFF,
                    optional=True,
                    tooltip="Added to the sampler's seed for the start noise.",
                ),
                io.Int.Input(
                    "frame_offset",
                    default=0,
                    min=0,
                    max=4096,
                    optional=True,
                    tooltip=(
                        "Frames of the noise that are left out before the first: to sample a long clip in "
                        "parts."
                    ),
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model with its start noise.")],
        )

    @classmethod
    def execute(
        cls,
        model: io.Model.Type,
        kind: str = "freenoise",
        seeding: str = "clip",
        shared: float = 0.5,
        length: int = 16,
        overlap: int = 4,
        seed_offset: int = 0,
        frame_offset: int = 0,
    ) -> io.NodeOutput:
        check_inputs(cls, locals())
        if seeding not in SEEDINGS:
            raise ValueError(f"seeding is {' or '.join(SEEDINGS)}, got {seeding!r}.")
        noise = FrameNoise(
            kind,
            shared=shared,
            length=length,
            overlap=overlap if kind == "freenoise" else 0,
            offset=frame_offset,
        )
        chosen = ModelNoiseSettings(noise, seeding, seed_offset)
        return io.NodeOutput(put_on(model, replace(start_of(model), noise=chosen)))
