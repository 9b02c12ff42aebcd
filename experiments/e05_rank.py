"""E5: a zoom in, learnt with LoRAs of different rank. Rank 16 of a width of 64 is a quarter, as 128 is of the
middle of SD1.5's widths."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import measures, world
from .bench import Bench
from .results import Outcome, Table, Verdict


def arms(config: dict[str, Any]) -> list[str]:
    """Reference clips as they are, samples without a LoRA, and one for each rank."""
    return ["clips", "without", *(f"rank_{rank}" for rank in config["ranks"])]


def run(arm: str, bench: Bench, config: dict[str, Any]) -> Outcome:
    """Captions of balls at rest."""
    scenes, loras = bench.scenes("still", "moving"), {}
    if arm == "clips":
        clips = np.stack([world.render(scene, camera=world.Camera(config["zoom"])) for scene in scenes])
        return Outcome(samples=measures.look_all(clips, scenes), clips=clips)
    if arm != "without":
        rank = int(arm.removeprefix("rank_"))
        loras[bench.lab.motion_lora(f"zoom_in_rank{rank}", rank=rank, zoom=config["zoom"])] = 1.0
    return bench.shoot(bench.setup(loras=loras), scenes)


def judge(table: Table, config: dict[str, Any]) -> list[Verdict]:
    """The specification's limits."""
    least, most = (f"rank_{rank}" for rank in (min(config["ranks"]), max(config["ranks"])))
    signs = {arm: table.share(arm, "zoom", 0.0) for arm in arms(config)}
    rate, true = table.mean(most, "zoom"), table.mean("clips", "zoom")
    return [
        Verdict(f"zooms in at rank {most[5:]} in at least 90 %", f"{signs[most]:.1%}", signs[most] >= 0.9),
        Verdict(
            "rate within 30 % of the reference clips', measured alike",
            f"{rate:.4f} against {true:.4f}",
            abs(rate / true - 1) <= 0.3,
        ),
        Verdict(
            f"rank {least[5:]} within 15 points of it",
            f"{signs[least]:.1%}; without a LoRA {signs['without']:.1%}",
            signs[least] >= signs[most] - 0.15,
        ),
    ]
