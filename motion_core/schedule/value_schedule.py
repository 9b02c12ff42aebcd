"""Schedules written as text: which prompt or number holds at which frame.

``0: a cat / 16: a dog`` is a cat at frame 0 that changes into a dog until frame 16; the other spellings are
in :mod:`~.schedule_text`.

=============  ============================================================================================
frame          meaning
=============  ============================================================================================
``16``         frame 16, counted from 0; may lie beyond the end of the clip
``-1``         the last frame, ``-2`` the one before
``0.5``        half way: frame ``int(0.5 * frames)``; ``1.0`` is the last frame
``8:12``       every frame from 8 to 11
``8:``         from frame 8 on, held until the next key instead of changing towards it
=============  ============================================================================================

Before the first key its value holds, after the last key the last one's; between two keys the change is
linear in the frame number, measured from the two keys (never from the frame before, which would compound).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from .schedule_text import Entry, parse_entries, unreadable

INTERPOLATIONS = ("linear", "spherical")
MAX_FRAME = 100_000
"""Frames a schedule may name: far above any clip, and a range cannot exhaust the memory."""
MAX_REPEATS = 4
"""How many times the longest prompt's tokens all prompts may be repeated to; ComfyUI's own limit."""
_FRAME_OR_RATIO = re.compile(r"\d+:\d")


# Deforum's and FizzNodes' spelling of numbers: `0:(1.0), 16:(0.5),`.
_KEYFRAMES = re.compile(r"\s*(\d{1,9})\s*:\s*\(\s*([-+]?[\d.eE+-]{1,40})\s*\)\s*(?:,|$)")
_ALL_KEYFRAMES = re.compile(rf"(?:{_KEYFRAMES.pattern})+\s*")
_EXPRESSION = re.compile(r"`|--neg\b|\b(?:pw_[a-d]|max_f)\b")
"""What FizzNodes evaluates or splits in a prompt."""


@dataclass(frozen=True)
class Key:
    """A value fixed to one frame."""

    frame: int
    """Counted from 0; may lie beyond the end of the clip."""
    value: int
    """Position in :attr:`Schedule.values`."""
    hold: bool
    """Whether the value holds until the next key."""


@dataclass(frozen=True)
class Blend:
    """What one frame shows: a mix of at most two values."""

    first: int
    """Position in :attr:`Schedule.values`."""
    second: int
    """The value it changes into; equal to ``first`` where nothing changes."""
    weight: float
    """Part of ``second``, 0..1."""


@dataclass(frozen=True)
class Schedule:
    """A schedule text, resolved for a clip."""

    values: tuple[str, ...]
    """Each different value once, in the order of the text: encode these, then blend."""
    keys: tuple[Key, ...]
    """In the order of frames."""
    num_frames: int
    """Frames of the clip."""

    def blends(self) -> list[Blend]:
        """The mix of every frame of the clip."""
        out = []
        upcoming = 0
        for frame in range(self.num_frames):
            while upcoming < len(self.keys) and self.keys[upcoming].frame <= frame:
                upcoming += 1
            if upcoming in (0, len(self.keys)):
                edge = self.keys[0 if upcoming == 0 else -1]
                out.append(Blend(edge.value, edge.value, 0.0))
                continue
            here, there = self.keys[upcoming - 1], self.keys[upcoming]
            still = here.hold or here.value == there.value
            weight = 0.0 if still else (frame - here.frame) / (there.frame - here.frame)
            out.append(Blend(here.value, there.value if weight else here.value, weight))
        return out


def prompt_schedule(text: str, num_frames: int, *, prepend: str = "", append: str = "") -> Schedule:
    """Read a prompt schedule.

    Args:
        text: the schedule, in any of the three spellings.
        num_frames: frames of the clip; 0 takes the largest frame number plus one.
        prepend, append: text put before and after every prompt, joined by one comma.

    Raises:
        ValueError: names the characters that could not be read and what was expected there.
    """
    entries = parse_entries(text)
    for entry in entries[1:]:
        if ":" not in entry.frame and _FRAME_OR_RATIO.match(text, entry.span[0]):
            raise unreadable(
                text,
                entry.span,
                "a space after the colon if a frame is meant, `16: 9 photos`, or quotes around the prompt if "
                'a ratio is, `"0": "cat / 16:9 photo"`',
            )
    for entry in entries:
        if found := _EXPRESSION.search(entry.value):
            raise unreadable(
                text,
                entry.span,
                f"a prompt without {found[0]}, which is not evaluated here: write weights as numbers with "
                "Float Schedule, common text into `prepend` or `append`, and negative prompts into a Prompt "
                "Schedule of their own",
            )
    schedule = _resolve(entries, num_frames)
    return Schedule(
        tuple(join_prompt(prepend, value, append) for value in schedule.values),
        schedule.keys,
        schedule.num_frames,
    )


def float_schedule(text: str, num_frames: int) -> list[float]:
    """Read a schedule of numbers: one number per frame. Arguments and errors as in
    :func:`prompt_schedule`."""
    entries = parse_entries(_KEYFRAMES.sub(r"\1: \2 / ", text) if _ALL_KEYFRAMES.fullmatch(text) else text)
    numbers = {}
    for entry in entries:
        try:
            numbers[entry.value] = float(entry.value)
        except ValueError:
            expected = "a number after the frame, such as `16: 0.5` or `16:(0.5)`; nothing is evaluated"
            raise unreadable(text, entry.span, expected) from None
        if not math.isfinite(numbers[entry.value]):
            raise unreadable(text, entry.span, "a finite number after the frame")
    schedule = _resolve(entries, num_frames)
    values = [numbers[value] for value in schedule.values]
    return [(1.0 - b.weight) * values[b.first] + b.weight * values[b.second] for b in schedule.blends()]


def join_prompt(*parts: str) -> str:
    """Join texts with a single comma between them; empty ones are left out."""
    return ", ".join(part for part in (part.strip().strip(",").strip() for part in parts) if part)


def lerp(a: torch.Tensor, b: torch.Tensor, weight: float) -> torch.Tensor:
    """Straight line from ``a`` (weight 0) to ``b`` (weight 1), any shape."""
    return (1.0 - weight) * a + weight * b


def slerp(a: torch.Tensor, b: torch.Tensor, weight: float) -> torch.Tensor:
    """Arc from ``a`` (weight 0) to ``b`` (weight 1), with one angle for the whole tensor.

    Nearly parallel tensors (|cosine| above 0.9995) have no arc worth the name and take the straight line.
    """
    cosine = torch.nn.functional.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0).item()
    if abs(cosine) > 0.9995:
        return lerp(a, b, weight)
    angle = math.acos(cosine)
    return (math.sin((1.0 - weight) * angle) * a + math.sin(weight * angle) * b) / math.sin(angle)


def blend_tensors(
    values: Sequence[torch.Tensor], blends: Sequence[Blend], interpolation: str
) -> torch.Tensor:
    """One tensor per frame.

    Args:
        values: one ``(1, ...)`` per value of the schedule, all of one shape.
        blends: of the frames, from :meth:`Schedule.blends`.
        interpolation: ``linear`` or ``spherical``.

    Returns:
        ``(F, ...)``, on the device and in the precision of ``values``.
    """
    if interpolation not in INTERPOLATIONS:
        raise ValueError(
            f"Unknown interpolation {interpolation!r}; expected one of {', '.join(INTERPOLATIONS)}."
        )
    between: Callable = lerp if interpolation == "linear" else slerp
    frames = (
        values[b.first] if b.weight == 0.0 else between(values[b.first], values[b.second], b.weight)
        for b in blends
    )
    return torch.cat(list(frames))


def pad_tokens(embeddings: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Bring prompt embeddings ``(1, N, D)`` to one number of tokens, so that they can be blended.

    They are repeated to their least common multiple, as ComfyUI does with prompts that share a call:
    attention over repeated tokens gives what attention over the tokens gives, so a key frame shows its
    prompt unchanged. A multiple beyond :data:`MAX_REPEATS` times the longest would cost too much; there
    shorter ones are filled with zeros, half of them before.
    """
    longest = max(embedding.shape[1] for embedding in embeddings)
    common = math.lcm(*(embedding.shape[1] for embedding in embeddings))
    if common <= MAX_REPEATS * longest:
        return [embedding.repeat(1, common // embedding.shape[1], 1) for embedding in embeddings]
    padded = []
    for embedding in embeddings:
        missing = longest - embedding.shape[1]
        before = missing // 2
        padded.append(torch.nn.functional.pad(embedding, (0, 0, before, missing - before)))
    return padded


def _resolve(entries: Sequence[Entry], num_frames: int) -> Schedule:
    """Turn frames as written into frame numbers. Ranges become one key per frame; a later range replaces an
    earlier one's, and a frame named by itself stands in any range."""
    if num_frames < 0:
        raise ValueError(f"A clip has 1 frame or more (0: as many as the schedule names), got {num_frames}.")
    values: dict[str, int] = {}
    ranges: list[tuple[int, int, int]] = []
    single: dict[int, Key] = {}
    exact: dict[int, Entry] = {}
    for entry in entries:
        value = values.setdefault(entry.value, len(values))
        frame, after, hold = _frames_of(entry, num_frames)
        if after > frame + 1:
            ranges.append((frame, after, value))
            continue
        if frame in exact:
            raise ValueError(
                f"The schedule names frame {frame} twice, as `{exact[frame].frame}` at characters "
                f"{exact[frame].span[0]} to {exact[frame].span[1]} and as `{entry.frame}` at characters "
                f"{entry.span[0]} to {entry.span[1]}; expected one value per frame."
            )
        exact[frame] = entry
        single[frame] = Key(frame, value, hold)
    # Of a range only the clip's frames count, and the one after it, towards which the last ones change.
    end = num_frames or max([*single, *(after - 1 for _, after, _ in ranges)]) + 1
    keys = _painted(ranges, end) | single
    ordered = tuple(keys[frame] for frame in sorted(keys))
    return Schedule(tuple(values), ordered, num_frames or ordered[-1].frame + 1)


def _painted(ranges: Sequence[tuple[int, int, int]], end: int) -> dict[int, Key]:
    """A key for every frame below ``end`` that lies in a range, and for the first after these.

    The last range wins: from the last to the first, each frame gets its key once. ``free[frame]`` leads to
    the next frame without one.
    """
    free = list(range(end + 1))
    keys = {}
    later = [max(first, end) for first, after, _ in ranges if after > end]
    if later:
        frame = min(later)
        value = next(value for first, after, value in reversed(ranges) if first <= frame < after)
        keys[frame] = Key(frame, value, False)
    for first, after, value in reversed(ranges):
        frame = first
        while frame < min(after, end):
            while free[frame] != frame:
                free[frame] = free[free[frame]]
                frame = free[frame]
            if frame < min(after, end):
                keys[frame] = Key(frame, value, False)
                free[frame] = frame + 1
    return keys


def _frames_of(entry: Entry, num_frames: int) -> tuple[int, int, bool]:
    """First frame, the one after the last, and whether the value holds."""
    bounds = [bound.strip() for bound in entry.frame.split(":")]
    if len(bounds) > 2 or not bounds[0]:
        raise ValueError(
            f"`{entry.frame}` at characters {entry.span[0]} to {entry.span[1]} names no frame; expected a "
            "frame `8`, a range `8:12` or a hold `8:`."
        )
    first = _frame_number(bounds[0], entry, num_frames)
    if len(bounds) == 1:
        return first, first + 1, False
    if not bounds[1]:
        return first, first + 1, True
    last = _frame_number(bounds[1], entry, num_frames)
    first, last = min(first, last), max(first, last)
    return first, max(last, first + 1), False


def _frame_number(word: str, entry: Entry, num_frames: int) -> int:
    where = f"`{entry.frame}` at characters {entry.span[0]} to {entry.span[1]}"
    if not re.fullmatch(r"-?(?:\d+(?:\.\d+)?|\.\d+)", word):
        raise ValueError(
            f"{where} names no frame; expected a whole number, or a part of the clip such as 0.5."
        )
    if num_frames == 0 and ("." in word or word.startswith("-")):
        raise ValueError(
            f"{where} counts from the length of the clip, which is not given; expected a frame from 0."
        )
    if "." in word:
        part = float(word)
        if not 0.0 <= part <= 1.0:
            raise ValueError(f"{where} is no part of a clip; expected 0.0 to 1.0, or a whole frame number.")
        return min(int(part * num_frames), num_frames - 1)
    frame = int(word) if len(word) < 20 else MAX_FRAME  # Python refuses to read thousands of digits
    if frame >= MAX_FRAME:
        raise ValueError(f"{where} is beyond any clip; expected a frame below {MAX_FRAME}.")
    if frame < -num_frames:
        raise ValueError(
            f"{where} lies before a clip of {num_frames} frames; expected {-num_frames} or later."
        )
    return frame + num_frames if frame < 0 else frame
