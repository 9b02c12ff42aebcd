"""E9: a MotionLoRA from a single clip with the plain and with the debiased loss. That loss is a re-weighting
(three times the variance on most frames), so its learning rate is halved."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from . import world
from .bench import Bench
from .e06_clips import leak
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
    return replace(found, samples={**found.samples, "leak": [leak(clip, reference) for clip in found.clips]})


def judge(table: Table, config: dict[str, Any]) -> list[Verdict]:
    """The specification's limits."""
    leaks = [table.mean(arm, "leak") for arm in arms(config)]
    rates = [table.mean(arm, "zoom") for arm in arms(config)]
    return [
        Verdict("less like the reference", f"{leaks[1]:.3f} against {leaks[0]:.3f}", leaks[1] < leaks[0]),
        Verdict(
            "at a zoom of at least 0.8 of the plain one's",
            f"{rates[1]:+.4f} against {rates[0]:+.4f}",
            rates[1] >= 0.8 * rates[0],
        ),
    ]
