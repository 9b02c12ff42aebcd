"""FreeInit Sampler: sample, keep the slow part of the result as the next start, sample again."""

from __future__ import annotations

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy_api.latest import io

from ...motion_core.clips.frame_noise import FrameNoise
from ...motion_core.clips.free_init import (
    LowPass,
    coarse_to_fine,
    diffuse,
    low_pass_filter,
    mix_frequencies,
    start_scale,
)
from ..checks import check_inputs
from ..compat import filled_latent, fitting_latent, make_schema
from ..sampler_inputs import low_pass_inputs, noise_input, sampler_inputs
from ..types import CATEGORY
from .frame_noise import NoiseSource
from .model_start import own_start


class FreeInitSampler(io.ComfyNode):
    """KSampler, several times over."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlipbookFreeInitSampler",
            display_name="FreeInit Sampler",
            category=CATEGORY,
            description=(
                "Samples a clip several times. Each time starts from noise whose slow part comes from the "
                "clip before: steadier subjects and colours, for as many times the work. Starts from an "
                "empty latent."
            ),
            search_aliases=["AnimateDiff Sampler", "FreeInit Iteration Options", "temporal consistency"],
            inputs=[
                *sampler_inputs(),
                *low_pass_inputs(),
                io.Boolean.Input(
                    "coarse_to_fine",
                    default=False,
                    tooltip="Fewer steps in the first iterations: quicker, a little less steady.",
                ),
                noise_input(),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="The frames of the last iteration.")],
        )

    @classmethod
    def execute(
        cls,
        model: io.Model.Type,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        positive: io.Conditioning.Type,
        negative: io.Conditioning.Type,
        latent_image: io.Latent.Type,
        iterations: int = 3,
        filter: str = "gaussian",
        spatial_cutoff: float = 0.25,
        temporal_cutoff: float = 0.25,
        order: int = 4,
        coarse_to_fine: bool = False,
        noise: io.Noise.Type | None = None,
    ) -> io.NodeOutput:
        check_inputs(cls, locals())
        empty = fitting_latent(model, latent_image)
        if torch.count_nonzero(empty):
            raise ValueError(
                "FreeInit starts from noise alone, but the latent holds pictures. Connect an empty latent, "
                "or sample with KSampler or Context Sampler."
            )
        low_pass = LowPass(filter, spatial_cutoff, temporal_cutoff, order)
        keep = low_pass_filter(low_pass, empty.shape[0], *empty.shape[-2:])
        sigma_max = float(model.get_model_object("model_sampling").sigma_max)
        process_in = model.get_model_object("process_latent_in")
        model, noise = own_start(model, noise, seed, again=False)
        latent = {**latent_image, "samples": empty}
        first = start = noise.generate_noise(latent)
        samples = empty
        plan = [
            _steps(coarse_to_fine, steps, iteration, iterations) for iteration in range(1, iterations + 1)
        ]
        show = latent_preview.prepare_callback(model, sum(plan))
        for iteration, now in enumerate(plan, start=1):
            done = sum(plan[: iteration - 1])
            if iteration > 1:
                sigma = _first_sigma(model, now, sampler_name, scheduler)
                # Always the first noise: the clip goes back along the way it came (FreeInit, section 4.1).
                # ComfyUI may leave samples on the GPU (--gpu-only); noise is made on the CPU.
                noisy = diffuse(process_in(samples.to(first.device)), first, sigma)
                fresh = NoiseSource(FrameNoise(seed=(noise.seed + iteration - 1) % 2**64))
                start = mix_frequencies(noisy, fresh.generate_noise(latent), keep)
                start *= start_scale(sigma, sigma_max)
            samples = comfy.sample.sample(
                *(model, start, now, cfg, sampler_name, scheduler, positive, negative, empty),
                noise_mask=latent_image.get("noise_mask"),
                # One bar for all iterations.
                callback=lambda step, x0, x, _, done=done: show(done + step, x0, x, sum(plan)),
                disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
                seed=noise.seed,
            )
        return io.NodeOutput(filled_latent(latent_image, samples))


def _first_sigma(model: io.Model.Type, steps: int, sampler_name: str, scheduler: str) -> float:
    """Noise level from which KSampler starts."""
    sampler = comfy.samplers.KSampler(model, steps, model.load_device, sampler_name, scheduler)
    return float(sampler.sigmas[0])


def _steps(quick: bool, steps: int, iteration: int, iterations: int) -> int:
    return coarse_to_fine(steps, iteration, iterations) if quick else steps
