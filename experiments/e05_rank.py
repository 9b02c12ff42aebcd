"""E5: a zoom in, learnt with LoRAs of different rank. Rank 16 of a width of 64 is a quarter, as 128 is of the
middle of SD1.5's widths."""

from __future__ import annotations

from typing import Any

from .bench import Bench
from .results import Outcome, Table, Verdict


def arms(config: dict[str, Any]) -> list[str]:
    """Without a LoRA, and one for each rank."""
    return ["without", *(f"rank_{rank}" for rank in config["ranks"])]


def run(arm: str, bench: Bench, config: dict[str, Any]) -> Outcome:
    """Captions of balls at rest."""
    loras = {}
    if arm != "without":
        rank = int(arm.removeprefix("rank_"))
        loras[bench.lab.motion_lora(f"zoom_in_rank{rank}", rank=rank, zoom=config["zoom"])] = 1.0
    return bench.shoot(bench.setup(loras=loras), bench.scenes("still", "moving"))


def judge(table: Table, config: dict[str, Any]) -> list[Verdict]:
    """The specification's limits."""
    least, most = (f"rank_{rank}" for rank in (min(config["ranks"]), max(config["ranks"])))
    signs = {arm: table.share(arm, "zoom", 0.0) for arm in arms(config)}
    rate = table.mean(most, "zoom")
    return [
        Verdict(f"zooms in at rank {most[5:]} in at least 90 %", f"{signs[most]:.1%}", signs[most] >= 0.9),
        Verdict(
            "rate within 30 % of the clips'",
            f"{rate:.4f} against {config['zoom']:.4f}",
            abs(rate / config["zoom"] - 1) <= 0.3,
        ),
        Verdict(
            f"rank {least[5:]} within 15 points of it",
            f"{signs[least]:.1%}; without a LoRA {signs['without']:.1%}",
            signs[least] >= signs[most] - 0.15,
        ),
    ]
