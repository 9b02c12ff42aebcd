"""What a run of an arm leaves: one JSON file for each (experiment, arm, seed). A file that is there, made
under the same settings, is not made again: so a run that was stopped goes on."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from ..training.files import write_json
from . import world
from .intervals import Estimate, estimate

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
    settings: str
    """Fingerprint of sizes, world and model."""
    commit: str
    seconds: float
    samples: dict[str, list[float]]
    values: dict[str, float]
    clips: str = ""
    """First clips as bytes (N, F, 8, 8, 3), in base 64; of the first seed alone."""

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
        found = [
            list(result.samples[measure]) if measure in result.samples else [result.values[measure]]
            for result in self.results
            if result.arm == arm and (measure in result.samples or measure in result.values)
        ]
        if not found:
            raise LookupError(f"There is no {measure} of {arm} yet.")
        return found

    def estimate(self, arm: str, measure: str) -> Estimate:
        """Mean and interval."""
        return estimate(self.groups(arm, measure))

    def mean(self, arm: str, measure: str) -> float:
        """Mean over the seeds' means."""
        return self.estimate(arm, measure).mean

    def share(self, arm: str, measure: str, low: float, high: float = float("inf")) -> float:
        """Part of the samples whose measure lies between two values, the mean over seeds."""
        return float(
            np.mean([np.mean([low < v < high for v in group]) for group in self.groups(arm, measure)])
        )


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
