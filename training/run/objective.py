"""What is minimised: noise prediction on clips (AnimateDiff, equations 2 and 7).

One timestep per clip, because all frames of a clip are denoised together at inference; noise independent
per frame, because inference starts so too.

Shapes: ``B`` clips, ``F`` frames, ``C`` channels, ``H W`` latent height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...motion_core.schedule.beta_schedules import NUM_TIMESTEPS, BetaSchedule, alphas_cumprod
from .. import randomness
from ..config import ObjectiveConfig
from ..randomness import Key


@dataclass(frozen=True)
class Noised:
    """A batch on its way to the UNet. Tensors are fp32."""

    latents: torch.Tensor
    """Noisy latents (B, F, C, H, W)."""
    timesteps: torch.Tensor
    """One per clip, (B,), int64."""
    target: torch.Tensor
    """What the UNet shall say, (B, F, C, H, W)."""
    weights: torch.Tensor
    """Loss weight per clip, (B,)."""


class Objective:
    """Noising, target and loss of one noise schedule.

    Args:
        config: settings of the loss.
        schedule: the noise schedule.
        prediction: ``eps`` or ``v``.
    """

    def __init__(self, config: ObjectiveConfig, schedule: BetaSchedule, prediction: str) -> None:
        self.config = config
        self.schedule = schedule
        self.prediction = prediction
        self.alphas_cumprod = alphas_cumprod(schedule)

    def draw_timestep(self, key: Key) -> int:
        """The timestep of a sample, uniform over the configured range unless shifted to more noise.

        The shift is the one of Stable Diffusion 3 (Esser et al., 2024, section 5.3.2), there for larger
        pictures: the more often something is shown, be it by pixels or frames, the more noise hides it.
        """
        low, high = self.config.min_timestep, self.config.max_timestep
        drawn = int(randomness.stream(*key, "timestep").integers(low, high + 1))
        shift = self.config.timestep_shift
        if shift == 1 or low == high:
            return drawn
        part = (drawn - low) / (high - low)
        return low + round((high - low) * shift * part / (1 + (shift - 1) * part))

    def draw_noise(self, shape: tuple[int, ...], key: Key) -> torch.Tensor:
        """Noise of a sample, ``shape`` = (F, C, H, W): independent per frame, offsets shared by the
        frames."""
        noise = randomness.gaussian(shape, *key, "noise")
        if self.config.offset_noise:
            # One offset per channel for the whole clip: an offset per frame would teach flicker.
            noise = noise + self.config.offset_noise * randomness.gaussian(
                (1, shape[1], 1, 1), *key, "offset"
            )
        return noise

    def noised(
        self, latents: torch.Tensor, keys: Sequence[Key], timesteps: Sequence[int] | None = None
    ) -> Noised:
        """Noise a batch of clips.

        Args:
            latents: clean latents (B, F, C, H, W), scaled as the UNet sees them.
            keys: of each clip's random numbers.
            timesteps: given ones (validation) instead of drawn ones.
        """
        if timesteps is None:
            timesteps = [self.draw_timestep(key) for key in keys]
        noise = torch.stack([self.draw_noise(tuple(latents.shape[1:]), key) for key in keys]).to(
            latents.device
        )
        t = torch.tensor(list(timesteps), dtype=torch.int64)
        alpha = self.alphas_cumprod[t].to(latents.device)
        signal, spread = (
            part.float()[:, None, None, None, None] for part in (alpha.sqrt(), (1 - alpha).sqrt())
        )
        target = noise if self.prediction == "eps" else signal * noise - spread * latents
        return Noised(
            signal * latents + spread * noise, t.to(latents.device), target, self._weights(alpha).float()
        )

    def _weights(self, alpha: torch.Tensor) -> torch.Tensor:
        """Min-SNR weights (Hang et al., 2023), 1 when off."""
        gamma = self.config.min_snr_gamma
        if not gamma:
            return torch.ones_like(alpha)
        snr = alpha / (1 - alpha)
        return snr.clamp(max=gamma) / (snr if self.prediction == "eps" else snr + 1)

    def losses(
        self,
        prediction: torch.Tensor,
        noised: Noised,
        mask: torch.Tensor | None = None,
        keys: Sequence[Key] | None = None,
    ) -> torch.Tensor:
        """Weighted squared error of each clip, (B,), fp32.

        Args:
            prediction: of the UNet, (B, F, C, H, W).
            noised: what :meth:`noised` gave.
            mask: 1 for real, 0 for padded frames, (B, F).
            keys: of the clips; wanted by the debiased loss for its anchor frames.
        """
        error = prediction.float() - noised.target
        if self.config.debiased and keys is not None:
            num_real = [error.shape[1]] * len(keys) if mask is None else mask.sum(dim=1).int().tolist()
            error = _debias(error, self.config.debiased, keys, num_real)
        frames = error.square().mean(dim=(2, 3, 4))  # (B, F)
        mask = torch.ones_like(frames) if mask is None else mask
        return (frames * mask).sum(dim=1) / mask.sum(dim=1) * noised.weights


def _debias(error: torch.Tensor, beta: float, keys: Sequence[Key], num_real: Sequence[int]) -> torch.Tensor:
    """MotionDirector's change of variable, sqrt(beta^2 + 1) x - beta x_anchor: what all frames share counts
    less. The anchor is one of each clip's real frames, which come before the padded ones."""
    anchors = [
        int(randomness.stream(*key, "anchor").integers(n)) for key, n in zip(keys, num_real, strict=True)
    ]
    anchor = torch.stack([clip[index] for clip, index in zip(error, anchors, strict=True)])
    return (beta**2 + 1) ** 0.5 * error - beta * anchor.unsqueeze(1)


def bin_of(timestep: int, bins: int) -> int:
    """Which of ``bins`` equal timestep ranges a timestep lies in."""
    return min(timestep * bins // NUM_TIMESTEPS, bins - 1)


def bin_range(number: int, bins: int) -> tuple[int, int]:
    """First and last timestep of a range; of ``bins`` that do not divide 1000, some are one longer."""
    first, following = (-(-n * NUM_TIMESTEPS // bins) for n in (number, number + 1))
    return first, following - 1
