"""Whether a converted graph is whole: looked at once more before it is handed out."""

from __future__ import annotations

from .nodes import as_number
from .rules import OLD_NODES
from .targets import TARGETS, Input
from .workflow import ENTRY, EXIT, Workflow
from .world import Level


def faults(levels: list[Level]) -> list[str]:
    """What is wrong, in sentences; empty for a graph in order."""
    found: list[str] = []
    for level in levels:
        for node in level.ids():
            if level.type(node) in OLD_NODES:
                found.append(f"Node {node} is still a {level.type(node)}.")
            found += _bad_values(level, node)
        found += _bad_links(level)
    return found


def _bad_links(level: Level) -> list[str]:
    if level.is_prompt:
        return [
            f"Input {name} of node {node} leads to {source[0]}, which does not exist."
            for node in level.ids()
            for name, source in level.inputs(node)
            if source and source[0] not in level.nodes
        ]
    found = []
    for link in level.links.values():
        outputs = _slots(level, link.origin, "outputs", ENTRY, "inputs")
        inputs = _slots(level, link.target, "inputs", EXIT, "outputs")
        if not 0 <= link.origin_slot < len(outputs) or not 0 <= link.target_slot < len(inputs):
            found.append(f"Link {link.id} leads to a slot that does not exist.")
            continue
        if link.origin in level.nodes and link.id not in (outputs[link.origin_slot].get("links") or []):
            found.append(f"Link {link.id} is not known where it starts.")
        if link.target in level.nodes and inputs[link.target_slot].get("link") != link.id:
            found.append(f"Link {link.id} is not known where it ends.")
    for node in level.ids():
        for slot in level.nodes[node].get("inputs") or []:
            if slot.get("link") is not None and slot["link"] not in level.links:
                found.append(f"Node {node} names the link {slot['link']}, which does not exist.")
        for slot in level.nodes[node].get("outputs") or []:
            found += [
                f"Node {node} names the link {number}, which does not exist."
                for number in slot.get("links") or []
                if number not in level.links
            ]
    return found


def _slots(level: Workflow, node: str, own: str, edge: str, edges: str) -> list[dict]:
    if node == edge and level.is_subgraph:
        return level.raw.get(edges) or []
    return level.nodes.get(node, {}).get(own) or []


def _bad_values(level: Level, node: str) -> list[str]:
    kind = level.type(node)
    if not kind.startswith("Flipbook") or kind not in TARGETS:
        return []
    values = level.widgets(node)
    if not isinstance(values, dict):
        values = dict(zip(widget_names(kind), values or [], strict=False))
    return [
        f"{one.name} of node {node} ({kind}) is {values[one.name]!r}."
        for one in TARGETS[kind].inputs
        if one.widget and one.name in values and not _is_fitting(one, values[one.name])
    ]


def widget_names(kind: str) -> list[str]:
    """Widgets of a node in the order of ``widgets_values``."""
    names = []
    for one in TARGETS[kind].inputs:
        if one.widget:
            names += [one.name, "control_after_generate"] if one.seed else [one.name]
    return names


def _is_fitting(one: Input, value: object) -> bool:
    if one.kind in ("INT", "FLOAT"):
        number = as_number(value, whole_number=one.kind == "INT")
        return number is not None and one.low <= number <= one.high
    if one.kind == "BOOLEAN":
        return isinstance(value, bool)
    if one.options is not None:
        return value in one.options
    return isinstance(value, str)
