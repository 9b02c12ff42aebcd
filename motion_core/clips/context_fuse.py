"""Putting context windows together: how much each window has to say about each of its frames.

A frame lies in several windows; its prediction is the weighted mean of theirs. A motion module is surest in
the middle of its window, so most methods weigh the middle more. The weights are normalised here, in float64
and before
anything is added up: fusing is then one multiplication and one addition per window, a clip of one window
comes out untouched to the last bit, and ramps that start near zero lose nothing.

Sources: pyramid from FreeNoise (Qiu et al. 2023); the other names are those of ComfyUI's core and of the
field. ``n`` is the number of frames of a window, ``m`` half of it, rounded up.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch

from .context import ContextOptions, ContextWindow

SIGMA_RANGE = 4.0
"""Noise level from which the sigma-dependent methods no longer change."""


def window_weights(
    window: ContextWindow,
    options: ContextOptions,
    num_frames: int,
    *,
    sigma: float = 0.0,
    seed: int = 0,
    step: int = 0,
    number: int = 0,
) -> list[float]:
    """Weights of one window's frames, before normalisation.

    Args:
        window: the frames.
        options: names the method (``fuse``) and the overlap.
        num_frames: frames of the whole clip.
        sigma: noise standard deviation of the step, for the methods that depend on it.
        seed, step, number: seed of the run, its step, and the window's place in the step, for ``random``.

    Returns:
        ``len(window)`` positive numbers.
    """
    length = len(window)
    method = options.fuse
    if method == "flat":
        return [1.0] * length
    if method == "pyramid":
        return _pyramid(length)
    if method == "relative":
        return _relative(window, num_frames)
    if method == "overlap-linear":
        return _overlap_linear(window, options, num_frames)
    if method == "delayed reverse sawtooth":
        # The first half hardly counts: the window before it has already settled those frames.
        half = (length + 1) // 2
        return [0.01] * (half - 1) + _pyramid(length)[half - 1 :]
    noise = min(SIGMA_RANGE, max(0.0, sigma)) / SIGMA_RANGE
    if method.endswith(" inverse"):
        noise = 1.0 - noise
    if method.startswith("pyramid-sigma"):
        return _pyramid_sigma(length, noise)
    if method.startswith("gauss-sigma"):
        return _gauss_sigma(length, noise)
    return _random(length, seed, step, number)


def fused_weights(
    windows: Sequence[ContextWindow],
    options: ContextOptions,
    num_frames: int,
    *,
    sigma: float = 0.0,
    seed: int = 0,
    step: int = 0,
) -> list[torch.Tensor]:
    """Normalised weights of all windows of a step: over the windows that hold it, each frame's add up to 1.

    Returns:
        One float32 tensor ``(len(window),)`` per window. Frame ``f`` of the clip is the sum over the windows
        of weight times prediction at the place where the window holds ``f``.
    """
    raw = [
        torch.tensor(
            window_weights(window, options, num_frames, sigma=sigma, seed=seed, step=step, number=number),
            dtype=torch.float64,
        )
        for number, window in enumerate(windows)
    ]
    places = [torch.tensor(window.indices) for window in windows]
    totals = torch.zeros(num_frames, dtype=torch.float64)
    for weights, place in zip(raw, places, strict=True):
        totals.index_add_(0, place, weights)
    return [(weights / totals[place]).float() for weights, place in zip(raw, places, strict=True)]


def _pyramid(length: int) -> list[float]:
    """1, 2, 3, 3, 2, 1 and 1, 2, 3, 2, 1."""
    return [float(min(i + 1, length - i)) for i in range(length)]


def _relative(window: ContextWindow, num_frames: int) -> list[float]:
    # Core keeps a running mean; its closed form is the plain weighted mean with these weights.
    frames = window.unwrapped(num_frames)
    centre = (frames[0] + frames[-1]) / 2
    reach = (frames[-1] - frames[0] + 0.01) / 2
    return [max(0.01, 1.0 - abs(frame - centre) / reach) for frame in frames]


def _overlap_linear(window: ContextWindow, options: ContextOptions, num_frames: int) -> list[float]:
    # Only overlaps are ramps. The ends of the clip have no neighbour to blend with, unless it closes into a
    # loop.
    ramp = 0 if options.schedule == "batched" else min(options.overlap, len(window))
    looped = options.closed_loop and options.schedule == "looped_uniform"
    at_start = window.indices[0] == 0 and not window.wraps and not looped
    at_end = window.indices[-1] == num_frames - 1 and not window.wraps and not looped
    weights = [1.0] * len(window)
    rising = torch.linspace(1e-37, 1.0, ramp, dtype=torch.float64).tolist()
    falling = torch.linspace(1.0, 1e-37, ramp, dtype=torch.float64).tolist()
    if not at_start:
        weights[:ramp] = rising
    if not at_end and ramp:
        weights[-ramp:] = falling
    return weights


def _pyramid_sigma(length: int, noise: float) -> list[float]:
    """A wide pyramid in strong noise, only the middle frames when it is nearly gone."""
    half = (length + 1) // 2
    peak = [float(half) if weight == half else -float(half) for weight in _pyramid(length)]
    blend = (
        noise * wide + (1.0 - noise) * narrow for wide, narrow in zip(_pyramid(length), peak, strict=True)
    )
    return [min(float(half), max(0.001, weight)) for weight in blend]


def _gauss_sigma(length: int, noise: float) -> list[float]:
    """A bell that is wide (9 frames) in strong noise and narrow (1 frame) without."""
    width = 1.0 + 8.0 * noise
    half = (length + 1) // 2
    centre = (length - 1) / 2
    bell = [math.exp(-((i - centre) ** 2) / (2.0 * width**2)) for i in range(length)]
    norm = math.sqrt(sum(weight**2 for weight in bell))
    # exp underflows to 0 far from the centre of a long window; a weight must stay positive.
    return [max(1e-37, weight * half / norm) for weight in bell]


def _random(length: int, seed: int, step: int, number: int) -> list[float]:
    # A generator per (seed, step, window): repeatable, and independent of how often the sampler asks.
    digest = hashlib.blake2b(f"{seed}/{step}/{number}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    half = (length + 1) // 2
    return (torch.rand(length, generator=generator, dtype=torch.float64) * half + 0.001).tolist()
