"""What every experiment script works with: its seed's trainings, and samples that are alike in every arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from . import base, measures, world
from .results import Outcome
from .sampling import Setup, sample
from .stages import Lab

FIRST = 9_000
"""Number of the first scene that is asked for. Trainings know its caption, but have never seen it."""


@dataclass(frozen=True)
class Bench:
    """One seed at one size."""

    lab: Lab
    told: dict[str, Any]
    """Table `samples` of the settings."""
    keep_clips: bool = False
    """Whether this seed's clips are kept to be looked at."""

    def scenes(self, motion: str = "", count: str = "") -> list[world.Scene]:
        """The scenes asked for: by default all four directions in turn; or all with one motion. `count` names
        the setting that says how many."""
        count = self.told[count or ("still" if motion == "still" else "moving")]
        turns = [motion] if motion else world.MOTIONS[:4]
        return [world.scene(self.lab.seed, FIRST + n, turns[n % len(turns)]) for n in range(count)]

    def setup(self, module: str = "attention", **more: Any) -> Setup:
        """The whole method at inference: base, motion module, adapter off."""
        kinds = {"attention": "module", "no_positions": "no_positions", "convolution": "convolution"}
        path = self.lab.module(module, name=kinds[module])
        return Setup(self.lab.image_model(), self.lab.load_module(path, module), **more)

    def shoot(self, setup: Setup, scenes: Sequence[world.Scene], pale: bool = False) -> Outcome:
        """Sample the scenes' captions and measure everything."""
        captions = [scene.caption for scene in scenes]
        clips = sample(setup, captions, self.lab.seed, self.told["steps"], self.told["cfg"])
        return Outcome(samples=measures.look_all(clips, scenes, pale), clips=clips)


__all__ = ["Bench", "Outcome", "Setup", "base", "world"]
