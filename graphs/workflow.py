"""One level of a workflow file: the root, or one subgraph. Nodes, slots and links with surgery."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .errors import GraphError
from .nodes import ALWAYS, serialised, widget_values
from .targets import TARGETS

Source = tuple[str, int]
"""A node's id, as text, and the place of its output."""

ENTRY, EXIT = "-10", "-20"
"""Ids under which a subgraph's own inputs and outputs stand in its links."""
ROW, WIDTH = 26, 315


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


class Workflow:
    """A level of a workflow; ``raw`` is changed in place, by :meth:`write`."""

    is_prompt = False

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
            if isinstance(number, bool) or not isinstance(number, (int, str)):
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
            kept = [number for number in before if number in wanted]
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

    # looking

    def ids(self) -> list[str]:
        """All nodes, in the order of the file."""
        return list(self.nodes)

    def type(self, node: str) -> str:
        """Type of a node."""
        return self.nodes[node]["type"]

    def mode(self, node: str) -> int:
        """0 in use, 2 muted, 4 bypassed."""
        mode = self.nodes[node].get("mode", ALWAYS)
        return mode if mode in (2, 4) else ALWAYS

    def widgets(self, node: str) -> object:
        """``widgets_values`` as they are."""
        return self.nodes[node].get("widgets_values")

    def named_widgets(self, node: str) -> dict | None:
        """The values by name, where the frontend was new enough to write them."""
        named = self.nodes[node].get("widgets_values_named")
        return named if isinstance(named, dict) and named else None

    def inputs(self, node: str) -> list[tuple[str, Source | None]]:
        """Name and source of every input slot."""
        result = []
        for slot in self.nodes[node].get("inputs") or []:
            link = self.links.get(slot.get("link")) if slot.get("link") is not None else None
            name = slot.get("name")
            result.append(
                (name if isinstance(name, str) else "", (link.origin, link.origin_slot) if link else None)
            )
        return result

    def place_of(self, node: str, *names: str) -> int | None:
        """Place of the input with one of these names; of several the linked one."""
        slots = self.inputs(node)
        places = [place for place, (name, _) in enumerate(slots) if name in names]
        return next((place for place in places if slots[place][1]), places[0] if places else None)

    def source(self, node: str, *names: str) -> Source | None:
        """What is linked to the input with one of these names."""
        place = self.place_of(node, *names)
        return None if place is None else self.inputs(node)[place][1]

    def consumers(self, source: Source) -> list[tuple[str, int]]:
        """Nodes, and places of their inputs, that an output feeds."""
        links = [self.links[number] for number in self._leaving.get(source[0], ())]
        return sorted((link.target, link.target_slot) for link in links if link.origin_slot == source[1])

    def input_name(self, node: str, place: int) -> str:
        """Name of an input slot."""
        slots = self.inputs(node)
        return slots[place][0] if place < len(slots) else ""

    def input_kind(self, node: str, place: int) -> str:
        """Type of an input slot."""
        return str((self.nodes[node].get("inputs") or [])[place].get("type"))

    def output_kinds(self, node: str) -> list[str]:
        """Types of the outputs."""
        return [str(slot.get("type")) for slot in self.nodes[node].get("outputs") or []]

    def input_names(self, node: str) -> list[tuple[str, str]]:
        """Name and label of every input slot."""
        return _names(self.nodes[node].get("inputs"))

    def output_names(self, node: str) -> list[tuple[str, str]]:
        """Name and label of every output."""
        return _names(self.nodes[node].get("outputs"))

    @staticmethod
    def position(node: dict) -> tuple[float, float]:
        """Where a node stands."""
        return _position(node)

    # surgery

    def adopt(self, node: dict) -> str:
        """Take in a node of the file's form, with slots that are linked to nothing; its new id."""
        number = self.counter.next_node()
        self.nodes[str(number)] = {**node, "id": number}
        return str(number)

    def add_slot(self, node: str, name: str, kind: str, *, widget: bool) -> int:
        """A further input slot; its place."""
        slots = self.nodes[node].setdefault("inputs", [])
        slots.append({"name": name, "type": kind, "link": None})
        if widget:
            slots[-1]["widget"] = {"name": name}
        return len(slots) - 1

    def connect(self, source: Source, node: str, name: str, kind: str = "*") -> None:
        """Link an output to an input of that name, which is made if it is missing."""
        place = self.place_of(node, name)
        slots = self.nodes[node].setdefault("inputs", [])
        if place is None:
            slots.append(_slot(self.type(node), name, kind))
            place = len(slots) - 1
        self.connect_place(source, node, place, kind)

    def connect_place(self, source: Source, node: str, place: int, kind: str = "*") -> None:
        """Link an output to an input slot that is there."""
        slots = self.nodes[node]["inputs"]
        self.disconnect(node, place)
        number = self.counter.next_link()
        self.links[number] = Link(number, source[0], source[1], node, place, self._kind_of(source, kind))
        self._leaving[source[0]].add(number)
        slots[place]["link"] = number
        self._touch(source[0])

    def add_output(self, node: str, name: str, kind: str) -> int:
        """A further output; its place."""
        slots = self.nodes[node].setdefault("outputs", [])
        slots.append({"name": name, "type": kind, "links": None})
        return len(slots) - 1

    def link_exit(self, source: Source, place: int, kind: str) -> None:
        """Link an output to an output of the subgraph itself."""
        number = self.counter.next_link()
        self.links[number] = Link(number, source[0], source[1], EXIT, place, kind)
        self._leaving[source[0]].add(number)
        self._touch(source[0])

    def disconnect(self, node: str, place: int) -> None:
        """Take the link off an input."""
        slot = (self.nodes[node].get("inputs") or [])[place]
        link = self.links.pop(slot.get("link"), None) if slot.get("link") is not None else None
        slot["link"] = None
        if link is not None:
            self._leaving[link.origin].discard(link.id)
            self._touch(link.origin)

    def redirect(self, old: Source, new: Source, but: Iterable[str] = ()) -> None:
        """Let everything that an output feeds be fed by another one; links keep their ids."""
        skip = set(but)
        for number in sorted(self._leaving.get(old[0], ()), key=str):
            link = self.links[number]
            if link.origin_slot != old[1] or link.target in skip:
                continue
            self._leaving[old[0]].discard(number)
            link.origin, link.origin_slot, link.raw = new[0], new[1], None
            self._leaving[new[0]].add(number)
        self._touch(old[0])
        self._touch(new[0])

    def drop_consumers(self, source: Source) -> None:
        """Take all links off an output."""
        for number in list(self._leaving.get(source[0], ())):
            link = self.links[number]
            if link.origin_slot != source[1]:
                continue
            if link.target in self.nodes:
                self.disconnect(link.target, link.target_slot)
            else:
                del self.links[number]
                self._leaving[source[0]].discard(number)
        self._touch(source[0])

    def remove(self, node: str) -> None:
        """Take a node out, with its links."""
        for place in range(len(self.nodes[node].get("inputs") or [])):
            self.disconnect(node, place)
        for place in range(len(self.nodes[node].get("outputs") or [])):
            self.drop_consumers((node, place))
        del self.nodes[node]

    def add(
        self,
        kind: str,
        values: dict,
        links: dict[str, Source | None],
        near: str,
        complain: Callable[[str], None],
        *,
        mode: int = ALWAYS,
        shift: tuple[int, int] = (0, 0),
        control: str = "fixed",
    ) -> str:
        """Put a new node near another one; its id."""
        number = self.counter.next_node()
        node = self._make(kind, values, links, complain, control)
        x, y = _position(self.nodes[near])
        order = max((n["order"] for n in self.nodes.values() if isinstance(n.get("order"), int)), default=0)
        node.update(id=number, pos=[x + shift[0], y + shift[1]], mode=mode, order=order + 1)
        self.nodes[str(number)] = node
        self._link_all(str(number), links)
        return str(number)

    def become(
        self,
        node: str,
        kind: str,
        values: dict,
        links: dict[str, Source | None],
        complain: Callable[[str], None],
        *,
        outputs: dict[int, int] | None = None,
        mode: int | None = None,
        control: str = "fixed",
    ) -> None:
        """Turn a node into one of another type, in its place and under its id.

        ``outputs``: old place -> new place of the outputs that go on; the others lose their links.
        """
        old = self.nodes[node]
        outputs = {0: 0} if outputs is None else outputs
        for place in range(len(old.get("outputs") or [])):
            if place not in outputs:
                self.drop_consumers((node, place))
        for place in range(len(old.get("inputs") or [])):
            self.disconnect(node, place)
        new = self._make(kind, values, links, complain, control)
        for key in ("id", "pos", "flags", "order", "mode", "color", "bgcolor", "shape"):
            if key in old:
                new[key] = old[key]
        if mode is not None:
            new["mode"] = mode
        self.nodes[node] = new
        for number in self._leaving.get(node, ()):
            link = self.links[number]
            if outputs[link.origin_slot] != link.origin_slot:
                link.origin_slot, link.raw = outputs[link.origin_slot], None
            wanted = TARGETS[kind].outputs[link.origin_slot][1]
            if link.kind != wanted:
                link.kind, link.raw = wanted, None
        self._link_all(node, links)
        self._touch(node)

    def set_widget(self, node: str, place: int | str, value: object, name: str) -> None:
        """Change one entry of ``widgets_values``, and what newer frontends keep by name (they read that)."""
        self.nodes[node]["widgets_values"][place] = value
        named = self.nodes[node].get("widgets_values_named")
        if isinstance(named, dict) and name in named:
            named[name] = value
        else:
            self.nodes[node].pop("widgets_values_named", None)

    def retitle(self, node: str, title: str) -> None:
        """Give a node a title."""
        self.nodes[node]["title"] = title

    def _make(
        self, kind: str, values: dict, links: dict, complain: Callable[[str], None], control: str
    ) -> dict:
        target = TARGETS[kind]
        inputs = [
            _slot(kind, one.name, one.link_type)
            for one in target.inputs
            if not one.widget or links.get(one.name)
        ]
        outputs = [
            {"name": name, "type": link, "links": None, "slot_index": place}
            for place, (name, link) in enumerate(target.outputs)
        ]
        widgets = serialised(kind, widget_values(kind, values, complain), control)
        return {
            "id": 0,
            "type": kind,
            "pos": [0, 0],
            "size": [WIDTH, ROW * (2 + max(len(inputs), len(outputs)) + len(widgets))],
            "flags": {},
            "order": 0,
            "mode": ALWAYS,
            "inputs": inputs,
            "outputs": outputs,
            "properties": {"Node name for S&R": kind, "cnr_id": _pack(kind)},
            "widgets_values": widgets,
        }

    def _link_all(self, node: str, links: dict[str, Source | None]) -> None:
        for one in TARGETS[self.type(node)].inputs:
            if source := links.get(one.name):
                self.connect(source, node, one.name, one.kind)

    def _kind_of(self, source: Source, otherwise: str) -> str:
        slots = self.raw.get("inputs") if source[0] == ENTRY else self.nodes[source[0]].get("outputs")
        kind = (slots or [])[source[1]].get("type") if source[1] < len(slots or []) else None
        return kind if isinstance(kind, str) else otherwise

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
    if isinstance(number, bool) or not isinstance(number, (int, str)):
        return None
    if not all(isinstance(slot, int) for slot in (origin_slot, target_slot)):
        return None
    return Link(number, str(origin), origin_slot, str(target), target_slot, kind, entry)


def _same(one: object, other: object) -> bool:
    return one is not None and one == other


def _pack(kind: str) -> str:
    """Name of a node's pack in the registry."""
    if kind.startswith("Flipbook"):
        return "animatediff-flipbook"
    return "comfyui-videohelpersuite" if kind.startswith("VHS_") else "comfy-core"


def _slot(kind: str, name: str, link: str) -> dict:
    slot = {"name": name, "type": link, "link": None}
    known = TARGETS.get(kind)
    if known is None or any(one.name == name and one.widget for one in known.inputs):
        slot["widget"] = {"name": name}
    return slot


def _names(slots: object) -> list[tuple[str, str]]:
    result = []
    for slot in slots or []:
        name = str(slot.get("name"))
        result.append((name, slot["label"] if isinstance(slot.get("label"), str) else name))
    return result


def _position(node: dict) -> tuple[float, float]:
    pos = node.get("pos")
    if isinstance(pos, dict):
        pos = [pos.get("0"), pos.get("1")]
    if isinstance(pos, list) and len(pos) >= 2 and all(isinstance(v, (int, float)) for v in pos[:2]):
        return pos[0], pos[1]
    return 0, 0
