"""Nodes of packs that still work: converted only where that is asked for."""

from __future__ import annotations

from collections.abc import Collection

from .job import Job, Value
from .old import read_widgets
from .rules.fizznodes import BATCH, SCHEDULE
from .world import Level

OFFERED: dict[str, tuple[str, ...]] = {"fizznodes": (BATCH,)}
"""Name of an offer -> types of the nodes."""
SPECIAL = ("--neg", "`", "pw_a", "pw_b", "pw_c", "pw_d", "max_f")
"""What a schedule of FizzNodes may hold and ours does not know: a negative part, expressions."""


def offered_types(also: Collection[str]) -> set[str]:
    """Types that these offers convert.

    Raises:
        ValueError: there is no such offer.
    """
    for name in also:
        if name not in OFFERED:
            raise ValueError(f"There is no offer {name!r}; there is {', '.join(OFFERED)}.")
    return {kind for name in also for kind in OFFERED[name]}


def convert_offered(job: Job, also: Collection[str]) -> None:
    """Convert the nodes of these offers."""
    kinds = offered_types(also)
    for level in job.world.levels:
        for node in level.ids():
            if level.type(node) in kinds:
                _schedule(job, level, node)


def _schedule(job: Job, level: Level, node: str) -> None:
    kind, complain = level.type(node), job.complain(level, node)
    plain = read_widgets(SCHEDULE, level.named_widgets(node) or level.widgets(node), complain)
    values = {name: Value(value, level.source(node, name)) for name, value in plain.items()}
    words = [str(plain[name]) for name in ("text", "pre_text", "app_text")]
    found = [sign for sign in SPECIAL if any(sign in word for word in words)]
    if found:
        text = f"Stays a FizzNodes schedule: {found[0]} in its text is not known to Prompt Schedule."
        job.say("left", level, node, text)
        return
    if level.consumers((node, 1)):
        job.say("left", level, node, "Stays a FizzNodes schedule: its negative output is in use.")
        return
    links = {
        "clip": level.source(node, "clip"),
        "prompts": values["text"].link,
        "frames": values["max_frames"].link,
        "prepend": values["pre_text"].link,
        "append": values["app_text"].link,
    }
    constants = {
        "prompts": plain["text"],
        "frames": plain["max_frames"],
        "prepend": plain["pre_text"].strip().rstrip(",").rstrip(),
        "append": plain["app_text"].strip().lstrip(",").lstrip(),
    }
    level.become(node, "FlipbookPromptSchedule", constants, links, complain)
    text = "Became Prompt Schedule; pre_text and app_text are joined by a comma."
    if links["prompts"] or links["prepend"] or links["append"]:
        text += " Its text is linked: expressions and --neg in it are not known here."
    job.say("changed", level, node, text, kind)
