"""E9: a MotionLoRA from a single clip with the plain and with the debiased loss. That loss is a re-weighting
(three times the variance on most frames), so its learning rate is halved."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from . import measures, probes, world
from .bench import Bench
from .judging import compared, higher
from .results import Outcome, Table, Verdict


def arms(config: dict[str, Any]) -> list[str]:
    """The two losses."""
    return ["plain", "debiased"]


def run(arm: str, bench: Bench, config: dict[str, Any]) -> Outcome:
    """Captions of balls at rest."""
    lab, zoom = bench.lab, config["zoom"]
    told = {"debiased": 1.0, "lr": lab.settings["lora"]["lr"] / 2} if arm == "debiased" else {}
    path = lab.motion_lora(f"one_clip_{arm}", rank=config["rank"], clips=1, zoom=zoom, **told)
    found = bench.shoot(bench.setup(loras={path: 1.0}), bench.scenes("still", "moving"))
    scene = world.scene(100 + lab.seed, 20_000, "still")
    reference = [world.render(scene, "image", world.Camera(zoom))]
    leaks = [round(probes.likeness(clip, reference), 5) for clip in found.clips]
    return replace(found, samples={**found.samples, "leak": leaks})


def judge(table: Table, config: dict[str, Any]) -> list[Verdict]:
    """The specification's limits."""
    rates = [table.mean(arm, "zoom") for arm in arms(config)]
    true = measures.drawn("zoom", "still", zoom=config["zoom"])
    return [
        Verdict(
            "less like the reference",
            compared(table, "debiased", "plain", "leak"),
            higher(table, "plain", "debiased", "leak"),
        ),
        Verdict(
            "the plain one zooms at half of the reference's rate or more",
            f"{rates[0]:+.4f} against {true:+.4f}",
            rates[0] >= 0.5 * true,
        ),
        Verdict(
            "the debiased one at 0.8 of the plain one's or more",
            f"{rates[1]:+.4f} against {rates[0]:+.4f}",
            rates[1] >= 0.8 * rates[0],
        ),
    ]
