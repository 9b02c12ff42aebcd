"""E4: what lies between the module's two projections is a convolution over time with as many values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .bench import Bench
from .judging import compared, higher
from .results import Outcome, Table, Verdict


def arms(config: dict[str, Any]) -> list[str]:
    """The two kinds of module."""
    return ["transformer", "convolution"]


def run(arm: str, bench: Bench, config: dict[str, Any]) -> Outcome:
    """Samples of moving and still captions, and the module's size."""
    kind = "attention" if arm == "transformer" else arm
    setup = bench.setup(kind)
    moving, still = bench.shoot(setup, bench.scenes()), bench.shoot(setup, bench.scenes("still"))
    path = bench.lab.module(kind, name="module" if kind == "attention" else kind)
    values = {
        "values": sum(weight.numel() for weight in setup.motion.parameters()),
        "held_out_loss": bench.lab.validation_loss(path),
    }
    samples = {**moving.samples, "still_steadiness": still.samples["steadiness"]}
    return replace(moving, samples=samples, values=values)


def judge(table: Table, config: dict[str, Any]) -> list[Verdict]:
    """Equal size counts; the paper's finding is a hypothesis here, since in so small a world a kernel of
    three frames may see as much as matters."""
    size = [table.mean(arm, "values") for arm in arms(config)]
    speed = [table.mean(arm, "speed") for arm in arms(config)]
    ours, other = arms(config)
    return [
        Verdict(
            "sizes within 2 %", f"{size[1]:,.0f} against {size[0]:,.0f}", abs(size[1] / size[0] - 1) < 0.02
        ),
        Verdict(
            "the convolution moves less than half as much (the paper's finding)",
            compared(table, other, ours, "speed"),
            speed[1] < 0.5 * speed[0],
            gate=False,
        ),
        Verdict(
            "its frames are more alike (the paper's finding)",
            compared(table, other, ours, "smoothness"),
            higher(table, other, ours, "smoothness"),
            gate=False,
        ),
        Verdict(
            "it follows the prompt's direction less often",
            compared(table, other, ours, "direction"),
            higher(table, ours, other, "direction"),
            gate=False,
        ),
    ]
