"""One level of a workflow file: nodes, slots and links as they are read, put right and written."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from .errors import GraphError

Source = tuple[str, int]
"""A node's id, as text, and the place of its output."""

ENTRY, EXIT = "-10", "-20"
"""Ids under which a subgraph's own inputs and outputs stand in its links."""


@dataclass
class Link:
    """A link, in whichever form the file has it."""

    id: object
    origin: str
    origin_slot: int
    target: str
    target_slot: int
    kind: object
    raw: list | dict | None = None
    """As in the file, while nothing about it has changed."""


class Counter:
    """Fresh ids for nodes and links, one for the whole file."""

    def __init__(self) -> None:
        self.node = self.link = 0

    def next_node(self) -> int:
        """An id that no node has."""
        self.node += 1
        return self.node

    def next_link(self) -> int:
        """An id that no link has."""
        self.link += 1
        return self.link


class LevelFile:
    """A level of a workflow; ``raw`` is changed in place, by :meth:`write`."""

    def __init__(self, raw: dict, counter: Counter, name: str = "") -> None:
        self.raw, self.counter, self.name = raw, counter, name
        self.nodes: dict[str, dict] = {}
        self.links: dict[object, Link] = {}
        self._leaving: dict[str, set] = defaultdict(set)
        self.repaired = 0
        """Links of the file that led nowhere."""
        self.is_subgraph = "inputNode" in raw or "outputNode" in raw
        self._read_nodes()
        self._read_links()

    # reading

    def _read_nodes(self) -> None:
        nodes = self.raw.get("nodes")
        if not isinstance(nodes, list):
            raise GraphError("This workflow has no list of nodes.")
        for node in nodes:
            if not isinstance(node, dict) or not isinstance(node.get("type"), str):
                raise GraphError("This workflow is damaged: an entry of its nodes is no node with a type.")
            number = node.get("id")
            if isinstance(number, bool) or not isinstance(number, (int, str)) or number == "":
                raise GraphError(f"This workflow is damaged: a node has the id {number!r}.")
            if str(number) in self.nodes:
                raise GraphError(f"This workflow is damaged: two nodes have the id {number}.")
            for key in ("inputs", "outputs"):
                slots = node.get(key)
                if slots is not None and not (
                    isinstance(slots, list) and all(isinstance(slot, dict) for slot in slots)
                ):
                    raise GraphError(
                        f"This workflow is damaged: the {key} of node {number} are no list of slots."
                    )
            if isinstance(number, int):
                self.counter.node = max(self.counter.node, number)
            self.nodes[str(number)] = node

    def _read_links(self) -> None:
        entries = self.raw.get("links", [])
        if isinstance(entries, dict):
            entries = list(entries.values())
        if not isinstance(entries, list):
            raise GraphError("This workflow is damaged: its links are no list.")
        self._as_objects = any(isinstance(entry, dict) for entry in entries) or self.is_subgraph
        for entry in entries:
            link = _parse(entry)
            if link is None or link.id in self.links:
                self.repaired += 1
                continue
            if isinstance(link.id, int):
                self.counter.link = max(self.counter.link, link.id)
            self.links[link.id] = link
        for link in list(self.links.values()):
            if not self._settle(link):
                del self.links[link.id]
                self.repaired += 1
        for link in self.links.values():
            self._leaving[link.origin].add(link.id)
        self._settle_slots()
        self._listed = {
            (key, place): list(slot.get("links") or [])
            for key, node in self.nodes.items()
            for place, slot in enumerate(node.get("outputs") or [])
        }
        self._first = {link.id: (link.origin, link.origin_slot) for link in self.links.values()}

    def _settle(self, link: Link) -> bool:
        """Whether both ends exist; a place that is wrong at the far end is put right."""
        if link.origin in self.nodes:
            outputs = self.nodes[link.origin].get("outputs") or []
        elif link.origin == ENTRY and self.is_subgraph:
            outputs = self.raw.get("inputs") or []
        else:
            return False
        if not 0 <= link.origin_slot < len(outputs):
            return False
        if link.target == EXIT and self.is_subgraph:
            return 0 <= link.target_slot < len(self.raw.get("outputs") or [])
        if link.target not in self.nodes:
            return False
        inputs = self.nodes[link.target].get("inputs") or []
        if 0 <= link.target_slot < len(inputs) and _same(inputs[link.target_slot].get("link"), link.id):
            return True
        for place, slot in enumerate(inputs):
            if _same(slot.get("link"), link.id):
                link.target_slot, link.raw = place, None
                return True
        return False

    def _settle_slots(self) -> None:
        """Make the slots of nodes agree with the links."""
        for key, node in self.nodes.items():
            for place, slot in enumerate(node.get("inputs") or []):
                if slot.get("link") is None:
                    continue
                try:
                    link = self.links.get(slot["link"])
                except TypeError:
                    link = None
                if link is None or (link.target, link.target_slot) != (key, place):
                    slot["link"] = None
                    self.repaired += 1
            self._settle_outputs(key)
        if self.is_subgraph:
            for end, ends in ((ENTRY, "inputs"), (EXIT, "outputs")):
                for place, slot in enumerate(self.raw.get(ends) or []):
                    if isinstance(slot, dict):
                        self._settle_io(end, place, slot)

    def _settle_outputs(self, key: str) -> None:
        for place, slot in enumerate(self.nodes.get(key, {}).get("outputs") or []):
            now = [number for number in self._leaving.get(key, ()) if self.links[number].origin_slot == place]
            before = slot.get("links") if isinstance(slot.get("links"), list) else []
            wanted = set(now)
            kept = list(dict.fromkeys(number for number in before if number in wanted))
            kept += sorted(wanted.difference(kept), key=str)
            if kept != before:
                slot["links"] = kept or None

    def _settle_io(self, end: str, place: int, slot: dict) -> None:
        if end == ENTRY:
            now = [n for n in self._leaving.get(ENTRY, ()) if self.links[n].origin_slot == place]
        else:
            now = [
                link.id for link in self.links.values() if (link.target, link.target_slot) == (EXIT, place)
            ]
        before = slot.get("linkIds") if isinstance(slot.get("linkIds"), list) else []
        kept = [number for number in before if number in now]
        kept += sorted((number for number in now if number not in kept), key=str)
        if kept != before:
            slot["linkIds"] = kept

    def _touch(self, node: str) -> None:
        if node in self.nodes:
            self._settle_outputs(node)

    # writing

    def reuse_ids(self) -> None:
        """Give new links the ids of those that have left the same output: its node then stays as it was."""
        freed: dict[Source, list] = defaultdict(list)
        for number, source in self._first.items():
            if number not in self.links:
                freed[source].append(number)
        for link in [link for link in self.links.values() if link.id not in self._first]:
            if not (left := freed.get((link.origin, link.origin_slot))):
                continue
            del self.links[link.id]
            self._leaving[link.origin].discard(link.id)
            link.id = left.pop(0)
            self.links[link.id] = link
            self._leaving[link.origin].add(link.id)
            if link.target in self.nodes:
                self.nodes[link.target]["inputs"][link.target_slot]["link"] = link.id
            self._touch(link.origin)
        for number, (node, place) in self._first.items():
            if number in self.links and node in self.nodes:
                self._sort_outputs(node, place)

    def _sort_outputs(self, node: str, place: int) -> None:
        """Links in the order of the file."""
        slots = self.nodes[node].get("outputs") or []
        if place < len(slots) and isinstance(slots[place].get("links"), list):
            before = self._listed.get((node, place), [])
            links = slots[place]["links"]
            known = [number for number in before if number in links]
            ordered = known + [number for number in links if number not in known]
            if ordered != links:
                slots[place]["links"] = ordered

    def write(self) -> None:
        """Put nodes and links back into the document."""
        self.raw["nodes"] = list(self.nodes.values())
        self.raw["links"] = [link.raw or self._serialised(link) for link in self.links.values()]
        if self.is_subgraph:
            for end, ends in ((ENTRY, "inputs"), (EXIT, "outputs")):
                for place, slot in enumerate(self.raw.get(ends) or []):
                    self._settle_io(end, place, slot)
        self._forget_reroutes()

    def _serialised(self, link: Link) -> list | dict:
        ends = [self._number(link.origin), link.origin_slot, self._number(link.target), link.target_slot]
        if not self._as_objects:
            return [link.id, *ends, link.kind]
        names = ("origin_id", "origin_slot", "target_id", "target_slot")
        return {"id": link.id, **dict(zip(names, ends, strict=True)), "type": link.kind}

    def _number(self, node: str) -> object:
        return self.nodes[node]["id"] if node in self.nodes else int(node)

    def _forget_reroutes(self) -> None:
        """Points on links that are gone go with them."""
        for holder in (self.raw, self.raw.get("extra")):
            if not isinstance(holder, dict):
                continue
            kept = holder.get("linkExtensions")
            if isinstance(kept, list):
                holder["linkExtensions"] = [
                    one for one in kept if isinstance(one, dict) and one.get("id") in self.links
                ]
            for point in holder.get("reroutes") or []:
                if isinstance(point, dict) and isinstance(point.get("linkIds"), list):
                    point["linkIds"] = [number for number in point["linkIds"] if number in self.links]


def _parse(entry: object) -> Link | None:
    if isinstance(entry, list) and len(entry) >= 5:
        number, origin, origin_slot, target, target_slot = entry[:5]
        kind = entry[5] if len(entry) > 5 else "*"
    elif isinstance(entry, dict):
        number, origin, target = entry.get("id"), entry.get("origin_id"), entry.get("target_id")
        origin_slot, target_slot = entry.get("origin_slot"), entry.get("target_slot")
        kind = entry.get("type", "*")
    else:
        return None
    if isinstance(number, bool) or not isinstance(number, (int, str)) or number == "":
        return None
    if not all(isinstance(slot, int) for slot in (origin_slot, target_slot)):
        return None
    return Link(number, str(origin), origin_slot, str(target), target_slot, kind, entry)


def _same(one: object, other: object) -> bool:
    return one is not None and one == other
