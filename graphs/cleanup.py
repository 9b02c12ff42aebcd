"""What is left when all rules have run: nodes that only carried settings, and the ways that led to them."""

from __future__ import annotations

from .check import widget_names
from .job import Job
from .nodes import ALWAYS
from .rules import OLD_NODES
from .world import GETTERS, SETTERS, Level

RENAMED: dict[str, str] = {
    "MOTION_MODEL_ADE": "MOTION_MODULE",
    "MOTION_LORA_STACK": "MOTION_LORA",
    "AD_SETTINGS": "MOTION_SETTINGS",
    "MOTION_MODEL_SETTINGS": "MOTION_SETTINGS",
    "AD_KEYFRAMES": "MOTION_KEYFRAMES",
    "MULTIVAL": "MOTION_VALUE",
}
"""Types of links there -> ours."""
CARRIED = {*RENAMED, "CONTEXT_OPTIONS", "SAMPLE_SETTINGS", "M_MODELS", "VIEW_OPTS", "PE_ADJUST"}
CARRIED |= {"WEIGHT_ADJUST", "CUSTOM_CFG", "SIGMA_SCHEDULE", "ITERATION_OPTS", "SLIDING_WINDOW_OPTS"}
"""Types of links that end with the conversion."""


def take_out_carriers(job: Job) -> None:
    """Nodes whose values stand elsewhere now, and those that nothing asked for."""
    for level in job.world.levels:
        for node in level.ids():
            kind = level.type(node)
            if kind not in OLD_NODES:
                continue
            if not job.is_done(level, node):
                _report_unused(job, level, node)
            level.remove(node)


def take_out_used(job: Job) -> None:
    """Nodes that were read for a control, where nothing else has a link to them."""
    for level, node in job.used:
        if node in level.nodes and not level.consumers((node, 0)):
            level.remove(node)


def _report_unused(job: Job, level: Level, node: str) -> None:
    """A carrier that no loader has read: connected to nothing it goes without a word."""
    users = {
        near.type(other)
        for slot in range(max(1, len(level.output_kinds(node))))
        for near, other, _ in job.world.fed(level, (node, slot))
    }
    foreign = sorted(users - set(OLD_NODES))
    if foreign:
        job.say("lost", level, node, f"{', '.join(foreign)} has no use for it any more.")
    elif users or level.mode(node) != ALWAYS:
        job.say("changed", level, node, "Was not in use (muted, or behind a node that is); taken out.")


def take_out_ways(job: Job, before: set[tuple[int, str]]) -> None:
    """Reroutes, Set and Get nodes that have lost what they led to, and old nodes that only fed carriers.

    ``before``: nodes that fed something when the conversion began.
    """
    again = True
    while again:
        again = False
        for level in job.world.levels:
            for node in level.ids():
                if (id(level), node) not in before or _feeds(job, level, node):
                    continue
                kind = level.type(node)
                if kind.startswith("ADE_"):
                    text = "Only fed nodes that are gone now; nothing here takes it over."
                    job.say("lost", level, node, text)
                elif not (_is_way(kind) and _carried(level, node)):
                    continue
                level.remove(node)
                again = True


def _is_way(kind: str) -> bool:
    return "reroute" in kind.lower() or kind in (*SETTERS, *GETTERS)


def _carried(level: Level, node: str) -> bool:
    kinds = set(level.output_kinds(node))
    slots = range(len(level.inputs(node)))
    kinds |= {level.input_kind(node, slot) for slot in slots} if not level.is_prompt else set()
    linked = any(source for _, source in level.inputs(node))
    return bool(kinds & CARRIED) or (not linked and kinds <= {"*", ""})


def _feeds(job: Job, level: Level, node: str) -> bool:
    if level.is_prompt:
        return any(source and source[0] == node for other in level.ids() for _, source in level.inputs(other))
    if level.type(node) in SETTERS:
        return any(level.type(near) in GETTERS for near in level.ids()) and any(
            True for _ in job.world.fed(level, (node, 0))
        )
    return any(level.consumers((node, slot)) for slot in range(len(level.output_kinds(node))))


def feeding(job: Job) -> set[tuple[int, str]]:
    """Nodes that feed something."""
    return {
        (id(level), node) for level in job.world.levels for node in level.ids() if _feeds(job, level, node)
    }


def rename_slots(job: Job) -> None:
    """Slots on the way of links whose type has another name now."""
    for level in job.world.levels:
        if level.is_prompt:
            continue
        slots = (
            [*(level.raw.get("inputs") or []), *(level.raw.get("outputs") or [])] if level.is_subgraph else []
        )
        for node in level.ids():
            kind = level.type(node)
            if _is_way(kind) or kind in job.world.subgraphs:
                slots += (level.nodes[node].get("inputs") or []) + (level.nodes[node].get("outputs") or [])
        for slot in slots:
            if isinstance(slot, dict) and slot.get("type") in RENAMED:
                slot["type"] = RENAMED[slot["type"]]


def settle_instances(job: Job) -> None:
    """Widgets that a subgraph's node shows: those of nodes that have no such widget now go."""
    for number, inner in job.world.subgraphs.items():
        for outer, node in job.world.instances(inner):
            properties = outer.nodes[node].get("properties")
            shown = properties.get("proxyWidgets") if isinstance(properties, dict) else None
            if not isinstance(shown, list):
                continue
            kept = [one for one in shown if _is_shown(inner, one)]
            if len(kept) != len(shown):
                properties["proxyWidgets"] = kept
                _drop_values(outer.nodes[node], shown, kept)
                text = f"{len(shown) - len(kept)} widgets that it showed are on other nodes inside it now."
                job.say("changed", outer, node, text, str(inner.raw.get("name", number)))


def _drop_values(node: dict, shown: list, kept: list) -> None:
    """Values of widgets that are shown no more, so that those behind them keep theirs."""
    values, named = node.get("widgets_values"), node.get("widgets_values_named")
    if isinstance(values, list) and len(values) == len(shown):
        node["widgets_values"] = [value for one, value in zip(shown, values, strict=True) if one in kept]
    if isinstance(named, dict):
        left = {str(one[1]) for one in kept if isinstance(one, list) and len(one) > 1}
        for one in shown:
            if one not in kept and str(one[1]) not in left:
                named.pop(str(one[1]), None)


def _is_shown(level: Level, entry: object) -> bool:
    if not isinstance(entry, list) or len(entry) < 2 or not isinstance(entry[0], (str, int)):
        return True
    node = str(entry[0])
    if node not in level.nodes:
        return node.startswith("-")
    kind = level.type(node)
    return not kind.startswith("Flipbook") or entry[1] in widget_names(kind)


def report_left(job: Job) -> None:
    """Nodes of those packs that stay."""
    for level in job.world.levels:
        for node in level.ids():
            kind = level.type(node)
            if kind.startswith("ADE_"):
                job.say(
                    "left", level, node, "Has no counterpart here: it stays and needs AnimateDiff-Evolved."
                )
            elif kind == "AnimateDiff Script":
                job.say("left", level, node, "Belongs to Efficiency nodes and asks for AnimateDiff-Evolved.")
