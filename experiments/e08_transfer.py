"""E8: the base fine-tuned on stills of another look; the module has never seen it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .bench import Bench
from .results import Outcome, Table, Verdict
from .sampling import Setup


def arms(config: dict[str, Any]) -> list[str]:
    """The personalised base frame by frame, and with the motion module of the first base."""
    return ["pictures", "animated"]


def run(arm: str, bench: Bench, config: dict[str, Any]) -> Outcome:
    """Moving captions."""
    base = bench.lab.image_model("style")
    setup = Setup(base) if arm == "pictures" else replace(bench.setup(), base=base)
    return bench.shoot(setup, bench.scenes(), pale=True)


def judge(table: Table, config: dict[str, Any]) -> list[Verdict]:
    """The specification's limits."""
    looks = [table.mean(arm, "style") for arm in arms(config)]
    right = table.mean("animated", "direction")
    return [
        Verdict(
            "in the personalised look at least 95 % as often as the pictures",
            f"{looks[1]:.1%} against {looks[0]:.1%}",
            looks[1] >= 0.95 * looks[0] > 0,
        ),
        Verdict("goes where asked in at least 70 %", f"{right:.1%}", right >= 0.7),
    ]
