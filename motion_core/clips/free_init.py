"""FreeInit: start again from noise that keeps the slow part of a finished clip.

Written from the definition in the paper (Wu et al. 2023, "FreeInit: Bridging Initialization Gap in Video
Diffusion Models"). Sampling starts from white noise, training saw noisy clips whose low frequencies still
knew the clip; the gap costs steadiness. So: sample, noise the result again with the same noise, keep the low
frequencies of that in space and time, put fresh noise in the high ones, and sample again.

Letters: ``F`` frames, ``C`` channels, ``H W`` latent height and width; frequencies are normalised, 1 is the
highest that a grid can hold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

FILTERS = ("gaussian", "butterworth", "ideal", "box")
VARIANTS = ("freeinit", "dinkinit")
"""How a finished clip is noised again: :func:`diffuse`, :func:`diffuse_dinkinit`."""


@dataclass(frozen=True)
class LowPass:
    """What of a clip survives into the next start noise."""

    kind: str = "gaussian"
    """One of :data:`FILTERS`. ``gaussian`` and ``butterworth`` fade out, ``ideal`` (a ball) and ``box`` end
    sharply."""
    spatial: float = 0.25
    """Cut-off over height and width, as a part of the highest frequency; above 0."""
    temporal: float = 0.25
    """Cut-off over the frames, likewise."""
    order: int = 4
    """``butterworth`` only: steepness."""

    def __post_init__(self) -> None:
        if self.kind not in FILTERS:
            raise ValueError(f"Unknown low-pass filter {self.kind!r}; expected one of {', '.join(FILTERS)}.")
        for name in ("spatial", "temporal"):
            if not getattr(self, name) > 0.0:
                raise ValueError(
                    f"The {name} cut-off of a low-pass filter must be above 0, got {getattr(self, name)}."
                )
        if self.order < 1:
            raise ValueError(f"The order of a Butterworth filter must be at least 1, got {self.order}.")


def low_pass_filter(low_pass: LowPass, num_frames: int, height: int, width: int) -> torch.Tensor:
    """Part of each frequency that is kept.

    Returns:
        float32 ``(F, H, W)`` in 0..1, in the order of ``torch.fft.fftn`` (zero frequency first), even in
        every axis, so that real clips stay real. The zero frequency is kept whole.
    """
    f_t, f_h, f_w = torch.meshgrid(
        *(2.0 * torch.fft.fftfreq(n, dtype=torch.float64) for n in (num_frames, height, width)), indexing="ij"
    )
    if low_pass.kind == "box":
        inside = (
            (f_t.abs() <= low_pass.temporal)
            & (f_h.abs() <= low_pass.spatial)
            & (f_w.abs() <= low_pass.spatial)
        )
        return inside.float()
    # The temporal axis is stretched so that one cut-off, the spatial one, holds for the distance from zero.
    distance = ((low_pass.spatial / low_pass.temporal * f_t) ** 2 + f_h**2 + f_w**2).sqrt()
    if low_pass.kind == "ideal":
        return (distance <= low_pass.spatial).float()
    if low_pass.kind == "butterworth":
        return (1.0 / (1.0 + (distance / low_pass.spatial) ** (2 * low_pass.order))).float()
    return torch.exp(-(distance**2) / (2.0 * low_pass.spatial**2)).float()


def diffuse(latents: torch.Tensor, noise: torch.Tensor, sigma: float) -> torch.Tensor:
    """Noise clean latents again, to the level a run starts from, at unit variance.

    Args:
        latents: clean, ``(F, C, H, W)``, in the model's scale.
        noise: what the run that made them started from, same shape, variance 1.
        sigma: the noise level, as a standard deviation relative to the signal.

    Returns:
        ``sqrt(a) * latents + sqrt(1 - a) * noise`` with ``a = 1 / (1 + sigma**2)``.
    """
    alpha = 1.0 / (1.0 + sigma**2)
    return alpha**0.5 * latents + (1.0 - alpha) ** 0.5 * noise


def diffuse_dinkinit(latents: torch.Tensor, noise: torch.Tensor, sigma: float) -> torch.Tensor:
    """The variant that AnimateDiff-Evolved calls DinkInit_v1: ``(latents + sigma * noise) / (1 + sigma**2)``.

    Its slow part is far weaker than noise, so that the next clip is calm and flat where FreeInit keeps its
    contrast.

    Args:
        latents: clean, ``(F, C, H, W)``, in the scale of the VAE, not of the model.
        noise: what the run that made them started from.
        sigma: the model's highest noise level.
    """
    return (latents + sigma * noise) / (1.0 + sigma**2)


def start_scale(sigma: float, sigma_max: float) -> float:
    """Factor on noise of variance 1 that makes ComfyUI start from ``sqrt(1 + sigma**2)`` times that noise.

    That is the clean clip plus ``sigma`` times the noise, if the noise came from :func:`diffuse`. ComfyUI
    multiplies by this root itself where a run begins at the highest level, and by ``sigma`` where it begins
    lower, as it does with the schedule ``ddim_uniform``.

    Args:
        sigma: the run's first noise level.
        sigma_max: the model's highest.
    """
    if sigma > sigma_max or math.isclose(sigma, sigma_max, rel_tol=1e-5):
        return 1.0
    return (1.0 + sigma**2) ** 0.5 / sigma


def start_noise(start: torch.Tensor, latent: torch.Tensor, sigma: float, sigma_max: float) -> torch.Tensor:
    """Noise that makes ComfyUI start from ``sqrt(1 + sigma**2) * start``, whatever the latent holds.

    ComfyUI starts from the latent plus the noise times :func:`start_scale`'s root or ``sigma``.

    Args:
        start: wanted, at unit variance, as from :func:`mix_frequencies`.
        latent: in the model's scale; zeros for an empty one.
        sigma, sigma_max: the run's first noise level and the model's highest.
    """
    root = (1.0 + sigma**2) ** 0.5
    return (start - latent / root) * start_scale(sigma, sigma_max)


def mix_frequencies(noisy: torch.Tensor, fresh: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Take the kept frequencies of one clip and all others of another.

    Args:
        noisy: whose low frequencies survive, ``(F, C, H, W)``.
        fresh: new white noise of the same shape, for the rest.
        keep: part of each frequency to take from ``noisy``, ``(F, H, W)`` as from :func:`low_pass_filter`.

    Returns:
        Same shape, float32, on the device of ``noisy``.

    Raises:
        ValueError: if the shapes do not fit together.
    """
    if noisy.shape != fresh.shape or keep.shape != (noisy.shape[0], *noisy.shape[2:]):
        raise ValueError(
            "FreeInit mixes two clips (F, C, H, W) with a filter (F, H, W), got "
            f"{tuple(noisy.shape)}, {tuple(fresh.shape)} and {tuple(keep.shape)}."
        )
    axes = (0, 2, 3)
    # keep * A + (1 - keep) * B is B + keep * (A - B): one transform instead of two, as the transform is
    # linear.
    difference = torch.fft.fftn(noisy.float() - fresh.float(), dim=axes)
    low = torch.fft.ifftn(difference * keep.to(noisy.device).unsqueeze(1), dim=axes).real
    return fresh.float() + low


def coarse_to_fine(steps: int, iteration: int, iterations: int) -> int:
    """Sampling steps of one iteration when early ones are to be quick: ``steps * iteration / iterations``,
    at least 2, as far as there are so many: some noise schedules have no single step.

    Args:
        steps: of the last iteration.
        iteration: from 1 to ``iterations``.
    """
    return max(min(2, steps), steps * iteration // iterations)
