"""E5: a zoom in, learnt with LoRAs of different rank. Rank 16 of a width of 64 is a quarter, as 128 is of the
middle of SD1.5's widths; the paper's rank 2 would be a quarter of rank 1 here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from . import measures, world
from .bench import Bench
from .expectation import losses
from .judging import compared, higher
from .results import Outcome, Table, Verdict


def arms(config: dict[str, Any]) -> list[str]:
    """Reference clips as they are, samples without a LoRA, and one for each rank."""
    return ["clips", "without", *(f"rank_{rank}" for rank in config["ranks"])]


def run(arm: str, bench: Bench, config: dict[str, Any]) -> Outcome:
    """Captions of balls at rest; `camera_loss` is what is expected of zooming videos, with the adapter as
    in training."""
    scenes, loras = bench.scenes("still", "moving"), {}
    if arm == "clips":
        clips = np.stack([world.render(scene, camera=world.Camera(config["zoom"])) for scene in scenes])
        return Outcome(samples=measures.look_all(clips, scenes), clips=clips)
    if arm != "without":
        rank = int(arm.removeprefix("rank_"))
        clips, zoom = bench.lab.settings["lora"]["clips"], config["zoom"]
        name = f"zoom{zoom:+g}_rank{rank}_clips{clips}"
        loras[bench.lab.motion_lora(name, rank=rank, clips=clips, zoom=zoom)] = 1.0
    setup = bench.setup(loras=loras)
    told = replace(setup, adapter=bench.lab.adapter())
    loss = losses(told, scenes, world.Camera(config["zoom"]), bench.lab.seed)
    found = bench.shoot(setup, scenes)
    return replace(found, samples={**found.samples, "camera_loss": loss})


def judge(table: Table, config: dict[str, Any]) -> list[Verdict]:
    """The specification's limits."""
    *few, most = (f"rank_{rank}" for rank in sorted(config["ranks"]))
    signs = {arm: table.mean(arm, "zooms_in") for arm in arms(config)}
    rate, true = table.mean(most, "zoom"), table.mean("clips", "zoom")
    learns = not config.get("short", False)  # whether the training is as long as a zoom takes
    return [
        Verdict(
            "lower loss than without a LoRA on videos that zoom in, which it has not seen",
            compared(table, most, "without", "camera_loss", ".4f"),
            higher(table, "without", most, "camera_loss"),
        ),
        Verdict(
            f"zooms in at rank {most[5:]} in at least 90 %, without a LoRA in less than 65 %",
            f"{signs[most]:.1%}, without {signs['without']:.1%}",
            signs[most] >= 0.9 and signs["without"] < 0.65,
            gate=learns,
        ),
        Verdict(
            "rate within 30 % of the reference clips', measured alike",
            f"{rate:.4f} against {true:.4f}",
            abs(rate / true - 1) <= 0.3,
            gate=learns,
        ),
        *(
            Verdict(
                f"rank {arm[5:]} zooms in within 15 points of it, at half of the clips' rate or more",
                f"{signs[arm]:.1%} at {table.mean(arm, 'zoom'):.4f}",
                signs[arm] >= signs[most] - 0.15 and table.mean(arm, "zoom") >= 0.5 * true,
                gate=learns,
            )
            for arm in few
        ),
    ]
