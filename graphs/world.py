"""A whole document: its levels, and where an output comes from and goes to across all that is in between.

Reroutes, Set/Get nodes, Anything Everywhere nodes, bypassed nodes and the edges of subgraphs hand on what
they get. ComfyUI resolves them when a prompt is queued; here it is done on the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .errors import GraphError
from .nodes import ALWAYS, BYPASSED, NEVER
from .prompt import Prompt
from .report import Report
from .workflow import ENTRY, EXIT, Counter, Source, Workflow

Level = Workflow | Prompt
SETTERS = ("SetNode", "easy setNode")
GETTERS = ("GetNode", "easy getNode")
EVERYWHERE = "Everywhere"
"""Part of the type of nodes that feed all unlinked inputs of a type."""
CONSTANTS: dict[str, int] = {
    "PrimitiveNode": 0,
    "PrimitiveInt": 0,
    "PrimitiveFloat": 0,
    "Int Literal": 0,
    "INTConstant": 0,
    "FloatConstant": 0,
    "Float Literal": 0,
    "Int": 0,
    "Float": 0,
    "easy int": 0,
    "easy float": 0,
    "CR Integer": 0,
    "Integer": 0,
    "JWInteger": 0,
    "JWFloat": 0,
    "Int-🔬": 0,
    "ImpactInt": 0,
    "ImpactFloat": 0,
    "Constant Number": 1,
}
"""Nodes that hold one number -> the place of the widget it is in."""


class Place(NamedTuple):
    """An output of a node, on its level."""

    level: Level
    source: Source


class World:
    """All levels of a document."""

    def __init__(self, levels: list[Level], report: Report) -> None:
        self.levels, self.report = levels, report
        self.subgraphs = {
            str(level.raw.get("id")): level for level in levels if level.is_subgraph and level.raw.get("id")
        }
        self._spreaders = {
            id(level): [node for node in level.ids() if EVERYWHERE in level.type(node)] for level in levels
        }

    def label(self, level: Level, node: str) -> str:
        """A node's id for the report."""
        return f"{level.name}:{node}" if level.name else node

    def instances(self, level: Level) -> list[tuple[Level, str]]:
        """The nodes that stand for a subgraph."""
        number = str(level.raw.get("id"))
        return [
            (outer, node)
            for outer in self.levels
            if not outer.is_prompt
            for node in outer.ids()
            if outer.type(node) == number
        ]

    # upstream

    def origin(self, level: Level, source: Source | None) -> Place | None:
        """The node that makes what arrives; None if nothing arrives."""
        seen = set()
        while source is not None:
            if (id(level), source) in seen:
                raise GraphError(f"The links around node {self.label(level, source[0])} run in a circle.")
            seen.add((id(level), source))
            node, slot = source
            if node == ENTRY and level.is_subgraph:
                level, source = self._outside(level, slot)
                continue
            if level.mode(node) == NEVER:
                return None
            step = self._passed(level, node, slot)
            if step is False:
                return Place(level, source)
            level, source = step
        return None

    def _passed(self, level: Level, node: str, slot: int) -> tuple[Level, Source | None] | bool:
        """One step upstream through a node that hands on; False for one that makes something."""
        kind = level.type(node)
        if level.is_prompt:
            return (level, _first_linked(level, node)) if _is_reroute(level, node) else False
        if kind in self.subgraphs:
            if level.mode(node) == BYPASSED:
                return level, bypassed_source(level, node, slot)
            inner = self.subgraphs[kind]
            ends = [link for link in inner.links.values() if (link.target, link.target_slot) == (EXIT, slot)]
            return inner, (ends[0].origin, ends[0].origin_slot) if ends else None
        if level.mode(node) == BYPASSED:
            return level, bypassed_source(level, node, slot)
        if kind in GETTERS:
            setter = self._partner(level, node, SETTERS)
            return level, _first_linked(level, setter) if setter else None
        if kind in SETTERS or _is_reroute(level, node):
            return level, _first_linked(level, node)
        return False

    def _outside(self, level: Workflow, slot: int) -> tuple[Level, Source | None]:
        """What the (only) node of a subgraph gets at an input."""
        name = _io_name(level, "inputs", slot)
        for outer, node in self.instances(level)[:1]:
            source = outer.source(node, name) if name else None
            if source is None:
                slots = outer.inputs(node)
                source = slots[slot][1] if slot < len(slots) and slots[slot][0] == name else None
            return outer, source
        return level, None

    def _partner(self, level: Workflow, node: str, kinds: tuple[str, ...]) -> str | None:
        name = _first_value(level, node)
        return next(
            (
                other
                for other in level.ids()
                if level.type(other) in kinds and _first_value(level, other) == name
            ),
            None,
        )

    def source(self, level: Level, node: str, *names: str, kind: str = "") -> Source | None:
        """What an input gets, from a link or else from an Anything Everywhere node on its level."""
        source = level.source(node, *names)
        if source is None and kind and not level.is_prompt:
            for other in self._spreaders.get(id(level), ()):
                if other in level.nodes and level.mode(other) == ALWAYS:
                    for _, given in level.inputs(other):
                        if given and kind_at(level, given) == kind:
                            return given
        return source

    def constant(self, level: Level, source: Source | None) -> object:
        """The number at the other end of a link, if it stands in the file."""
        found = self.origin(level, source)
        if found is None:
            return None
        level, (node, _) = found
        place = CONSTANTS.get(level.type(node))
        if place is None:
            return None
        values = level.widgets(node)
        if isinstance(values, dict):
            values = list(values.values())
        return values[place] if isinstance(values, list) and len(values) > place else None

    # downstream

    def fed(self, level: Level, source: Source) -> Iterator[tuple[Level, str, str | int]]:
        """Nodes, with the place of their input, that in the end get an output."""
        todo, seen = [(level, source)], set()
        while todo:
            level, source = todo.pop()
            if (id(level), source) in seen:
                continue
            seen.add((id(level), source))
            for node, place in level.consumers(source):
                if node == EXIT and level.is_subgraph:
                    todo += [(outer, (number, place)) for outer, number in self.instances(level)]
                    continue
                onward = self._handed_on(level, node, place)
                if onward is None:
                    yield level, node, place
                else:
                    todo += onward

    def _handed_on(self, level: Level, node: str, place: str | int) -> list[tuple[Level, Source]] | None:
        kind = level.type(node)
        if level.is_prompt:
            return [(level, (node, 0))] if _is_reroute(level, node) else None
        if level.mode(node) == NEVER and not _is_reroute(level, node):
            return None
        if kind in self.subgraphs and level.mode(node) != BYPASSED:
            inner = self.subgraphs[kind]
            name = level.input_name(node, place)
            slots = [
                slot
                for slot in range(len(inner.raw.get("inputs") or []))
                if _io_name(inner, "inputs", slot) == name
            ]
            return [(inner, (ENTRY, slot)) for slot in slots]
        if kind in SETTERS:
            name = _first_value(level, node)
            return [(level, (node, 0))] + [
                (level, (other, 0))
                for other in level.ids()
                if level.type(other) in GETTERS and _first_value(level, other) == name
            ]
        if EVERYWHERE in kind:
            return None
        if _is_reroute(level, node) or kind in GETTERS:
            return [(level, (node, 0))]
        if level.mode(node) == BYPASSED:
            return [
                (level, (node, slot))
                for slot in range(len(level.output_kinds(node)))
                if (source := bypassed_place(level, node, slot)) is not None and source == place
            ]
        return None


def bypassed_place(level: Workflow, node: str, slot: int) -> int | None:
    """Place of the input that a bypassed node hands on to an output."""
    kinds = level.output_kinds(node)
    if slot >= len(kinds):
        return None
    places = range(len(level.inputs(node)))
    same = [place for place in places if level.input_kind(node, place) == kinds[slot]]
    linked = [place for place in same if level.inputs(node)[place][1]]
    if slot in linked:
        return slot
    return linked[0] if linked else None


def bypassed_source(level: Workflow, node: str, slot: int) -> Source | None:
    """What a bypassed node hands on to an output."""
    place = bypassed_place(level, node, slot)
    return None if place is None else level.inputs(node)[place][1]


def _is_reroute(level: Level, node: str) -> bool:
    return "reroute" in level.type(node).lower()


def _first_linked(level: Level, node: str) -> Source | None:
    return next((source for _, source in level.inputs(node) if source), None)


def _first_value(level: Level, node: str) -> object:
    values = level.widgets(node)
    if isinstance(values, dict):
        values = list(values.values())
    return values[0] if isinstance(values, list) and values else None


def kind_at(level: Level, source: Source) -> str:
    """Type of an output, or of a subgraph's input seen from inside."""
    if source[0] == ENTRY:
        return str(((level.raw.get("inputs") or [])[source[1]]).get("type"))
    kinds = level.output_kinds(source[0])
    return kinds[source[1]] if source[1] < len(kinds) else ""


def _io_name(level: Workflow, ends: str, slot: int) -> str:
    slots = level.raw.get(ends) or []
    return str(slots[slot].get("name")) if slot < len(slots) and isinstance(slots[slot], dict) else ""


__all__ = ["Counter", "Level", "Place", "World"]
