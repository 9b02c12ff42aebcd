"""E1: the adapter was in place when the motion module was trained; at inference its strength is free."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from . import measures
from .bench import Bench
from .intervals import spearman
from .judging import compared, higher
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
    alphas, least, most, worse = (config[name] for name in ("alphas", "learnt", "watermark", "worse"))
    marks = [table.mean(f"alpha_{alpha:g}", "watermark") for alpha in alphas]
    on, off = "alpha_1", "alpha_0"
    rank = spearman(alphas, marks)
    learnt, left = (table.mean(arm, "watermark") for arm in (on, off))
    true = measures.drawn("sharpness")
    excess = table.mean(off, "sharpness") / true
    moves = table.difference(off, on, "direction").mean
    return [
        Verdict("watermark rises with alpha (rank correlation at least 0.9)", f"{rank:.2f}", rank >= 0.9),
        Verdict(
            f"watermark at 1 at least {least}, and at 0 at most {most} of it",
            f"{learnt:.2f}, {left:.2f}",
            learnt >= least and abs(left) <= most * learnt,
        ),
        Verdict(
            "sharper at 0 than at 1, and not more than 1.5 times as sharp as drawn pictures (noise would be)",
            f"{compared(table, off, on, 'sharpness', '.4f')}; {excess:.2f} times drawn ones ({true:.4f})",
            higher(table, off, on, "sharpness") and excess <= 1.5,
            gate=config["sharpens"],
        ),
        Verdict(
            f"right directions at 0 no more than {worse:.0%} fewer than at 1",
            compared(table, off, on, "direction"),
            moves > -worse,
            gate=config["follows"],
        ),
    ]
