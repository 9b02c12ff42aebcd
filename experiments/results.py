"""What a run of an arm leaves: one JSON file for each (experiment, arm, seed). A file that is there and has
the experiment's present fingerprint is not made again: so a run that was stopped goes on."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..training.files import write_json
from . import world
from .intervals import Estimate, difference, estimate

KEPT = 6
"""Clips of an arm that are kept to be looked at."""


@dataclass(frozen=True)
class Outcome:
    """What an arm gave."""

    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Measure -> its value in each clip."""
    values: Mapping[str, float] = field(default_factory=dict)
    """Figures that a seed has once."""
    clips: np.ndarray | None = None
    """Clips to look at, (N, F, 8, 8, 3) in 0..1."""


@dataclass(frozen=True)
class Result:
    """An arm's outcome and where it comes from."""

    experiment: str
    arm: str
    seed: int
    fingerprint: str
    """Of all that it depends on (`Experiment.fingerprint`)."""
    commit: str
    """Of the code, when the run began."""
    seconds: float
    samples: dict[str, list[float]]
    values: dict[str, float]
    clips: str = ""
    """First clips as bytes (N, F, 8, 8, 3), in base 64; of the first seed alone."""
    config: dict[str, Any] = field(default_factory=dict)
    """The experiment's configuration, limits among it."""
    criteria: str = ""
    """Digest of the code that was to judge it (`Experiment.criteria`)."""
    weights: list[str] = field(default_factory=list)
    """Commits of the code that trained the weights."""

    def frames(self) -> np.ndarray | None:
        """The clips, uint8."""
        if not self.clips:
            return None
        flat = np.frombuffer(base64.b64decode(self.clips), np.uint8)
        return flat.reshape(-1, world.FRAMES, world.SIZE, world.SIZE, 3)


def place(folder: Path, experiment: str, arm: str, seed: int) -> Path:
    """The file of a result."""
    return folder / experiment / f"{arm}-seed{seed}.json"


def read(path: Path) -> Result | None:
    """A result, or None if it is not there or damaged."""
    try:
        return Result(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write(path: Path, result: Result) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(result))


def packed(clips: np.ndarray | None) -> str:
    """The first clips, for :attr:`Result.clips`."""
    if clips is None:
        return ""
    return base64.b64encode(np.round(clips[:KEPT] * 255).astype(np.uint8).tobytes()).decode()


def commit(root: Path) -> str:
    """The commit of the code, with a plus where files differ from it."""

    def ask(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = ask("status", "--porcelain", "--untracked-files=no", "--", "*.py", "*.toml")
    return (ask("rev-parse", "--short=12", "HEAD") or "unknown") + ("+" if changed else "")


class Table:
    """All results of one experiment."""

    def __init__(self, results: Sequence[Result]) -> None:
        self.results = sorted(results, key=lambda result: result.seed)

    @property
    def arms(self) -> list[str]:
        """Those that have results."""
        return list(dict.fromkeys(result.arm for result in self.results))

    def groups(self, arm: str, measure: str) -> list[list[float]]:
        """A measure's samples, seed by seed.

        Raises:
            LookupError: nothing was measured.
        """
        return list(self._of_seeds(arm, measure).values())

    def estimate(self, arm: str, measure: str) -> Estimate:
        """Mean and interval."""
        return estimate(self.groups(arm, measure), self.yes_no(measure))

    def yes_no(self, measure: str) -> bool:
        """Whether a measure is 1 or 0 in every clip of every arm."""
        return all(value in (0, 1) for one in self.results for value in one.samples.get(measure, ()))

    def difference(self, arm_a: str, arm_b: str, measure: str) -> Estimate:
        """Mean and interval of a - b, clip by clip: those of one seed and number have one caption and one
        noise. One is lower than the other only if the whole interval lies below 0.

        Raises:
            LookupError: nothing was measured.
            ValueError: the arms' clips cannot be paired.
        """
        a, b = self._of_seeds(arm_a, measure), self._of_seeds(arm_b, measure)
        if a.keys() != b.keys():
            raise ValueError(
                f"{measure} of {arm_a} and {arm_b} cannot be paired: seeds {sorted(a)} against {sorted(b)}. "
                "Run what is missing."
            )
        try:
            return difference(list(a.values()), [b[seed] for seed in a], self.yes_no(measure))
        except ValueError as error:
            raise ValueError(f"{measure} of {arm_a} and {arm_b} cannot be paired: {error}") from error

    def mean(self, arm: str, measure: str) -> float:
        """Mean over the seeds' means."""
        return self.estimate(arm, measure).mean

    def share(self, arm: str, measure: str, low: float, high: float = float("inf")) -> float:
        """Part of the samples whose measure lies between two values, the mean over seeds."""
        return float(
            np.mean([np.mean([low < v < high for v in group]) for group in self.groups(arm, measure)])
        )

    def _of_seeds(self, arm: str, measure: str) -> dict[int, list[float]]:
        """Seed -> its samples.

        Raises:
            LookupError: nothing was measured.
        """
        found = {
            result.seed: list(result.samples.get(measure) or [result.values[measure]])
            for result in self.results
            if result.arm == arm and (measure in result.samples or measure in result.values)
        }
        if not found:
            raise LookupError(f"There is no {measure} of {arm} yet.")
        return found


@dataclass(frozen=True)
class Verdict:
    """A criterion and whether it holds."""

    text: str
    """The criterion in words, with its limit."""
    figure: str
    """What was found."""
    holds: bool
    gate: bool = True
    """Whether it counts: a hypothesis that was only to be looked at does not."""
