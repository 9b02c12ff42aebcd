"""Initial noise for clips: how the frames' noises are related decides how alike the frames come out.

==================  ======================================================================================
``independent``     every frame its own noise: what ComfyUI's samplers draw by themselves
``constant``        one noise for all frames
``mixed``           a part that all frames share and a part of their own, at variance 1 (PYoCo, Ge et al.
2023)
``repeated``        the first window's noise again and again, frame ``i`` as frame ``i - length``
``freenoise``       as repeated, but in every window shuffled in small groups (FreeNoise, Qiu et al. 2023)
==================  ======================================================================================

All draws come from CPU generators, so that one seed gives one clip on every device. Frames can also have
seeds of
their own: then a frame's noise does not depend on how many frames precede it.

Letters: ``F`` frames, ``C`` channels, ``H W`` latent height and width, ``L`` window length, ``O`` overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

NOISE_KINDS = ("independent", "constant", "mixed", "repeated", "freenoise")
_SHARED_STREAM = 0x5EED_0F_A11_F4A3E5  # any fixed number: keeps the shared draw apart from the frames' draws


@dataclass(frozen=True)
class FrameNoise:
    """How the noise of a clip is drawn."""

    kind: str = "independent"
    """One of :data:`NOISE_KINDS`."""
    seed: int = 0
    """Seed of all draws, ``0 .. 2**64 - 1``."""
    shared: float = 0.5
    """``mixed`` only: part of the variance that all frames share, 0..1; also the correlation of two
    frames."""
    length: int = 16
    """``repeated`` and ``freenoise``: frames after which the noise returns, as a rule the context length."""
    overlap: int = 4
    """``freenoise`` only: frames that neighbouring context windows share; ``length - overlap`` are shuffled
    together."""
    frame_seeds: tuple[int, ...] | None = None
    """Seeds of the single frames, in their order. A clip longer than the list counts on from its last
    seed."""
    offset: int = 0
    """Frames of the drawn noise that are left out before the first: another part of the same long noise."""

    def __post_init__(self) -> None:
        if self.kind not in NOISE_KINDS:
            raise ValueError(f"Unknown noise kind {self.kind!r}; expected one of {', '.join(NOISE_KINDS)}.")
        if not 0.0 <= self.shared <= 1.0:
            raise ValueError(f"The shared part of mixed noise is 0..1 of its variance, got {self.shared}.")
        if self.length < 1:
            raise ValueError(f"Noise can return after 1 frame at the earliest, got length {self.length}.")
        if not 0 <= self.overlap < self.length:
            raise ValueError(
                f"Noise overlap must be at least 0 and smaller than the length ({self.length}), "
                f"got {self.overlap}."
            )
        for seed in (self.seed, *(self.frame_seeds or ())):
            if not 0 <= seed < 2**64:
                raise ValueError(f"A seed is 0 .. 2**64 - 1, got {seed}.")
        if self.offset < 0:
            raise ValueError(f"Noise can leave out 0 frames or more before the first, got {self.offset}.")
        if self.frame_seeds is not None and not self.frame_seeds:
            raise ValueError("The list of frame seeds is empty; leave it out or name at least one seed.")

    @property
    def is_plain(self) -> bool:
        """Whether it is what ComfyUI's samplers draw by themselves."""
        return self.kind == "independent" and self.frame_seeds is None and not self.offset


def draw_frame_noise(noise: FrameNoise, shape: Sequence[int]) -> torch.Tensor:
    """Draw the noise of a clip.

    Args:
        noise: kind and seeds.
        shape: ``(F, C, H, W)``; any number of axes after the first.

    Returns:
        float32 on the CPU, of that shape; every single value is normal with mean 0 and variance 1.
    """
    num_frames = shape[0]
    if num_frames < 1:
        raise ValueError(f"Noise needs a clip of at least 1 frame, got {num_frames}.")
    if noise.kind == "constant":
        return _draw(noise, (1, *shape[1:])).expand(*shape).clone()
    frames = _draw(noise, shape)
    if noise.kind == "mixed":
        # The shared part has a stream of its own: at shared 0 the clip is exactly the independent one.
        common = torch.randn((1, *shape[1:]), generator=_generator(noise.seed ^ _SHARED_STREAM))
        return frames.mul_((1.0 - noise.shared) ** 0.5).add_(common, alpha=noise.shared**0.5)
    if noise.kind == "repeated":
        return frames[torch.arange(num_frames) % noise.length]
    if noise.kind == "freenoise":
        return frames[torch.tensor(freenoise_order(num_frames, noise.length, noise.overlap, noise.seed))]
    return frames


def freenoise_order(num_frames: int, length: int, overlap: int, seed: int) -> list[int]:
    """Which frame's noise every frame of a FreeNoise clip takes.

    The first ``length`` frames keep their own. After them each group of ``length - overlap`` frames takes
    the noise of the group ``length`` frames before it, in a new order: every window then holds nearly the
    same set of noises, so windows agree without being copies.

    Args:
        num_frames, length, overlap: of the clip and of its context windows, in frames.
        seed: of the shuffling.
    """
    order = list(range(num_frames))
    generator = _generator(seed)
    group = length - overlap
    for source in range(0, max(0, num_frames - length), group):
        place = source + length
        size = min(group, num_frames - place)
        # Where the clip ends within a group, the group is what is left: so the field's pack draws it.
        shuffled = torch.randperm(size, generator=generator).tolist()
        order[place : place + size] = [order[source + i] for i in shuffled]
    return order


def _draw(noise: FrameNoise, shape: Sequence[int]) -> torch.Tensor:
    drawn = noise.offset + shape[0]
    if noise.frame_seeds is None:
        return torch.randn((drawn, *shape[1:]), generator=_generator(noise.seed))[noise.offset :]
    return torch.stack(
        [
            torch.randn(tuple(shape[1:]), generator=_generator(seed))
            for seed in seeds_of(noise.frame_seeds, drawn)[noise.offset :]
        ]
    )


def seeds_of(frame_seeds: Sequence[int], num_frames: int) -> list[int]:
    """One seed per frame: the list, then counting on from its last entry."""
    known = list(frame_seeds[:num_frames])
    return known + [(known[-1] + 1 + i) % 2**64 for i in range(num_frames - len(known))]


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
