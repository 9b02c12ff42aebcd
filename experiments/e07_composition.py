"""E7: the zoom at several strengths, and together with a pan."""

from __future__ import annotations

from typing import Any

import numpy as np

from .bench import Bench
from .intervals import spearman
from .results import Outcome, Table, Verdict


def arms(config: dict[str, Any]) -> list[str]:
    """Strengths of the zoom, the pan, and both."""
    return [*(f"zoom_{strength:+g}" for strength in config["strengths"]), "pan", "zoom_and_pan"]


def run(arm: str, bench: Bench, config: dict[str, Any]) -> Outcome:
    """Captions of balls at rest."""
    lab, rank = bench.lab, config["rank"]
    loras = {}
    if "zoom" in arm:
        strength = 1.0 if arm == "zoom_and_pan" else float(arm.removeprefix("zoom_"))
        loras[lab.motion_lora(f"zoom_in_rank{rank}", rank=rank, zoom=config["zoom"])] = strength
    if "pan" in arm:
        loras[lab.motion_lora("pan", rank=rank, pan=config["pan"])] = 1.0
    return bench.shoot(bench.setup(loras=loras), bench.scenes("still", "moving"))


def judge(table: Table, config: dict[str, Any]) -> list[Verdict]:
    """The specification's limits; the sign at negative strength is what the field uses it for."""
    strengths = sorted(config["strengths"])
    rates = [table.mean(f"zoom_{strength:+g}", "zoom") for strength in strengths]
    rank = spearman(strengths, rates)
    groups = [table.groups("zoom_and_pan", measure) for measure in ("zoom", "pan")]
    both = np.mean([np.mean((np.array(z) > 0) & (np.array(p) > 0)) for z, p in zip(*groups, strict=True)])
    away = 1 - table.share("zoom_-1", "zoom", 0.0)
    return [
        Verdict("together, both signs right in at least 70 %", f"{both:.1%}", both >= 0.7),
        Verdict(
            "rate rises with strength (rank correlation at least 0.9)",
            ", ".join(f"{s:g}: {r:+.4f}" for s, r in zip(strengths, rates, strict=True)),
            rank >= 0.9,
        ),
        Verdict("at -1 it zooms out in at least 70 %", f"{away:.1%}", away >= 0.7),
    ]
