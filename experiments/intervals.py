"""Means with 95 % intervals from a few seeds of many samples each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float
    seeds: int
    """How many seeds it stands on."""


def estimate(groups: Sequence[Sequence[float]], draws: int = 2000) -> Estimate:
    """Mean over seeds of the mean over samples, with a bootstrap interval: seeds are drawn with replacement,
    then the samples of each (Davison and Hinkley, 1997, section 3.8). Three seeds understate what a fourth
    might do, so the report also shows each seed's own mean.

    Args:
        groups: the samples of each seed; a figure that a seed has once is a group of one.

    Raises:
        ValueError: there is no sample.
    """
    values = [np.asarray(group, float) for group in groups]
    if not values or any(group.size == 0 for group in values):
        raise ValueError("An estimate needs at least one seed, and of each seed at least one sample.")
    means = [group.mean() for group in values]
    rng = np.random.default_rng(0)
    again = np.stack([rng.choice(group, (draws, group.size)).mean(1) for group in values])  # (seeds, draws)
    which = rng.integers(0, len(values), (len(values), draws))
    drawn = np.take_along_axis(again, which, axis=0).mean(0)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Estimate(float(np.mean(means)), float(low), float(high), len(values))


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Correlation of ranks, ties sharing theirs."""
    ranks = [_ranks(np.asarray(values, float)) for values in (first, second)]
    spread = ranks[0].std() * ranks[1].std()
    return (
        float(((ranks[0] - ranks[0].mean()) * (ranks[1] - ranks[1].mean())).mean() / spread)
        if spread
        else 0.0
    )


def _ranks(values: np.ndarray) -> np.ndarray:
    return np.array([((values < v).sum() + (values <= v).sum() - 1) / 2 for v in values])
