"""Model Noise: start noise that rides on the MODEL, for every sampler node that draws its own.

KSampler, detailers and tiled upscalers have no socket for noise. An OUTER_SAMPLE wrapper exchanges what they
drew, at the moment when sampling begins, for noise of the same seed whose frames are related as the user
wants. A sampler that adds no noise (the second pass of KSampler (Advanced)) is left without.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import io

from ...motion_core.clips.frame_noise import NOISE_KINDS, FrameNoise, draw_frame_noise
from ..compat import logger, make_schema
from ..types import CATEGORY
from .frame_noise import NoiseSource

KEY = "animatediff_flipbook_noise"
"""Under which our settings and wrapper are found on a patcher."""
SEEDINGS = ("clip", "frame")


@dataclass(frozen=True)
class ModelNoiseSettings:
    """What the node was told."""

    noise: FrameNoise
    """Kind and frames; its seed is the sampler's, which each run has its own of."""
    seeding: str
    """``clip``: one seed for all frames, as ComfyUI draws. ``frame``: frame ``i`` has the seed plus ``i``."""
    seed_offset: int

    def for_seed(self, seed: int) -> FrameNoise:
        """The noise of a run whose sampler has this seed."""
        seed = (seed + self.seed_offset) % 2**64
        return replace(self.noise, seed=seed, frame_seeds=(seed,) if self.seeding == "frame" else None)


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
        if seeding not in SEEDINGS:
            raise ValueError(f"seeding is {' or '.join(SEEDINGS)}, got {seeding!r}.")
        noise = FrameNoise(
            kind,
            shared=shared,
            length=length,
            overlap=overlap if kind == "freenoise" else 0,
            offset=frame_offset,
        )
        model = without_model_noise(model)
        model.set_attachments(KEY, ModelNoiseSettings(noise, seeding, seed_offset))
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, sample_with_model_noise)
        return io.NodeOutput(model)


def sample_with_model_noise(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """OUTER_SAMPLE wrapper: exchange the sampler's start noise.

    Raises:
        ValueError: the latent holds no frames.
    """
    settings = executor.class_obj.model_patcher.get_attachment(KEY)
    call = inspect.signature(executor.original).bind(*args, **kwargs)
    given, seed = call.arguments["noise"], call.arguments.get("seed")
    if given.ndim != 4:
        raise ValueError(
            f"Model Noise makes noise for frames in the batch, (F, C, H, W), and this run has noise of shape "
            f"{tuple(given.shape)}. Take it off the model."
        )
    if not torch.count_nonzero(given):
        return executor(*args, **kwargs)  # the sampler was told to add none
    if settings.noise.is_plain and settings.seeding == "clip" and not settings.seed_offset:
        return executor(*args, **kwargs)  # the sampler has drawn just that
    if seed is None:
        logger.warning("This sampler does not tell its seed; Model Noise takes 0.")
    call.arguments["noise"] = draw_frame_noise(settings.for_seed(seed or 0), given.shape).to(given)
    return executor(*call.args, **call.kwargs)


def without_model_noise(model: io.Model.Type) -> io.Model.Type:
    """A clone that starts from the noise it is given."""
    model = model.clone()
    model.remove_attachments(KEY)
    model.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    return model


def start_noise(
    model: io.Model.Type, noise: io.Noise.Type | None, seed: int
) -> tuple[io.Model.Type, io.Noise.Type]:
    """For sampler nodes of our own: the model without a say, and the NOISE to start from. A connected
    ``noise`` counts before Model Noise, and that before KSampler's."""
    settings = model.get_attachment(KEY)
    if settings is None:
        return model, noise or NoiseSource(FrameNoise(seed=seed))
    if noise is not None:
        logger.warning("The noise socket is connected: Model Noise on this model is not used.")
    return without_model_noise(model), noise or NoiseSource(settings.for_seed(seed), seed)
