"""Values that change over the steps of a run: one schedule class for all that is keyframed.

A keyframe sets in at a part of the noise schedule. What it does not say, it inherits from the one before, or
leaves open. Each may be guaranteed some steps even if the next one's time has come. The state between steps
is a value, not an object that changes: whoever runs the steps keeps it, and a call that is repeated at its
noise level changes nothing.

Sigmas are noise standard deviations; ``percent_to_sigma`` is the model's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

BEFORE_ALL = 999_999_999.9
"""Sigma of the start of every schedule, above any noise."""


@dataclass(frozen=True)
class Keyframe:
    """Values from some point of the noise schedule on."""

    start_percent: float
    """0..1 of the noise schedule."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """What it sets; a name that is missing, or None, is inherited or left open."""
    guarantee_steps: int = 1
    """Steps that it is in force before the next keyframe may follow, whatever the noise level."""
    inherit_missing: bool = True
    """Whether what it does not set stays as the keyframe before had it."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.start_percent <= 1.0:
            raise ValueError(f"start_percent is 0 .. 1 of the noise schedule, got {self.start_percent:g}.")
        if self.guarantee_steps < 0:
            raise ValueError(f"guarantee_steps is 0 or more, got {self.guarantee_steps}.")


@dataclass(frozen=True)
class KeyframeState:
    """Where a run stands."""

    keyframe: int = 0
    """Place in :attr:`KeyframeSchedule.keyframes`."""
    used: int = 0
    """Different noise levels in a row at which it was in force."""
    sigma: float | None = None
    """Of the call before."""


@dataclass(frozen=True)
class KeyframeSchedule:
    """Keyframes in the order in which they set in; of equal starts, in the order given.

    The values hold from the start: unless a keyframe starts at 0, one that sets nothing stands in front.
    """

    keyframes: tuple[Keyframe, ...]

    @classmethod
    def of(cls, keyframes: Sequence[Keyframe]) -> KeyframeSchedule:
        """A schedule of keyframes in any order."""
        ordered = sorted(keyframes, key=lambda keyframe: keyframe.start_percent)
        if not ordered or ordered[0].start_percent > 0.0:
            ordered = [Keyframe(0.0), *ordered]
        return cls(tuple(ordered))

    def start_sigmas(self, percent_to_sigma: Callable[[float], float]) -> tuple[float, ...]:
        """The noise level at which each keyframe may set in."""
        return tuple(
            BEFORE_ALL if keyframe.start_percent <= 0.0 else float(percent_to_sigma(keyframe.start_percent))
            for keyframe in self.keyframes
        )

    def next_state(
        self, state: KeyframeState, sigma: float, starts: Sequence[float], sigma_max: float
    ) -> KeyframeState:
        """The state of a call at a noise level.

        Args:
            state: of the call before; ``KeyframeState()`` at the start of a run.
            sigma: noise level of the call. A second call at the level of the one before changes nothing.
            starts: from :meth:`start_sigmas`.
            sigma_max: the run's highest noise level. A keyframe that begins above it has missed its time and
                is guaranteed no step; so one that starts at 0 never is.
        """
        if sigma == state.sigma:
            return state
        current, used = state.keyframe, state.used

        def guaranteed(index: int) -> int:
            return 0 if starts[index] > sigma_max else self.keyframes[index].guarantee_steps

        if used >= guaranteed(current):
            for index in range(current + 1, len(self.keyframes)):
                if starts[index] < sigma:
                    break
                current, used = index, 0
                if guaranteed(index) > 0:
                    break
        return KeyframeState(current, used + 1, sigma)

    def values_at(self, index: int) -> dict[str, Any]:
        """What is in force with a keyframe, inherited values included."""
        first = index
        while first > 0 and self.keyframes[first].inherit_missing:
            first -= 1
        merged: dict[str, Any] = {}
        for keyframe in self.keyframes[first : index + 1]:
            merged |= {name: value for name, value in keyframe.values.items() if value is not None}
        return merged
