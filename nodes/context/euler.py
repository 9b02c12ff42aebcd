"""ComfyUI's Euler sampler for long clips: the same numbers in less memory.

While the next prediction is made, ComfyUI's own still holds the noise, the clip as it was at the start, the
last prediction and the last direction, none of which is read again. For a picture that is nothing; in a clip
of 1,000 frames at 768 x 768 pixels each of them takes 150 MB.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from comfy.samplers import KSAMPLER, KSamplerX0Inpaint, sampler_object
from tqdm.auto import trange

from ..compat import guidance_is_plain

GUIDER = "animatediff_flipbook_guider"
"""Under which the model options of a call hold the guider, if its guided prediction is all that is needed."""

EULER_NAMES = ("euler", "ddim")
"""ComfyUI's names of Euler's method; they differ in the noise behind a mask."""


class EulerInPlace(KSAMPLER):
    """Euler's method (Karras et al. 2022, algorithm 2 without churn). The noise that it is given becomes the
    clip: ``noise`` is overwritten. On the CPU the result is ComfyUI's to the bit.

    It is ComfyUI's sampler itself where the noise is needed to the end (masks), where a step changes the
    dtype, and where something looks at states or predictions and may keep them.
    """

    def __init__(self, name: str = "euler") -> None:
        """``name``: one of ``EULER_NAMES``."""
        core = sampler_object(name)
        super().__init__(core.sampler_function, core.extra_options, core.inpaint_options)
        self.core_function = core.sampler_function

    @torch.no_grad()
    def sample(
        self,
        model_wrap: Any,
        sigmas: torch.Tensor,
        extra_args: dict,
        callback: Callable | None,
        noise: torch.Tensor,
        latent_image: torch.Tensor | None = None,
        denoise_mask: torch.Tensor | None = None,
        disable_pbar: bool = False,
    ) -> torch.Tensor:
        """Denoise ``noise`` (F, C, H, W) along ``sigmas`` (S + 1,)."""
        options = extra_args["model_options"]
        if (
            denoise_mask is not None
            or not noise.dtype == sigmas.dtype == torch.float32
            or self.sampler_function is not self.core_function
            or not guidance_is_plain(options)
        ):
            return super().sample(
                *(model_wrap, sigmas, extra_args, callback, noise, latent_image, denoise_mask, disable_pbar)
            )
        extra_args = {**extra_args, "denoise_mask": None, "model_options": {**options, GUIDER: model_wrap}}
        if self.inpaint_options.get("random"):
            # ddim draws noise for a mask without one too, and what draws during sampling goes on from there.
            torch.randn(noise.shape, generator=torch.manual_seed(extra_args["seed"] + 1))
        model = KSamplerX0Inpaint(model_wrap, sigmas)
        model_sampling = model_wrap.inner_model.model_sampling
        at_start = self.max_denoise(model_wrap, sigmas)
        x = noise.copy_(model_sampling.noise_scaling(sigmas[0], noise, latent_image, at_start))
        each_frame = x.new_ones([x.shape[0]])
        steps = len(sigmas) - 1
        for step in trange(steps, disable=disable_pbar):
            denoised = model(x, sigmas[step] * each_frame, **extra_args)
            # ComfyUI's operations in ComfyUI's order, so that not a bit differs.
            direction = (x - denoised).div_(sigmas[step])
            if callback is not None:
                callback(step, denoised, x, steps)
            x += direction.mul_(sigmas[step + 1] - sigmas[step])
            del denoised, direction  # not to be held while the next prediction is made
        return model_sampling.inverse_noise_scaling(sigmas[-1], x)
