"""The paper's table on the personalised base: colour and ground as asked (text), the base's own look
(domain), cosine of neighbouring frames (smoothness). The amount of motion stands beside them, since a frozen
clip is as smooth as can be, and so does whether it is the motion that was asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .bench import Bench
from .judging import compared, higher
from .results import Outcome, Table, Verdict
from .sampling import Setup, baseline


def arms(config: dict[str, Any]) -> list[str]:
    """The method, and baselines of the kinds that the paper compares with."""
    return ["animatediff", "cross_frame", "one_clip_tuning", "per_frame"]


def run(arm: str, bench: Bench, config: dict[str, Any]) -> Outcome:
    """Moving captions on the personalised base."""
    lab, steps = bench.lab, config["steps"]
    personal = lab.image_model("style")
    if arm == "animatediff":
        setup = replace(bench.setup(), base=personal)
    elif arm == "one_clip_tuning":  # as Tune-a-Video: temporal layers fitted to a single clip of footage
        clip = lab.clips("one", 1, 30_000, "video", "moving right")
        path = lab.module(
            adapter=False, clips=clip, name=f"one_clip_style_{steps}", steps=steps, domain="style"
        )
        setup = Setup(personal, lab.load_module(path))
    else:
        setup = baseline(arm, personal)
    return bench.shoot(setup, bench.scenes(), pale=True)


def judge(table: Table, config: dict[str, Any]) -> list[Verdict]:
    """What the table of the paper says of the method. Smoothness is compared where something moves: frozen
    clips are smooth whatever else they are. Direction is only looked at: the one clip knows one of the four,
    and the carried noise of the other baseline leads all its clips the same way."""
    ours, others = "animatediff", ["cross_frame", "one_clip_tuning"]
    speed = {arm: table.mean(arm, "speed") for arm in arms(config)}
    moving = [arm for arm in others if speed[arm] >= 0.5 * speed[ours]]
    resting = "; ".join(f"{arm} moves {speed[arm]:.2f} px/frame" for arm in others if arm not in moving)

    def against(rivals: list[str], measure: str) -> str:
        return "; ".join(f"{arm}: {compared(table, ours, arm, measure)}" for arm in rivals)

    def best(rivals: list[str], measure: str) -> bool:
        return all(higher(table, ours, arm, measure) for arm in rivals)

    return [
        Verdict("nearest to the personalised look", against(others, "style"), best(others, "style")),
        Verdict(
            "best smoothness of those with at least half of our net motion",
            "; ".join(filter(None, [against(moving, "smoothness"), resting])) + f"; ours {speed[ours]:.2f}",
            bool(moving) and best(moving, "smoothness"),
            gate=bool(moving),  # with nobody to compare with there is nothing to hold
        ),
        Verdict(
            "moves as asked more often than the others",
            against(others, "direction"),
            best(others, "direction"),
            gate=False,
        ),
    ]
