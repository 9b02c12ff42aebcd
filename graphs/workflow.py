"""One level of a workflow: the root, or one subgraph. Looks at it, and surgery on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .level_file import ENTRY, EXIT, Counter, LevelFile, Link, Source
from .nodes import ALWAYS, serialised, widget_values
from .targets import TARGETS

WIDTH, NARROWEST = 315, 240


class Workflow(LevelFile):
    """A level of a workflow; ``raw`` is changed in place, by :meth:`write`."""

    is_prompt = False

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
        new["size"][0] = max(_width(old), NARROWEST)
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
            "size": [WIDTH, height(inputs, outputs, widgets)],
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


def height(inputs: list[dict], outputs: list[dict], widgets: list) -> int:
    """Of a node below its title, as the page draws it: a row for each pair of sockets, one for each widget,
    five for a text of several lines."""
    sockets = max(sum("widget" not in slot for slot in inputs), len(outputs))
    rows = sum(5 if isinstance(value, str) and "\n" in value else 1 for value in widgets)
    return 20 * sockets + 24 * rows + 14


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


def _width(node: dict) -> float:
    size = node.get("size")
    width = size.get("0") if isinstance(size, dict) else size[0] if isinstance(size, list) and size else None
    return width if isinstance(width, (int, float)) else WIDTH


def _position(node: dict) -> tuple[float, float]:
    pos = node.get("pos")
    if isinstance(pos, dict):
        pos = [pos.get("0"), pos.get("1")]
    if isinstance(pos, list) and len(pos) >= 2 and all(isinstance(v, (int, float)) for v in pos[:2]):
        return pos[0], pos[1]
    return 0, 0


__all__ = ["ENTRY", "EXIT", "Counter", "Link", "Source", "Workflow"]
