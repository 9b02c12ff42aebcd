"""Sockets and widgets that our sampler nodes share with KSampler."""

from __future__ import annotations

import comfy.samplers
from comfy_api.latest import io

from ..motion_core.clips.frame_noise import NOISE_KINDS
from ..motion_core.clips.free_init import FILTERS


def noise_input() -> io.Input:
    """The socket for noise of another kind than KSampler's."""
    return io.Noise.Input(
        "noise",
        optional=True,
        tooltip="Start noise, from Frame Noise or Random Noise. Its seed then counts instead of `seed`.",
    )


def sampler_inputs() -> list[io.Input]:
    """KSampler's sockets and widgets, up to the latent."""
    return [
        io.Model.Input("model", tooltip="A model with a motion module applied."),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=True,
            tooltip="Seed of the noise.",
        ),
        io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Denoising steps."),
        io.Float.Input(
            "cfg",
            default=8.0,
            min=0.0,
            max=100.0,
            step=0.1,
            round=0.01,
            tooltip="Classifier-free guidance: how closely the prompt is followed. 7 to 8 is usual.",
        ),
        io.Combo.Input(
            "sampler_name",
            options=list(comfy.samplers.KSampler.SAMPLERS),
            tooltip="The sampling algorithm; any will do.",
        ),
        io.Combo.Input(
            "scheduler",
            options=list(comfy.samplers.KSampler.SCHEDULERS),
            tooltip="How the noise is spread over the steps.",
        ),
        io.Conditioning.Input("positive", tooltip="What to show; may change over the frames."),
        io.Conditioning.Input("negative", tooltip="What to keep out; may change over the frames."),
        io.Latent.Input("latent_image", tooltip="The frames to denoise, one per entry of the batch."),
    ]


def low_pass_inputs() -> list[io.Input]:
    """Widgets of FreeInit."""
    return [
        io.Int.Input(
            "iterations",
            default=3,
            min=1,
            max=10,
            tooltip="How often to sample. 1 is plain sampling; 2 or 3 bring most of the gain.",
        ),
        io.Combo.Input(
            "filter",
            options=list(FILTERS),
            default="gaussian",
            tooltip=(
                "How the slow part is cut out. gaussian keeps least, butterworth more; ideal and box "
                "cut sharply."
            ),
        ),
        io.Float.Input(
            "spatial_cutoff",
            default=0.25,
            min=0.01,
            max=2.0,
            step=0.01,
            tooltip="Up to which spatial frequency the clip before is kept; 1 is the finest detail.",
        ),
        io.Float.Input(
            "temporal_cutoff",
            default=0.25,
            min=0.01,
            max=2.0,
            step=0.01,
            tooltip="Up to which frequency over the frames it is kept; higher keeps its motion.",
        ),
        io.Int.Input("order", default=4, min=1, max=20, tooltip="butterworth only: steepness of the filter."),
    ]


def noise_kind_input() -> io.Input:
    """How the frames' noises are related."""
    return io.Combo.Input(
        "kind",
        options=list(NOISE_KINDS),
        default="freenoise",
        tooltip=(
            "independent: every frame its own. constant: one noise for all frames. mixed: partly "
            "shared, partly their own. repeated: returns after `length` frames. freenoise: "
            "returns after `length` frames in a shuffled order."
        ),
    )


def noise_shape_inputs() -> list[io.Input]:
    """What the kinds of noise ask besides."""
    return [
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
    ]
