"""E1b: the same training of the motion module on the adapter and on the bare base; the adapter is off when
sampling, so that what is seen of the video's look is the module's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .bench import Bench
from .judging import compared
from .results import Outcome, Table, Verdict
from .sampling import Setup


def arms(config: dict[str, Any]) -> list[str]:
    """With and without stage 1."""
    return ["with_adapter", "without_adapter"]


def run(arm: str, bench: Bench, config: dict[str, Any]) -> Outcome:
    """Samples without adapter, and the loss on held-out clips under the conditions of its training."""
    lab = bench.lab
    with_it = arm == "with_adapter"
    path = lab.module() if with_it else lab.module(adapter=False, name="module_without_adapter")
    found = bench.shoot(Setup(lab.image_model(), lab.load_module(path)), bench.scenes())
    return replace(found, values={"held_out_loss": lab.validation_loss(path)})


def judge(table: Table, config: dict[str, Any]) -> list[Verdict]:
    """The specification's limits."""
    marks = [table.mean(arm, "watermark") for arm in arms(config)]
    losses = [table.mean(arm, "held_out_loss") for arm in arms(config)]
    return [
        Verdict(
            "watermark of the module trained without the adapter at least 0.2, with it at most 0.6 of that",
            compared(table, *arms(config), "watermark"),
            marks[1] >= 0.2 and marks[0] <= 0.6 * marks[1],
        ),
        Verdict(
            "loss on held-out clips not more than 2 % worse with the adapter",
            f"{losses[0]:.4f} against {losses[1]:.4f}",
            losses[0] <= 1.02 * losses[1],
        ),
    ]
