"""Nodes of packs that still work: converted only where that is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from .job import Job, Value
from .offered_controlnet import convert_apply, convert_loader, neutral_in_use
from .old import read_widgets
from .rules.advanced_controlnet import APPLIES, APPLIES_ONE, LOADERS
from .rules.fizznodes import BATCH, SCHEDULE
from .world import Level

OFFERED: dict[str, tuple[str, ...]] = {
    "fizznodes": (BATCH,),
    "advanced-controlnet": (*APPLIES, *APPLIES_ONE, *LOADERS),
}
"""Name of an offer -> types of the nodes."""
PACKS = {"fizznodes": "FizzNodes", "advanced-controlnet": "Advanced-ControlNet"}
"""Name of an offer -> how its pack calls itself."""
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


def offers_in(kinds: Iterable[str]) -> dict[str, int]:
    """Offers that apply to nodes of these types -> how many of the nodes."""
    numbers = Counter(kinds)
    found = {name: sum(numbers[kind] for kind in types) for name, types in OFFERED.items()}
    return {name: number for name, number in found.items() if number}


def convert_offered(job: Job, also: Collection[str]) -> None:
    """Convert the nodes of these offers; apply nodes before the loaders that they look at."""
    wanted = offered_types(also)
    weights = [(level, node) for level in job.world.levels for node in neutral_in_use(level)]
    for rule, kinds in (
        (_schedule, {BATCH}),
        (convert_apply, {*APPLIES, *APPLIES_ONE}),
        (convert_loader, set(LOADERS)),
    ):
        for level in job.world.levels:
            for node in level.ids():
                if level.type(node) in kinds & wanted:
                    rule(job, level, node)
    for level, node in weights:
        if node not in neutral_in_use(level):
            job.say("mapped", level, node, "Taken out: without extras it changed nothing.")
            level.remove(node)


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
