"""E6: the same LoRA from few clips and from many."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from . import probes, world
from .bench import Bench
from .judging import compared
from .results import Outcome, Table, Verdict


def arms(config: dict[str, Any]) -> list[str]:
    """Without a LoRA, and one for each number."""
    return ["without", *(f"clips_{count}" for count in config["clips"])]


def run(arm: str, bench: Bench, config: dict[str, Any]) -> Outcome:
    """Captions of balls at rest; `leak` is how like a sample is to one of the first references."""
    rank, zoom, loras = config["rank"], config["zoom"], {}
    if arm != "without":
        count = int(arm.removeprefix("clips_"))
        # Of the same name as in the experiment on rank, which has made it where the number is the same.
        name = f"zoom{zoom:+g}_rank{rank}_clips{count}"
        loras[bench.lab.motion_lora(name, rank=rank, clips=count, zoom=zoom)] = 1.0
    found = bench.shoot(bench.setup(loras=loras), bench.scenes("still", "moving"))
    references = [
        world.render(world.scene(100 + bench.lab.seed, 20_000 + n, "still"), "image", world.Camera(zoom))
        for n in range(min(config["clips"]))
    ]
    leaks = [round(probes.likeness(clip, references), 5) for clip in found.clips]
    return replace(found, samples={**found.samples, "leak": leaks})


def judge(table: Table, config: dict[str, Any]) -> list[Verdict]:
    """The specification's limits. Likeness to the nearest of five references is never zero, so what counts
    is what the LoRA adds to it."""
    few, many = (f"clips_{count}" for count in (min(config["clips"]), max(config["clips"])))
    sign = table.mean(many, "zooms_in")
    worse = table.difference(many, few, "text")
    leaks = [table.difference(arm, "without", "leak") for arm in (few, many)]
    told = [f"{leak.mean:+.3f} [{leak.low:+.3f}, {leak.high:+.3f}]" for leak in leaks]
    return [
        Verdict(f"{many[6:]} clips zoom in in at least 90 %", f"{sign:.1%}", sign >= 0.9),
        Verdict(
            f"{few[6:]} clips: text at least 10 points worse, or likeness to the references added, "
            "at least 0.1 and twice as much",
            f"text {compared(table, few, many, 'text')}; likeness added {told[0]} against {told[1]}",
            (worse.mean >= 0.1 and worse.low > 0)
            or (leaks[0].low > 0 and leaks[0].mean >= max(0.1, 2 * leaks[1].mean)),
        ),
    ]
