"""Widget values of a group node: one list for all nodes inside, told apart by their lengths and kinds."""

from __future__ import annotations

import copy

SILENT = ("PrimitiveNode", "Reroute", "Note", "MarkdownNote")
"""Nodes that may show none of their widgets."""


def distribute(nodes: list[dict], values: object, names: list[list[str]]) -> tuple[list, bool]:
    """``widgets_values`` for each node inside.

    Args:
        nodes: the definition's nodes, with the values that they had when the group was made.
        values: ``widgets_values`` of the group node.
        names: of each node's widgets, as far as they are known.

    Returns:
        The values, and whether those of the group node could be told apart. Where they could not, the
        definition's values are returned.
    """
    own = [copy.deepcopy(node.get("widgets_values")) for node in nodes]
    if values is None or (values == [] and not any(own)):
        return own, True
    if not isinstance(values, list):
        return own, False
    chosen = _cheapest([_ways(*one) for one in zip(nodes, own, names, strict=True)], own, values)
    if chosen is None:
        return own, False
    start = 0
    for number, keys in enumerate(chosen):
        for key in keys:
            own[number][key] = values[start]
            start += 1
    return own, True


def _ways(node: dict, own: object, names: list[str]) -> list[list]:
    """Which of a node's widgets the group node may show: keys of its values."""
    if isinstance(own, dict):
        shown = [key for key in own if key not in ("videopreview", "choose file to upload")]
        return [shown]
    if not isinstance(own, list):
        return [[]]
    every = list(range(len(own)))
    end = len(own)
    while end and own[end - 1] in ("", None):
        end -= 1  # DOM widgets have no values
    slots = {slot["widget"].get("name") for slot in node.get("inputs") or [] if _is_dict(slot.get("widget"))}
    hidden = {place for place, name in enumerate(names) if name in slots}
    controls = {place + 1 for place in hidden if names[place] in ("seed", "noise_seed")}
    ways: list[list] = []
    for way in (
        every,
        every[:end],
        [place for place in every if place not in hidden],
        [place for place in every[:end] if place not in hidden],
        [place for place in every[:end] if place not in hidden | controls],
        [] if node.get("type") in SILENT else every,
    ):
        if way not in ways:
            ways.append(way)
    return ways


def _cheapest(ways: list[list[list]], own: list, values: list) -> list[list] | None:
    """One way for each node, together as long as the values, with the least differences in kind."""
    best: dict[int, tuple[int, list[list]]] = {0: (0, [])}
    for number, options in enumerate(ways):
        held = own[number]
        grown: dict[int, tuple[int, list[list]]] = {}
        for start, (cost, chosen) in best.items():
            for keys in options:
                end = start + len(keys)
                if end > len(values):
                    continue
                pairs = zip(keys, values[start:end], strict=True)
                new = cost + sum(_sort(held[key]) != _sort(value) for key, value in pairs)
                if end not in grown or new < grown[end][0]:
                    grown[end] = (new, [*chosen, keys])
        best = grown
    cost, chosen = best.get(len(values), (0, None))
    return None if cost > 1 + len(values) // 10 else chosen


def _sort(value: object) -> str:
    if isinstance(value, bool):
        return "switch"
    return "number" if isinstance(value, (int, float)) else type(value).__name__


def _is_dict(value: object) -> bool:
    return isinstance(value, dict)
