"""How large a row is taken: as asked for, or as large as time and memory allow, and then the row says so."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .machine import GIB, Measured, Meter

SMALLEST = 64
"""Pixels: one place at the lowest level of SD1.5."""
GROWTH = 1.15
"""How much faster than the number of pixels time and memory may grow, because of attention."""


@dataclass
class Budget:
    """What a job may take."""

    deadline: float
    """By time.monotonic()."""
    memory: int
    """Bytes, on the device, for weights and activations."""

    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()

    def part(self, share: float) -> Budget:
        """A share of the time that is left."""
        return Budget(time.monotonic() + share * self.left(), self.memory)


@dataclass(frozen=True)
class Taken:
    """The size that a row is measured at."""

    pixels: int
    note: str | None


class TooLarge(Exception):
    """Nothing of a row fits; the reason as a sentence."""


def ladder(asked: int) -> list[int]:
    """Sizes in pixels up to the one asked for, each twice the one before."""
    sizes = [asked]
    while sizes[0] // 2 >= SMALLEST and sizes[0] % 16 == 0:
        sizes.insert(0, sizes[0] // 2)
    return sizes


def climb(
    asked: int,
    trial: Callable[[int], Sequence[Measured]],
    budget: Budget,
    meter: Meter,
    rounds: int,
    held: int = 0,
) -> Taken:
    """Find the size to measure at, by trying smaller ones first. The last trial also warms up.

    Args:
        asked: pixels, height and width.
        trial: runs everything that a round consists of, once, at a size.
        rounds: that will follow at the size found.
        held: bytes of the budget's memory that are in use before.

    Raises:
        TooLarge: time or memory do not do for the smallest.
    """
    sizes = ladder(asked)
    fits = sizes[0]
    for size, larger in zip(sizes, [*sizes[1:], None], strict=True):
        if budget.left() <= 0:
            raise TooLarge("left out: no time was left for it")
        if size == sizes[0]:
            trial(size)  # libraries warm up, which would make the larger ones look slow
        try:
            measured = trial(size)
        except (MemoryError, RuntimeError) as error:
            if size == sizes[0] or "memory" not in f"{type(error).__name__} {error}".lower():
                raise
            return Taken(fits, f"{fits} px and not {asked}: {size} px ran out of memory")
        fits = size
        if larger is None:
            return Taken(size, None)
        factor = (larger / size) ** 2 * GROWTH
        seconds = factor * sum(one.wall for one in measured) * (rounds + 1)
        reason = None
        if seconds > budget.left():
            reason = f"{larger} px would take {seconds:.0f} s of {max(0, budget.left()):.0f} s left"
        peaks = [one.peak for one in measured if one.peak is not None]
        need, free = factor * max(peaks, default=0), min(budget.memory - held, meter.free())
        if need > free:
            reason = f"{larger} px would take {need / GIB:.1f} GiB of {max(0, free) / GIB:.1f} GiB left"
        if reason:
            return Taken(size, f"{size} px and not {asked}: {reason}")
    raise AssertionError("unreachable")


def pairs(calls: dict[str, Callable[[], object]], meter: Meter, rounds: int) -> dict[str, list[Measured]]:
    """Measure calls in turn, so that a machine that grows slow does so for all of them; each round begins
    with another one."""
    found: dict[str, list[Measured]] = {name: [] for name in calls}
    names = list(calls)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            found[name].append(meter.measure(calls[name]))
    return found


def best(measured: Sequence[Measured]) -> float:
    """The fastest of the rounds, seconds."""
    return min(one.seconds for one in measured)


def highest(measured: Sequence[Measured]) -> int | None:
    """The highest peak of the rounds, bytes."""
    return max((one.peak for one in measured if one.peak is not None), default=None)


def ratio(ours: Sequence[Measured], theirs: Sequence[Measured]) -> float:
    """Ours over theirs: the median of the rounds, whose two runs saw the machine at about the same speed."""
    ratios = sorted(a.seconds / b.seconds for a, b in zip(ours, theirs, strict=True))
    middle = len(ratios) // 2
    return ratios[middle] if len(ratios) % 2 else (ratios[middle - 1] + ratios[middle]) / 2
