"""E8: the base fine-tuned on stills of another look; the module has never seen it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .bench import Bench
from .judging import compared
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
    looks, marks, sharp = (
        [table.mean(arm, measure) for arm in arms(config)] for measure in ("style", "watermark", "sharpness")
    )
    right = table.mean("animated", "direction")
    return [
        Verdict(
            "nearness to the personalised look at least 95 % of the pictures', which is at least 0.5",
            compared(table, "animated", "pictures", "style"),
            looks[1] >= 0.95 * looks[0] and looks[0] >= 0.5,
        ),
        Verdict(
            "watermark of the module's videos below 0.25",
            f"{marks[1]:.2f}, pictures {marks[0]:.2f}",
            marks[1] < 0.25,
        ),
        Verdict(
            "at least half as sharp as the pictures",
            compared(table, "animated", "pictures", "sharpness", ".4f"),
            sharp[1] >= 0.5 * sharp[0],
        ),
        Verdict("goes where asked in at least 70 %", f"{right:.1%}", right >= 0.7),
    ]
