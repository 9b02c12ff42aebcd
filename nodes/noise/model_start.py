"""From what a run starts that gets our MODEL: its noise exchanged, and sampled again by FreeInit.

KSampler, detailers and samplers of other packs neither have a socket for noise nor sample twice. One
OUTER_SAMPLE wrapper does both where sampling begins. One and not two, because the order of wrappers is not to
be relied on, and FreeInit's noise must not be exchanged again. A sampler that adds no noise (the second pass
of KSampler (Advanced)) is left as it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import comfy.sampler_helpers
import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import io

from ...motion_core.clips.frame_noise import FrameNoise, draw_frame_noise
from ...motion_core.clips.free_init import (
    VARIANTS,
    LowPass,
    diffuse,
    diffuse_dinkinit,
    low_pass_filter,
    mix_frequencies,
    start_noise,
)
from ..compat import logger
from .frame_noise import NoiseSource

KEY = "animatediff_flipbook_start"
"""Under which our settings and wrapper are found on a patcher."""


@dataclass(frozen=True)
class ModelNoiseSettings:
    """What Model Noise was told."""

    noise: FrameNoise
    """Kind and frames; its seed is the sampler's, which each run has its own of."""
    seeding: str
    """``clip``: one seed for all frames, as ComfyUI draws. ``frame``: frame ``i`` has the seed plus ``i``."""
    seed_offset: int

    def for_seed(self, seed: int) -> FrameNoise:
        """The noise of a run whose sampler has this seed."""
        seed = (seed + self.seed_offset) % 2**64
        return replace(self.noise, seed=seed, frame_seeds=(seed,) if self.seeding == "frame" else None)

    @property
    def is_plain(self) -> bool:
        """Whether it is what every sampler draws by itself."""
        return self.noise.is_plain and self.seeding == "clip" and not self.seed_offset


@dataclass(frozen=True)
class FreeInitSettings:
    """What Model FreeInit was told."""

    iterations: int
    low_pass: LowPass
    from_pictures: bool
    """Whether the first iteration, too, keeps the slow part of what the latent shows."""
    variant: str = VARIANTS[0]
    """One of :data:`motion_core.clips.free_init.VARIANTS`."""


@dataclass(frozen=True)
class Start:
    """What our nodes have said of a MODEL's start."""

    noise: ModelNoiseSettings | None = None
    free_init: FreeInitSettings | None = None


def start_of(model: io.Model.Type) -> Start:
    """What is on a MODEL."""
    return model.get_attachment(KEY) or Start()


def put_on(model: io.Model.Type, start: Start) -> io.Model.Type:
    """A clone that starts so."""
    model = model.clone()
    model.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    model.set_attachments(KEY, start)
    if start != Start():
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, sample_from_start)
    return model


def own_start(
    model: io.Model.Type, noise: io.Noise.Type | None, seed: int, *, again: bool = True
) -> tuple[io.Model.Type, io.Noise.Type]:
    """For sampler nodes of our own: the NOISE to start from, and the model without another say in it.

    A connected ``noise`` counts before Model Noise, and that before KSampler's. ``again``: whether the model
    may still sample several times; a node that does so itself says no.
    """
    start = start_of(model)
    if noise is None:
        noise = NoiseSource(start.noise.for_seed(seed) if start.noise else FrameNoise(seed=seed), seed)
    elif start.noise:
        logger.warning("The noise socket is connected: Model Noise on this model is not used.")
    if start.free_init and not again:
        logger.warning("FreeInit Sampler repeats by itself: Model FreeInit on this model is not used.")
    kept = Start(free_init=start.free_init if again else None)
    return (model if kept == start else put_on(model, kept)), noise


def sample_from_start(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """OUTER_SAMPLE wrapper.

    Raises:
        ValueError: the latent holds no frames.
    """
    start = executor.class_obj.model_patcher.get_attachment(KEY)
    call = inspect.signature(executor.original).bind(*args, **kwargs)
    given, seed = call.arguments["noise"], call.arguments.get("seed")
    if given.ndim != 4:
        raise ValueError(
            "Model Noise and Model FreeInit are for frames in the batch, (F, C, H, W), and this run has "
            f"noise of shape {tuple(given.shape)}. Take them off the model."
        )
    if not torch.count_nonzero(given):
        return executor(*args, **kwargs)  # the sampler was told to add none
    if seed is None:
        logger.warning("This sampler does not tell its seed; Model Noise and Model FreeInit take 0.")
    if start.noise and not start.noise.is_plain:
        drawn = draw_frame_noise(start.noise.for_seed(seed or 0), given.shape)
        call.arguments["noise"] = drawn.to(given)
    if start.free_init:
        return _sample_again(executor, call, start.free_init, seed or 0)
    return executor(*call.args, **call.kwargs)


def _sample_again(
    executor: Any, call: inspect.BoundArguments, settings: FreeInitSettings, seed: int
) -> torch.Tensor:
    """FreeInit (Wu et al. 2023) around any sampler."""
    guider, sigmas = executor.class_obj, call.arguments["sigmas"]
    if not float(sigmas[0]) > float(sigmas[-1]) == 0.0:
        logger.warning("This run does not end in a finished clip, which FreeInit needs; it is sampled once.")
        return executor(*call.args, **call.kwargs)
    first, latent = call.arguments["noise"], call.arguments["latent_image"]
    mask = call.arguments.get("denoise_mask")
    if mask is not None:
        mask = comfy.sampler_helpers.prepare_mask(mask, first.shape, first.device)
    model = guider.model_patcher
    process_in, process_out = (model.get_model_object(f"process_latent_{way}") for way in ("in", "out"))
    sigma, sigma_max = float(sigmas[0]), float(model.get_model_object("model_sampling").sigma_max)
    # ComfyUI does not shift an empty latent either.
    under = process_in(latent) if torch.count_nonzero(latent) else torch.zeros_like(latent)
    keep = low_pass_filter(settings.low_pass, first.shape[0], *first.shape[-2:])
    # A run leaves its conds in the form that it has made of them.
    conds = guider.conds
    callback = call.arguments.get("callback")
    clip = under if settings.from_pictures and under.any() else None
    call.arguments["noise"] = first.clone()  # a sampler may use it up, and every iteration needs it
    for iteration in range(settings.iterations):
        if clip is not None:
            fresh = FrameNoise(seed=(seed + (iteration or settings.iterations)) % 2**64)
            fresh = draw_frame_noise(fresh, first.shape).to(first.device)
            if settings.variant == "dinkinit":
                seen = process_out(clip.to(first))
                again = mix_frequencies(diffuse_dinkinit(seen, first, sigma_max), fresh, keep).to(first)
            else:
                mixed = mix_frequencies(diffuse(clip.to(first), first, sigma), fresh, keep)
                again = start_noise(mixed, under.to(first.device), sigma, sigma_max).to(first)
            # Outside of a mask ComfyUI noises the latent itself, with this noise.
            call.arguments["noise"] = again if mask is None else torch.lerp(first, again, mask.to(first))
        guider.conds = {name: [cond.copy() for cond in entries] for name, entries in conds.items()}
        if callback is not None:
            call.arguments["callback"] = _part_of_a_bar(callback, iteration, settings.iterations)
        samples = executor(*call.args, **call.kwargs)
        clip = process_in(samples)
    return samples


def _part_of_a_bar(callback: Callable, iteration: int, iterations: int) -> Callable:
    """The sampler's callback, with one bar for all iterations."""

    def show(step: int, x0: Any, x: Any, total: int) -> Any:
        return callback(iteration * total + step, x0, x, iterations * total)

    return show
