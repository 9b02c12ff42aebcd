"""Context windows: which frames a motion module sees together when a clip is longer than it can hold.

A motion module knows 16 to 32 frames. A longer clip is denoised in overlapping windows of ``length`` frames
at every step, and the windows' predictions are averaged (:mod:`~.context_fuse`). Four schedules
say where the windows lie; their names are ComfyUI's:

====================  ===================================================================================
``standard_static``   the same windows at every step, the last one moved back to end with the clip
``standard_uniform``  windows that move with the step, pushed back into the clip where they would leave it
``looped_uniform``    windows that move with the step and run over the end into the beginning
``batched``           chunks without overlap
====================  ===================================================================================

The two uniform schedules come from animatediff-cli (Apache-2.0 project; only the published formulas are used
here). At stride 1 all four give the windows of ComfyUI's core. At larger strides core leaves frames out or
points past the end of the clip; here every frame is covered and every index exists, for every combination of
the settings.

Letters: ``F`` frames of the clip, ``L`` window length, ``O`` overlap, ``S`` stride.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

SCHEDULES = ("standard_static", "standard_uniform", "looped_uniform", "batched")
FUSE_METHODS = (
    "pyramid",
    "flat",
    "relative",
    "overlap-linear",
    "delayed reverse sawtooth",
    "pyramid-sigma",
    "pyramid-sigma inverse",
    "gauss-sigma",
    "gauss-sigma inverse",
    "random",
)


@dataclass(frozen=True)
class ContextOptions:
    """How a clip is cut into windows and how the windows are put together again."""

    length: int = 16
    """Frames per window; no more than the motion module's position table holds. 1 is for models without a
    motion module, frame by frame: in one frame there is no motion."""
    overlap: int = 4
    """Frames that neighbouring windows share; ``0 <= overlap < length``. ``batched`` has no overlap."""
    stride: int = 1
    """Uniform schedules only: besides neighbouring frames, also windows of every 2nd, 4th, .. frame, up to
    ``2 ** (stride - 1)`` apart, as far as they fit the clip."""
    schedule: str = "standard_static"
    """One of :data:`SCHEDULES`."""
    fuse: str = "pyramid"
    """One of :data:`FUSE_METHODS`."""
    closed_loop: bool = False
    """``looped_uniform`` only: also windows over the seam, so that the last frame leads into the first."""

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(
                f"Unknown context schedule {self.schedule!r}; expected one of {', '.join(SCHEDULES)}."
            )
        if self.fuse not in FUSE_METHODS:
            raise ValueError(f"Unknown fuse method {self.fuse!r}; expected one of {', '.join(FUSE_METHODS)}.")
        if self.length < 1:
            raise ValueError(f"Context length must be at least 1 frame, got {self.length}.")
        if not 0 <= self.overlap < self.length:
            raise ValueError(
                f"Context overlap must be at least 0 and smaller than the context length ({self.length}), "
                f"got {self.overlap}: windows that overlap completely never move on. Use {self.length // 4}."
            )
        if self.stride < 1:
            raise ValueError(f"Context stride must be at least 1, got {self.stride}.")


@dataclass(frozen=True)
class ContextWindow:
    """The frames of one window, in the order in which the motion module sees them."""

    indices: tuple[int, ...]
    """Frame numbers, each ``0 <= index < F`` and none twice."""
    wraps: bool = False
    """Whether the window runs over the last frame into the first."""

    def __len__(self) -> int:
        return len(self.indices)

    def unwrapped(self, num_frames: int) -> tuple[int, ...]:
        """Frame numbers that keep counting after the last frame: ``14, 15, 0, 1`` of 16 -> ``14, 15, 16,
        17``."""
        turns, previous, out = 0, -1, []
        for index in self.indices:
            turns += index < previous
            previous = index
            out.append(index + turns * num_frames)
        return tuple(out)


def needs_windows(options: ContextOptions, num_frames: int) -> bool:
    """Whether a clip must be cut up: it is longer than a window, or it is meant to close into a loop."""
    looped = options.schedule == "looped_uniform" and options.closed_loop
    return num_frames > options.length or (looped and num_frames > 1)


def context_windows(options: ContextOptions, num_frames: int, step: int = 0) -> tuple[ContextWindow, ...]:
    """Cut a clip into windows.

    Together they hold every frame; none holds an index outside ``0 .. num_frames - 1`` or one index twice,
    and, in a clip and windows of at least two frames, none holds a single frame.

    Args:
        options: window length, overlap, stride and schedule.
        num_frames: frames of the clip, at least 1. A clip no longer than a window is one window; in a closed
            loop it is several of its own length, each beginning elsewhere.
        step: position of the current noise level in the whole noise schedule, from 0. The uniform schedules
            move their windows with it, so that the seams between them fall elsewhere at every step.

    Raises:
        ValueError: for ``num_frames < 1`` or ``step < 0``.
    """
    if num_frames < 1:
        raise ValueError(f"Context windows need a clip of at least 1 frame, got {num_frames}.")
    if step < 0:
        raise ValueError(f"The step of a noise schedule counts from 0, got {step}.")
    if not needs_windows(options, num_frames):
        return (ContextWindow(tuple(range(num_frames))),)
    if num_frames < options.length:
        overlap = min(options.overlap, num_frames - 1)
        options = replace(options, length=num_frames, overlap=overlap)
    build = {
        "standard_static": _standard_static,
        "standard_uniform": _standard_uniform,
        "looped_uniform": _looped_uniform,
        "batched": _batched,
    }[options.schedule]
    return tuple(
        ContextWindow(indices, wraps=_falls_at(indices) > 0) for indices in build(options, num_frames, step)
    )


def step_at(sigma: float, sigmas: Sequence[float]) -> int:
    """Which step of a run a noise level belongs to.

    Samplers also ask the model between two levels of their schedule; such a level belongs to the step it
    lies in.

    Args:
        sigma: noise standard deviation of the current model call.
        sigmas: the run's levels, descending; or ascending, where a picture is taken back to noise.

    Returns:
        The last position whose level the run has reached at ``sigma`` (to one in 10,000), at least 0.
    """
    if ascending(sigmas):
        reached = [level <= sigma * (1.0 + 1e-4) for level in sigmas]
    else:
        reached = [level >= sigma * (1.0 - 1e-4) for level in sigmas]
    return max((index for index, is_reached in enumerate(reached) if is_reached), default=0)


def ascending(sigmas: Sequence[float]) -> bool:
    """Whether the noise of a run grows, as it does with flipped sigmas."""
    return len(sigmas) > 1 and sigmas[0] < sigmas[-1]


def position_in(part: Sequence[float], whole: Sequence[float]) -> int | None:
    """Where the noise levels of a partial run begin in those of a whole run, or None if they are not a part
    of it.

    A partial run (some steps of a longer schedule, denoise below 1) knows only its own levels. Zeros are
    left out of
    the comparison: samplers end on one in different ways.
    """
    wanted = [level for level in part if level > 0.0]
    levels = [level for level in whole if level > 0.0]
    for start in range(len(levels) - len(wanted) + 1):
        if wanted and all(
            math.isclose(a, b, rel_tol=1e-4) for a, b in zip(wanted, levels[start:], strict=False)
        ):
            return start
    return None


def ordered_halving(step: int) -> float:
    """The van der Corput sequence 0, 1/2, 1/4, 3/4, 1/8, ..: each step lands between those before it.

    It is the 64-bit binary number ``step`` read backwards, as a fraction.
    """
    return int(f"{step:064b}"[::-1], 2) / 2.0**64


def _standard_static(options: ContextOptions, num_frames: int, step: int) -> list[tuple[int, ...]]:
    starts = list(range(0, num_frames - options.length, options.length - options.overlap))
    starts.append(num_frames - options.length)
    return [tuple(range(start, start + options.length)) for start in starts]


def _batched(options: ContextOptions, num_frames: int, step: int) -> list[tuple[int, ...]]:
    # A tail of one frame is extended backwards by one: one frame alone has no motion. It is the only overlap
    # here.
    chunks = [
        tuple(range(start, min(start + options.length, num_frames)))
        for start in range(0, num_frames, options.length)
    ]
    if len(chunks[-1]) == 1 < options.length:
        chunks[-1] = (num_frames - 2, num_frames - 1)
    return chunks


def _looped_uniform(options: ContextOptions, num_frames: int, step: int) -> list[tuple[int, ...]]:
    return _uniform(options, num_frames, step, seam=options.closed_loop)


def _standard_uniform(options: ContextOptions, num_frames: int, step: int) -> list[tuple[int, ...]]:
    length = options.length
    pending = _uniform(options, num_frames, step, seam=False)
    windows: list[tuple[int, ...]] = []
    for position, window in enumerate(pending):
        fall = _falls_at(window)
        if not fall:
            windows.append(window)
            continue
        # A window that runs over the end is pushed back until it ends with the clip ..
        steps_ahead = [(index - window[0]) % num_frames for index in window]
        windows.append(tuple(ahead + num_frames - 1 - steps_ahead[-1] for ahead in steps_ahead))
        # .. and what it held of the beginning gets a window of its own, if the next one does not hold it.
        following = pending[(position + 1) % len(pending)] if position + 1 < len(pending) else windows[0]
        if window[fall] not in following:
            windows.append(_contiguous(window[fall], length, num_frames))
    windows = list(dict.fromkeys(windows))
    covered = set().union(*windows)
    for frame in range(num_frames):
        if frame not in covered:
            windows.append(_contiguous(frame, length, num_frames))
            covered.update(windows[-1])
    return windows


def _uniform(options: ContextOptions, num_frames: int, step: int, seam: bool) -> list[tuple[int, ...]]:
    """Windows of neighbouring, every 2nd, every 4th .. frame, rotated by the step, over the end of the
    clip."""
    length, overlap = options.length, options.overlap
    doublings = 0  # how often a window must double its spacing to span the clip
    while length << doublings < num_frames:
        doublings += 1
    halving = ordered_halving(step)
    pad = round(num_frames * halving)
    windows = []
    spacings = 1 if length == 1 else min(options.stride, doublings + 1)  # one frame lies next to nothing
    for spacing in (1 << level for level in range(spacings)):
        if (
            length - 1
        ) * spacing >= num_frames:  # it would meet itself: a frame twice, or time run through twice
            continue
        first = int(halving * spacing) + pad
        end = num_frames + pad - (0 if seam else overlap)
        for start in range(first, end, length * spacing - overlap):
            windows.append(tuple((start + i * spacing) % num_frames for i in range(length)))
    return windows


def _contiguous(start: int, length: int, num_frames: int) -> tuple[int, ...]:
    start = min(start, num_frames - length)
    return tuple(range(start, start + length))


def _falls_at(indices: tuple[int, ...]) -> int:
    """Position at which the frame number falls, 0 if it never does."""
    for position in range(1, len(indices)):
        if indices[position] < indices[position - 1]:
            return position
    return 0
