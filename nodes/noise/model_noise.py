"""Model Noise: start noise that rides on the MODEL, for every sampler node that draws its own.

KSampler, detailers and tiled upscalers have no socket for noise. What they drew is exchanged when sampling
begins (:mod:`~.model_start`) for noise of the same seed whose frames are related as the user wants.
"""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ...motion_core.clips.frame_noise import NOISE_KINDS, FrameNoise
from ..checks import check_inputs
from ..compat import make_schema
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
            search_aliases=["freenoise", "animatediff noise", "sample settings", "seed per frame"],
            inputs=[
                io.Model.Input("model", tooltip="A model, with a motion module applied before or after."),
                io.Combo.Input(
                    "kind",
                    options=list(NOISE_KINDS),
                    default="freenoise",
                    tooltip=(
                        "independent: every frame its own. constant: one noise for all frames. mixed: partly "
                        "shared, partly their own. repeated: returns after `length` frames. freenoise: "
                        "returns after `length` frames in a shuffled order."
                    ),
                ),
                io.Combo.Input(
                    "seeding",
                    options=list(SEEDINGS),
                    default="clip",
                    tooltip=(
                        "clip: one seed for all frames, as KSampler draws. frame: each frame has the seed "
                        "before it plus 1, as in A1111."
                    ),
                ),
                io.Float.Input(
                    "shared",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="mixed only: part of the noise (of its variance) that all frames share.",
                ),
                io.Int.Input(
                    "length",
                    default=16,
                    min=1,
                    max=128,
                    tooltip="repeated, freenoise: frames after which the noise returns; the context length.",
                ),
                io.Int.Input(
                    "overlap",
                    default=4,
                    min=0,
                    max=127,
                    tooltip=(
                        "freenoise only: the overlap of the context windows. length - overlap frames are "
                        "shuffled together."
                    ),
                ),
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
