"""E2: the trained module against training-free ways to make a clip with the same image model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .bench import Bench
from .results import Outcome, Table, Verdict
from .sampling import Setup


def arms(config: dict[str, Any]) -> list[str]:
    """The method and three baselines."""
    return ["motion_module", "per_frame", "shared_noise", "cross_frame"]


def setup_of(arm: str, bench: Bench) -> Setup:
    """Of an arm."""
    alone = Setup(bench.lab.image_model())
    return {
        "motion_module": bench.setup,
        "per_frame": lambda: alone,
        "shared_noise": lambda: replace(alone, noise="shared"),
        "cross_frame": lambda: replace(alone, noise="carried", cross_frame=True),
    }[arm]()


def run(arm: str, bench: Bench, config: dict[str, Any]) -> Outcome:
    """Moving captions, and still ones for the flicker."""
    moving = bench.shoot(setup_of(arm, bench), bench.scenes())
    still = bench.shoot(setup_of(arm, bench), bench.scenes("still"))
    return replace(moving, samples={**moving.samples, "still_steadiness": still.samples["steadiness"]})


def judge(table: Table, config: dict[str, Any]) -> list[Verdict]:
    """The specification's limits."""
    least, times, still, alike = (config[name] for name in ("right", "smoother", "steady", "alike"))
    cosine = [table.mean(arm, "smoothness") for arm in ("per_frame", "motion_module")]
    right = table.mean("motion_module", "direction")
    rough = [table.mean(arm, "roughness") for arm in ("per_frame", "motion_module")]
    steady = table.mean("motion_module", "still_steadiness")
    best = max(table.mean(arm, "direction") for arm in arms(config)[1:])
    return [
        Verdict(
            f"goes where asked in at least {least:.0%} (chance 25 %)",
            f"{right:.1%}",
            right >= least,
            gate=config["follows"],
        ),
        Verdict(
            "more often than every baseline",
            f"best of them {best:.1%}",
            right > best,
            gate=config["follows"],
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
        ),
        Verdict(f"steadiness of still captions at least {still}", f"{steady:.3f}", steady >= still),
    ]
