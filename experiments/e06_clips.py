"""E6: the same LoRA from few clips and from many."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from . import world
from .bench import Bench
from .results import Outcome, Table, Verdict

PLACE = np.indices((world.SIZE, world.SIZE)) + 0.5 - world.SIZE / 2
FAR = np.hypot(*PLACE) > 3.0
"""Pixels that no ball at rest reaches."""


def arms(config: dict[str, Any]) -> list[str]:
    """One for each number."""
    return [f"clips_{count}" for count in config["clips"]]


def run(arm: str, bench: Bench, config: dict[str, Any]) -> Outcome:
    """Captions of balls at rest; `leak` is how like a sample is to one of the first references."""
    count = int(arm.removeprefix("clips_"))
    rank, whole = config["rank"], count == max(config["clips"])
    # The run with all clips is also the one that the experiment on rank has made.
    name = f"zoom_in_rank{rank}" if whole else f"zoom_in_clips{count}"
    told = {} if whole else {"clips": count}
    path = bench.lab.motion_lora(name, rank=rank, zoom=config["zoom"], **told)
    found = bench.shoot(bench.setup(loras={path: 1.0}), bench.scenes("still", "moving"))
    references = [
        world.render(
            world.scene(100 + bench.lab.seed, 20_000 + n, "still"), "image", world.Camera(config["zoom"])
        )
        for n in range(min(config["clips"]))
    ]
    leaks = [leak(clip, references) for clip in found.clips]
    return replace(found, samples={**found.samples, "leak": leaks})


def leak(clip: np.ndarray, references: list[np.ndarray]) -> float:
    """Highest correlation of a clip's ground with that of a reference at the same times, colours' means
    taken away: how much of a reference's texture is seen again. The ball's place is left out."""

    def plain(frames: np.ndarray) -> np.ndarray:
        ground = frames[:, FAR]
        flat = (ground - ground.mean((0, 1))).ravel()
        return flat / (np.linalg.norm(flat) + 1e-9)

    return round(max(float(plain(clip) @ plain(reference)) for reference in references), 5)


def judge(table: Table, config: dict[str, Any]) -> list[Verdict]:
    """The specification's limits."""
    few, many = (f"clips_{count}" for count in (min(config["clips"]), max(config["clips"])))
    sign = table.share(many, "zoom", 0.0)
    text = [table.mean(arm, "text") for arm in (few, many)]
    leaks = [table.mean(arm, "leak") for arm in (few, many)]
    return [
        Verdict(f"{many[6:]} clips zoom in in at least 90 %", f"{sign:.1%}", sign >= 0.9),
        Verdict(
            f"{few[6:]} clips: text at least 10 points worse, or twice the likeness to the references",
            f"text {text[0]:.1%} against {text[1]:.1%}, likeness {leaks[0]:.3f} against {leaks[1]:.3f}",
            text[0] <= text[1] - 0.1 or leaks[0] >= 2 * leaks[1],
        ),
    ]
