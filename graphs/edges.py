"""Links across the edges of subgraphs: an output of one level, made to arrive on another."""

from __future__ import annotations

import uuid

from .workflow import ENTRY, EXIT, Source
from .world import Level, World, kind_at

SPACE = uuid.UUID("8a4ef3f4-6a0b-4f53-9a5c-0d2f7c2b7e11")
"""For the ids of new sockets."""


def carry(world: World, level: Level, source: Source, goal: Level) -> Source | None:
    """The same output on another level; sockets are added to the subgraphs in between where needed.

    None where there is no single way: a subgraph that is used several times, or not at all.
    """
    if level is goal:
        return source
    ups, downs = _way_up(world, level), _way_up(world, goal)
    shared = next((one for one, _ in ups if any(one is other for other, _ in downs)), None)
    if shared is None:
        return None
    while level is not shared:
        outer, node = world.instances(level)[0]
        source, level = _leave(world, level, source, outer, node), outer
    for inner, _ in reversed(downs[: next(n for n, (one, _) in enumerate(downs) if one is shared)]):
        outer, node = world.instances(inner)[0]
        source = _enter(outer, source, inner, node)
    return source


def _way_up(world: World, level: Level) -> list[tuple[Level, str]]:
    """The level and those around it, as far as each stands in one place only."""
    way = [(level, "")]
    while way[-1][0].is_subgraph and len(found := world.instances(way[-1][0])) == 1:
        if any(found[0][0] is one for one, _ in way):
            break
        way.append(found[0])
    return way


def _leave(world: World, level: Level, source: Source, outer: Level, node: str) -> Source:
    for link in level.links.values():
        known = link.target_slot < len(outer.output_kinds(node))
        if known and (link.origin, link.origin_slot, link.target) == (*source, EXIT):
            return node, link.target_slot
    slots = level.raw.setdefault("outputs", [])
    slot = _new(level, slots, "out", source, kind_at(level, source))
    level.link_exit(source, len(slots) - 1, slot["type"])
    return node, outer.add_output(node, slot["name"], slot["type"])


def _enter(outer: Level, source: Source, inner: Level, node: str) -> Source:
    slots = inner.raw.setdefault("inputs", [])
    for name, given in outer.inputs(node):
        known = [number for number, slot in enumerate(slots) if slot.get("name") == name]
        if given == source and known:
            return ENTRY, known[0]
    slot = _new(inner, slots, "in", source, kind_at(outer, source))
    place = outer.add_slot(node, slot["name"], slot["type"], widget=False)
    outer.connect_place(source, node, place, slot["type"])
    return ENTRY, len(slots) - 1


def _new(level: Level, slots: list[dict], end: str, source: Source, kind: str) -> dict:
    names = {str(slot.get("name")) for ends in ("inputs", "outputs") for slot in level.raw.get(ends) or []}
    plain = kind.lower() if kind and kind != "*" else "value"
    name = next(one for one in (plain, *(f"{plain}_{n}" for n in range(2, 9999))) if one not in names)
    number = str(uuid.uuid5(SPACE, f"{level.raw.get('id')} {end} {name}"))
    slots.append({"id": number, "name": name, "type": kind or "*", "linkIds": []})
    return slots[-1]
