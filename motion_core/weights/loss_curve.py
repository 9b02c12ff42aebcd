"""The losses of a training in a file's metadata: few enough points to travel with the weights."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

KEY = "loss_curve"
"""Of the metadata: JSON, pairs of step and mean loss since the pair before."""
MOST_POINTS = 200
MOST_CHARACTERS = 20_000
"""Of the text in a file that is read at all."""

Losses = Sequence[tuple[int, float]]
"""Step and loss."""


def thinned(losses: Losses, most: int) -> list[tuple[int, float]]:
    """At most so many points: means of equal runs of steps, each at its last step."""
    size = max(-(-len(losses) // most), 1)
    parts = [losses[start : start + size] for start in range(0, len(losses), size)]
    return [(part[-1][0], sum(loss for _, loss in part) / len(part)) for part in parts]


def as_text(losses: Losses) -> str:
    """For the metadata."""
    return json.dumps([[step, float(f"{loss:.4g}")] for step, loss in thinned(losses, MOST_POINTS)])


def of_metadata(metadata: Mapping[str, str]) -> list[tuple[int, float]]:
    """The curve in a file; empty where there is none, or no readable one."""
    text = metadata.get(KEY, "")
    if not 2 < len(text) <= MOST_CHARACTERS:
        return []
    try:
        found = [(int(step), float(loss)) for step, loss in json.loads(text)]
    except (ValueError, TypeError, OverflowError, RecursionError):
        return []
    in_order = all(0 <= one[0] < two[0] for one, two in zip(found, found[1:], strict=False))
    return found if in_order and all(math.isfinite(loss) for _, loss in found) else []


def described(losses: Losses) -> str:
    """One line: from where to where, as means over the first and the last tenth."""
    tenth = max(len(losses) // 10, 1)
    first, last = (sum(loss for _, loss in part) / tenth for part in (losses[:tenth], losses[-tenth:]))
    return f"trained for {losses[-1][0]} steps, loss {first:.4g} in their first tenth, {last:.4g} in the last"
