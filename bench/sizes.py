"""How large a row is taken: as asked for, or as large as time and memory allow, and then the row says so."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from .machine import GIB, Measured, Meter
from .rows import Row

SMALLEST = 64
"""Pixels: one place at the lowest level of SD1.5."""
GROWTH = 1.15
"""How much faster than the number of pixels time and memory may grow, because of attention."""
REPEATED = 1 / 8
"""Of the time there is: the smallest size is tried twice if once takes less."""
ROUNDS_OF_A_GPU = 7
ROUNDS_OF_A_CPU = 2
"""The trial at the size found is the first of them: a second may be more than there is time for."""
ONE_ROUND = "one round: there was no time for another"


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
    trial: dict[str, Measured]
    """What was measured at this size in finding it."""


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
    trial: Callable[[int], dict[str, Measured]],
    budget: Budget,
    meter: Meter,
    rounds: int,
    held: int = 0,
) -> Taken:
    """Find the size to measure at, by trying smaller ones first. The last trial also warms up.

    Args:
        asked: pixels, height and width.
        trial: runs everything that a round consists of, once, at a size.
        rounds: that must follow at the size found.
        held: bytes of the budget's memory that are in use before.

    Raises:
        TooLarge: time or memory do not do for the smallest.
    """
    sizes = ladder(asked)
    fits, found = sizes[0], {}
    for size, larger in zip(sizes, [*sizes[1:], None], strict=True):
        if budget.left() <= 0:
            raise TooLarge("left out: no time was left for it")
        try:
            begun, whole = time.monotonic(), budget.left()
            measured = trial(size)
            # Libraries warm up in it, which would make the larger ones look slow. Where it takes long, that
            # is little of it, and there is no time for another.
            if size == sizes[0] and time.monotonic() - begun < REPEATED * whole:
                measured = trial(size)
        except (MemoryError, RuntimeError) as error:
            if size == sizes[0] or "memory" not in f"{type(error).__name__} {error}".lower():
                raise
            return Taken(fits, f"{fits} px and not {asked}: {size} px ran out of memory", found)
        fits, found = size, measured
        if larger is None:
            return Taken(size, None, found)
        factor = (larger / size) ** 2 * GROWTH
        seconds = factor * sum(one.wall for one in measured.values()) * (rounds + 1)
        reason = None
        if seconds > budget.left():
            reason = f"{larger} px would take {seconds:.0f} s of {max(0, budget.left()):.0f} s left"
        peaks = [one.peak for one in measured.values() if one.peak is not None]
        need, free = factor * max(peaks, default=0), min(budget.memory - held, meter.free())
        if need > free:
            reason = f"{larger} px would take {need / GIB:.1f} GiB of {max(0, free) / GIB:.1f} GiB left"
        if reason:
            return Taken(size, f"{size} px and not {asked}: {reason}", found)
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


def rounds_after(device: torch.device) -> int:
    """How many rounds must follow a trial at the same size."""
    return 0 if device.type == "cpu" else ROUNDS_OF_A_GPU


def measured_at(
    taken: Taken, calls: dict[str, Callable[[], object]], meter: Meter, budget: Budget, row: Row
) -> dict[str, list[Measured]]:
    """All rounds at the size found. On a CPU the trial is one of them, and a second follows if there is time;
    the row says if not."""
    if meter.device.type != "cpu":
        return pairs(calls, meter, ROUNDS_OF_A_GPU)
    found = {name: [one] for name, one in taken.trial.items()}
    for _ in range(ROUNDS_OF_A_CPU - 1):
        if sum(one.wall for one in taken.trial.values()) > budget.left():
            row.notes.append(ONE_ROUND)
            break
        # Backwards, so that the one that came first, on a colder machine, comes last.
        for name in reversed(calls):
            found[name].append(meter.measure(calls[name]))
    return found


def times(name: str, measured: Sequence[Measured], meter: Meter) -> dict[str, float]:
    """The best of the rounds as figures of a row: seconds, and on a CPU those of the clock beside them."""
    found = {f"{name} s": best(measured)}
    if meter.device.type == "cpu":
        found[f"{name} wall s"] = min(one.wall for one in measured)
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
