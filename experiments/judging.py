"""How two arms are compared: samples are paired by seed and noise, so it is their difference that has an
interval, and an arm is higher than another only where that interval leaves out zero."""

from __future__ import annotations

from .results import Table


def higher(table: Table, first: str, second: str, measure: str) -> bool:
    """Whether the first arm's measure is higher than the second's, with 95 % of the interval behind it."""
    return table.difference(first, second, measure).low > 0


def compared(table: Table, first: str, second: str, measure: str, form: str = ".3f") -> str:
    """Both means, and their difference with its interval."""
    means = [format(table.mean(arm, measure), form) for arm in (first, second)]
    found = table.difference(first, second, measure)
    apart, low, high = (format(value, "+" + form) for value in (found.mean, found.low, found.high))
    words = f"{means[0]} against {means[1]}, difference {apart} [{low}, {high}]"
    return words if found.low > 0 or found.high < 0 else words + ", not told apart"
