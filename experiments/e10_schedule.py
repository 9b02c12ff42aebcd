"""E10: the module trained under the base's schedule, sampled under it and under the milder one of SD1.5."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..motion_core.schedule.beta_schedules import LINEAR
from . import probes, world
from .base import SCHEDULE
from .bench import Bench
from .judging import compared, higher
from .results import Outcome, Table, Verdict

SCHEDULES = {"noisy": SCHEDULE, "mild": LINEAR}


def arms(config: dict[str, Any]) -> list[str]:
    """Trained under, sampled under."""
    return [f"{trained}_{sampled}" for trained in SCHEDULES for sampled in SCHEDULES]


def run(arm: str, bench: Bench, config: dict[str, Any]) -> Outcome:
    """Moving captions, and still ones for the flicker; `saturation_off` is how far a clip's saturation is
    from that of the drawn one."""
    trained, sampled = arm.split("_")
    setup = bench.setup()
    if trained == "mild":
        path = bench.lab.module(schedule=LINEAR, name="module_mild")
        setup = replace(setup, motion=bench.lab.load_module(path))
    setup = replace(setup, schedule=SCHEDULES[sampled])
    scenes = bench.scenes()
    moving, still = bench.shoot(setup, scenes), bench.shoot(setup, bench.scenes("still"))
    drawn = [probes.saturation(world.render(scene)) for scene in scenes]
    off = [round(abs(s - d), 5) for s, d in zip(moving.samples["saturation"], drawn, strict=True)]
    more = {"still_flicker": still.samples["flicker"], "saturation_off": off}
    return replace(moving, samples={**moving.samples, **more})


def judge(table: Table, config: dict[str, Any]) -> list[Verdict]:
    """For each way of training, the matching schedule must be the better one to sample under. Flicker is
    measured against contrast, since a washed-out clip differs little from frame to frame."""
    verdicts = []
    for trained, other in (("noisy", "mild"), ("mild", "noisy")):
        match, miss = f"{trained}_{trained}", f"{trained}_{other}"
        verdicts += [
            Verdict(
                f"trained under the {trained} schedule: {words} when sampled under it",
                compared(table, match, miss, measure),
                higher(table, miss, match, measure),
            )
            for measure, words in (
                ("still_flicker", "less flicker"),
                ("saturation_off", "saturation nearer to that of drawn clips"),
            )
        ]
    return verdicts
