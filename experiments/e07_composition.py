"""E7: the zoom at several strengths, and together with a pan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .bench import Bench
from .intervals import spearman
from .results import Outcome, Table, Verdict


def arms(config: dict[str, Any]) -> list[str]:
    """Strengths of the zoom, the pan, and both."""
    return [*(f"zoom_{strength:+g}" for strength in config["strengths"]), "pan", "zoom_and_pan"]


def run(arm: str, bench: Bench, config: dict[str, Any]) -> Outcome:
    """Captions of balls at rest."""
    lab, rank = bench.lab, config["rank"]
    clips, loras = lab.settings["lora"]["clips"], {}
    if "zoom" in arm:
        strength = 1.0 if arm == "zoom_and_pan" else float(arm.removeprefix("zoom_"))
        name = f"zoom{config['zoom']:+g}_rank{rank}_clips{clips}"  # as in the experiment on rank
        loras[lab.motion_lora(name, rank=rank, clips=clips, zoom=config["zoom"])] = strength
    if "pan" in arm:
        name = f"pan{config['pan']:+g}_rank{rank}_clips{clips}"
        loras[lab.motion_lora(name, rank=rank, clips=clips, pan=config["pan"])] = 1.0
    found = bench.shoot(bench.setup(loras=loras), bench.scenes("still", "moving"))
    both = [z * p for z, p in zip(found.samples["zooms_in"], found.samples["pans"], strict=True)]
    return replace(found, samples={**found.samples, "zooms_and_pans": both})


def judge(table: Table, config: dict[str, Any]) -> list[Verdict]:
    """The specification's limits; the sign at negative strength is what the field uses it for."""
    strengths = sorted(config["strengths"])
    rates = [table.mean(f"zoom_{strength:+g}", "zoom") for strength in strengths]
    rank = spearman(strengths, rates)
    both, none = (table.mean(arm, "zooms_and_pans") for arm in ("zoom_and_pan", "zoom_+0"))
    away = table.mean("zoom_-1", "zooms_out")
    back, forth = (table.mean(f"zoom_{strength:+g}", "zoom") for strength in (-1, 1))
    return [
        Verdict(
            "together, both signs right in at least 70 %", f"{both:.1%}, without {none:.1%}", both >= 0.7
        ),
        Verdict(
            "rate rises with strength (rank correlation at least 0.9)",
            ", ".join(f"{s:g}: {r:+.4f}" for s, r in zip(strengths, rates, strict=True)),
            rank >= 0.9,
        ),
        Verdict(
            "at -1 it zooms out in at least 70 %, on average at 0.3 of the rate at 1 or faster",
            f"{away:.1%}, {back:+.4f} against {forth:+.4f}",
            away >= 0.7 and forth > 0 and back <= -0.3 * forth,
        ),
    ]
