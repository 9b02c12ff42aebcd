"""E10: the module trained under the base's schedule, sampled under it and under the milder one of SD1.5."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..motion_core.schedule.beta_schedules import LINEAR
from .base import SCHEDULE
from .bench import Bench
from .results import Outcome, Table, Verdict

SCHEDULES = {"noisy": SCHEDULE, "mild": LINEAR}


def arms(config: dict[str, Any]) -> list[str]:
    """Trained under, sampled under."""
    return [f"{trained}_{sampled}" for trained in SCHEDULES for sampled in SCHEDULES]


def run(arm: str, bench: Bench, config: dict[str, Any]) -> Outcome:
    """Moving captions, and still ones for the flicker."""
    trained, sampled = arm.split("_")
    setup = bench.setup()
    if trained == "mild":
        path = bench.lab.module(schedule=LINEAR, name="module_mild")
        setup = replace(setup, motion=bench.lab.load_module(path))
    setup = replace(setup, schedule=SCHEDULES[sampled])
    moving, still = bench.shoot(setup, bench.scenes()), bench.shoot(setup, bench.scenes("still"))
    return replace(moving, samples={**moving.samples, "still_steadiness": still.samples["steadiness"]})


def judge(table: Table, config: dict[str, Any]) -> list[Verdict]:
    """For each way of training, the matching schedule must give the steadier clips."""
    verdicts = []
    for trained, other in (("noisy", "mild"), ("mild", "noisy")):
        steady = [table.mean(f"{trained}_{sampled}", "still_steadiness") for sampled in (trained, other)]
        verdicts.append(
            Verdict(
                f"trained under the {trained} schedule: steadier when sampled under it",
                f"{steady[0]:.4f} against {steady[1]:.4f}",
                steady[0] > steady[1],
            )
        )
    return verdicts
