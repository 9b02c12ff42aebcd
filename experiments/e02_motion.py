"""E2: the trained module against training-free ways to make a clip with the same image model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from . import measures
from .bench import Bench
from .judging import compared, higher
from .results import Outcome, Table, Verdict
from .sampling import BASELINES, baseline


def arms(config: dict[str, Any]) -> list[str]:
    """The method and three baselines."""
    return ["motion_module", *BASELINES]


def run(arm: str, bench: Bench, config: dict[str, Any]) -> Outcome:
    """Moving captions, and still ones for the flicker."""
    setup = bench.setup() if arm == "motion_module" else baseline(arm, bench.lab.image_model())
    moving = bench.shoot(setup, bench.scenes())
    still = bench.shoot(setup, bench.scenes("still"))
    return replace(moving, samples={**moving.samples, "still_steadiness": still.samples["steadiness"]})


def judge(table: Table, config: dict[str, Any]) -> list[Verdict]:
    """The specification's limits."""
    least, times, still, alike, moves = (
        config[name] for name in ("right", "smoother", "steady", "alike", "moves")
    )
    ours = "motion_module"
    cosine = [table.mean(arm, "smoothness") for arm in ("per_frame", "motion_module")]
    right = table.mean("motion_module", "direction")
    rough = [table.mean(arm, "roughness") for arm in ("per_frame", "motion_module")]
    steady = table.mean("motion_module", "still_steadiness")
    best = max(BASELINES, key=lambda arm: table.mean(arm, "direction"))
    way, true = table.mean(ours, "step"), measures.drawn("step")
    return [
        Verdict(
            f"goes where asked in at least {least:.0%} (chance 25 %)",
            f"{right:.1%}",
            right >= least,
            gate=config["follows"],
        ),
        Verdict(
            "more often than every baseline",
            f"the best is {best}: {compared(table, ours, best, 'direction')}",
            all(higher(table, ours, arm, "direction") for arm in BASELINES),
            gate=config["follows"],
        ),
        Verdict(
            f"the ball's way from frame to frame at least {moves} of drawn clips' (frozen clips have none)",
            f"{way:.2f} against {true:.2f} px",
            way >= moves * true,
        ),
        Verdict(
            f"neighbouring frames' cosine at least {alike} above frame by frame",
            f"{cosine[1]:.3f} against {cosine[0]:.3f}",
            cosine[1] >= cosine[0] + alike,
        ),
        Verdict(
            f"path at least {times:g} times as smooth as frame by frame",
            f"roughness {rough[1]:.2f} against {rough[0]:.2f}",
            rough[1] <= rough[0] / times,
            gate=config["follows"],
        ),
        Verdict(f"steadiness of still captions at least {still}", f"{steady:.3f}", steady >= still),
    ]
