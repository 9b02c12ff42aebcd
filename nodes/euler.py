"""ComfyUI's Euler sampler for long clips: the same numbers in less memory.

While the next prediction is made, ComfyUI's own still holds the noise, the clip as it was at the start, the
last prediction and the last direction, none of which is read again. For a picture that is nothing; in a clip
of 1,000 frames at 768 x 768 pixels each of them takes 150 MB.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from comfy.samplers import KSAMPLER, KSamplerX0Inpaint
from tqdm.auto import trange

EULER_NAMES = ("euler", "ddim")
"""What ComfyUI calls Euler's method; without a mask the two are one."""


class EulerInPlace(KSAMPLER):
    """Euler's method (Karras et al. 2022, algorithm 2 without churn). The noise that it is given becomes the
    clip: ``noise`` is overwritten. The result is bit for bit ComfyUI's.
    """

    def __init__(self) -> None:
        super().__init__(euler_in_place)

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
        """Denoise ``noise`` (F, C, H, W) along ``sigmas`` (S + 1,).

        Raises:
            ValueError: a mask is given, whose background needs the noise as it was.
        """
        if denoise_mask is not None:
            raise ValueError("EulerInPlace overwrites the noise that a mask needs; use ComfyUI's euler.")
        model = KSamplerX0Inpaint(model_wrap, sigmas)
        model_sampling = model_wrap.inner_model.model_sampling
        at_start = self.max_denoise(model_wrap, sigmas)
        noise.copy_(model_sampling.noise_scaling(sigmas[0], noise, latent_image, at_start))

        def report(step: int, x: torch.Tensor, denoised: torch.Tensor) -> None:
            if callback is not None:
                callback(step, denoised, x, len(sigmas) - 1)

        extra_args = {**extra_args, "denoise_mask": None}
        euler_in_place(model, noise, sigmas, extra_args, report, disable_pbar)
        return model_sampling.inverse_noise_scaling(sigmas[-1], noise)


def euler_in_place(
    model: Callable,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict,
    report: Callable[[int, torch.Tensor, torch.Tensor], None],
    disable: bool,
) -> None:
    """Take ``x`` along ``sigmas``, in place. ``report(step, x, prediction)`` is called at every step."""
    each_frame = x.new_ones([x.shape[0]])
    for step in trange(len(sigmas) - 1, disable=disable):
        denoised = model(x, sigmas[step] * each_frame, **extra_args)
        report(step, x, denoised)
        # ComfyUI's operations in ComfyUI's order, so that not a bit differs.
        direction = (x - denoised).div_(sigmas[step])
        x += direction.mul_(sigmas[step + 1] - sigmas[step])
        del denoised, direction  # not to be held while the next prediction is made
