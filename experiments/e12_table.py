"""The paper's table on the personalised base: colour and ground as asked (text), the base's own look
(domain), cosine of neighbouring frames (smoothness). The amount of motion stands beside them, since a frozen
clip is as smooth as can be, and so does whether it is the motion that was asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .bench import Bench
from .e02_motion import setup_of
from .results import Outcome, Table, Verdict
from .sampling import Setup


def arms(config: dict[str, Any]) -> list[str]:
    """The method, and baselines of the kinds that the paper compares with."""
    return ["animatediff", "cross_frame", "one_clip_tuning", "per_frame"]


def run(arm: str, bench: Bench, config: dict[str, Any]) -> Outcome:
    """Moving captions on the personalised base."""
    lab = bench.lab
    if arm == "animatediff":
        setup = bench.setup()
    elif arm == "one_clip_tuning":  # as Tune-a-Video: temporal layers fitted to a single clip of footage
        clip = lab.clips("one", 1, 30_000, "video", "moving right")
        path = lab.module(adapter=False, clips=clip, name="one_clip", steps=config["steps"])
        setup = Setup(lab.image_model(), lab.load_module(path))
    else:
        setup = setup_of(arm, bench)
    return bench.shoot(replace(setup, base=lab.image_model("style")), bench.scenes(), pale=True)


def judge(table: Table, config: dict[str, Any]) -> list[Verdict]:
    """What the table of the paper says of the method, and that its smoothness is no frozen clip's."""
    ours, others = "animatediff", ["cross_frame", "one_clip_tuning"]

    def best(measure: str) -> float:
        return max(table.mean(arm, measure) for arm in others)

    domain, smooth = table.mean(ours, "style"), table.mean(ours, "smoothness")
    right = table.mean(ours, "direction")
    return [
        Verdict("best domain", f"{domain:.1%} against {best('style'):.1%}", domain >= best("style")),
        Verdict(
            "best smoothness", f"{smooth:.3f} against {best('smoothness'):.3f}", smooth >= best("smoothness")
        ),
        Verdict(
            "and moves as asked more often than the others",
            f"{right:.1%} against {best('direction'):.1%}",
            right > best("direction"),
        ),
    ]
