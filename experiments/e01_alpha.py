"""E1: the adapter was in place when the motion module was trained; at inference its strength is free."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .bench import Bench
from .intervals import spearman
from .results import Outcome, Table, Verdict


def arms(config: dict[str, Any]) -> list[str]:
    """One for each strength."""
    return [f"alpha_{alpha:g}" for alpha in config["alphas"]]


def run(arm: str, bench: Bench, config: dict[str, Any]) -> Outcome:
    """The whole method with the adapter at this strength."""
    alpha = float(arm.removeprefix("alpha_"))
    setup = replace(bench.setup(), adapter=bench.lab.adapter(), alpha=alpha)
    return bench.shoot(setup, bench.scenes())


def judge(table: Table, config: dict[str, Any]) -> list[Verdict]:
    """The specification's limits."""
    alphas, most, worse = config["alphas"], config["watermark"], config["worse"]
    marks = [table.mean(f"alpha_{alpha:g}", "watermark") for alpha in alphas]
    on, off = "alpha_1", "alpha_0"
    rank = spearman(alphas, marks)
    ratio = table.mean(off, "watermark") / table.mean(on, "watermark")
    sharp = [table.mean(arm, "sharpness") for arm in (off, on)]
    moves = [table.mean(arm, "direction") for arm in (off, on)]
    return [
        Verdict("watermark rises with alpha (rank correlation at least 0.9)", f"{rank:.2f}", rank >= 0.9),
        Verdict(f"watermark at 0 at most {most} of that at 1", f"{ratio:.2f}", ratio <= most),
        Verdict(
            "sharper at 0 than at 1",
            f"{sharp[0]:.4f} against {sharp[1]:.4f}",
            sharp[0] > sharp[1],
            gate=config["sharpens"],
        ),
        Verdict(
            f"right directions at 0 no more than {worse:.0%} fewer than at 1",
            f"{moves[0]:.1%} against {moves[1]:.1%}",
            moves[0] > moves[1] - worse,
        ),
    ]
