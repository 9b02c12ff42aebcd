"""Group nodes (``extra.groupNodes``) that hold AnimateDiff nodes: unfolded into plain nodes.

A group node has no sockets of its own: its sockets and widgets are those of the nodes inside that nothing
inside feeds. They would shift with every node that is converted there, so the nodes inside are put on the
canvas first, as the frontend's *Convert to nodes* does.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field

from .check import widget_names
from .document import MAX_NODES
from .errors import GraphError
from .group_values import distribute
from .nodes import ALWAYS
from .old import fitting_order
from .report import Report
from .rules import OLD_NODES
from .rules.samplers import SAMPLERS
from .targets import TARGETS
from .workflow import Source, Workflow

PREFIXES = ("workflow/", "workflow>")
LEFT = (
    "This group node holds AnimateDiff nodes, which stay as they are. Right-click it, "
    "choose Convert to nodes (or to a subgraph), and convert the graph again."
)


@dataclass(frozen=True)
class Slot:
    """A socket of a node inside that the group node may show."""

    index: int
    """Of the node."""
    name: str
    place: int | None
    """Of the slot; None for a widget that has none yet."""
    labels: tuple[str, ...] = ()
    """Names that it may have on the group node."""


@dataclass
class Group:
    """The definition of a group node."""

    nodes: list[dict]
    links: list[tuple[int, int, int, int, object]]
    external: set[tuple[int, int]]
    config: dict = field(default_factory=dict)

    def inputs(self) -> list[Slot]:
        """Sockets and widgets that nothing inside feeds, in the order in which the group node has them."""
        fed = {(target, place) for _, _, target, place, _ in self.links}
        found = []
        for index, node in enumerate(self.nodes):
            known = set()
            for place, slot in enumerate(node.get("inputs") or []):
                known.add(slot.get("name"))
                if (index, place) not in fed:
                    found.append(self._slot(index, str(slot.get("name")), place, slot.get("label")))
            names = names_of(node)
            found += [self._slot(index, name, None) for name in names if name != "-" and name not in known]
        return [
            one for one in found if self._custom(one.index, "input", one.name).get("visible") is not False
        ]

    def outputs(self) -> list[Slot]:
        """Outputs that the group node shows."""
        linked = {(origin, place) for origin, place, _, _, _ in self.links} - self.external
        found = []
        for index, node in enumerate(self.nodes):
            for place, slot in enumerate(node.get("outputs") or []):
                custom = self._custom(index, "output", str(place))
                if custom.get("visible", (index, place) not in linked) is not False:
                    name = str(slot.get("name"))
                    labels = tuple(filter(None, (custom.get("name"), slot.get("label"), name)))
                    found.append(Slot(index, name, place, (*labels, *self._prefixed(index, name))))
        return found

    def _slot(self, index: int, name: str, place: int | None, label: object = None) -> Slot:
        custom = self._custom(index, "input", name).get("name")
        labels = tuple(one for one in (custom, label, name) if isinstance(one, str) and one)
        return Slot(index, name, place, (*labels, *self._prefixed(index, name)))

    def _prefixed(self, index: int, name: str) -> tuple[str, ...]:
        """Names of sockets that have the same name as an earlier one's."""
        node = self.nodes[index]
        titles = {str(node.get("title") or node["type"]), node["type"]}
        return tuple(f"{title} {name}" for title in titles) + tuple(
            f"{title} {number} {name}" for title in titles for number in range(1, len(self.nodes) + 1)
        )

    def _custom(self, index: int, ends: str, key: str) -> dict:
        found: object = self.config
        for step in (str(index), ends, key):
            found = found.get(step) if isinstance(found, dict) else None
        return found if isinstance(found, dict) else {}


def names_of(node: dict) -> list[str]:
    """Widgets of a node in the order of its values, as far as they are known; ``-`` for one of no name."""
    kind, values = node["type"], node.get("widgets_values")
    if kind in OLD_NODES:
        return fitting_order(OLD_NODES[kind], values if isinstance(values, list) else [])
    if kind in SAMPLERS:
        return SAMPLERS[kind].split()
    if kind in TARGETS:
        return ["-" if name == "control_after_generate" else name for name in widget_names(kind)]
    return list(values) if isinstance(values, dict) else []


def unfold_groups(levels: list[Workflow], report: Report) -> None:
    """Take the group nodes with AnimateDiff nodes apart, on every level, and forget what they were made of.

    What cannot be taken apart safely stays, and is reported as left.

    Raises:
        GraphError: a group node holds itself.
    """
    extra = levels[0].raw.get("extra")
    definitions = extra.get("groupNodes") if isinstance(extra, dict) else None
    if not isinstance(definitions, dict):
        return
    concerned = {name for name in definitions if _holds_old_nodes(definitions, name)}
    if endless := sorted(name for name in concerned if name in _inside(definitions, name, set())):
        raise GraphError(f"The group node {endless[0][:60]!r} of this workflow holds itself.")
    sizes: dict[str, int] = {}
    whole = sum(
        _size(definitions, name, sizes) for level in levels for _, name in _instances(level, concerned)
    )
    if whole > MAX_NODES:
        raise GraphError(f"The group nodes of this workflow hold more than {MAX_NODES} nodes.")
    again = True
    while again:
        again = False
        for level, node, name in [(at, *one) for at in levels for one in _instances(at, concerned)]:
            again |= _unfold(level, node, name, definitions, report)
    left = set()
    for level in levels:
        for node, name in _instances(level, concerned):
            left.add(name)
            report.add("left", f"{level.name}:{node}" if level.name else node, level.type(node), LEFT)
    kept = set(left)
    for name in left:
        kept |= _inside(definitions, name, set())
    for name in concerned - kept:
        del definitions[name]
    if not definitions:
        del extra["groupNodes"]


def _name(kind: object) -> str | None:
    if isinstance(kind, str) and kind.startswith(PREFIXES):
        return kind[len(PREFIXES[0]) :]
    return None


def _instances(level: Workflow, names: set[str]) -> Iterator[tuple[str, str]]:
    for node in level.ids():
        if (name := _name(level.type(node))) in names:
            yield node, name


def _kinds(definition: object) -> list[str]:
    nodes = definition.get("nodes") if isinstance(definition, dict) else None
    return [
        one["type"]
        for one in (nodes if isinstance(nodes, list) else [])
        if isinstance(one, dict) and isinstance(one.get("type"), str)
    ]


def _inside(definitions: dict, name: str, seen: set[str]) -> set[str]:
    """Names of the group nodes in a definition, at any depth."""
    for kind in _kinds(definitions.get(name)):
        inner = _name(kind)
        if inner in definitions and inner not in seen:
            seen.add(inner)
            _inside(definitions, inner, seen)
    return seen


def _size(definitions: dict, name: str, known: dict[str, int]) -> int:
    """Number of nodes in a group, those of the groups inside included."""
    if name not in known:
        inner = [_name(kind) for kind in _kinds(definitions[name])]
        known[name] = sum(_size(definitions, one, known) if one in definitions else 1 for one in inner)
    return known[name]


def _holds_old_nodes(definitions: dict, name: str) -> bool:
    return any(
        kind in OLD_NODES or kind.startswith("ADE_")
        for one in {name} | _inside(definitions, name, set())
        for kind in _kinds(definitions.get(one))
    )


def _read(raw: object) -> Group | None:
    """A definition; None if it is not whole."""
    if not isinstance(raw, dict) or not isinstance(raw.get("nodes"), list) or not raw["nodes"]:
        return None
    for node in raw["nodes"]:
        if not isinstance(node, dict) or not isinstance(node.get("type"), str):
            return None
        if "inputs" not in node and "outputs" not in node:
            return None
        for key in ("inputs", "outputs"):
            slots = node.get(key) or []
            if not isinstance(slots, list) or not all(isinstance(slot, dict) for slot in slots):
                return None
    links = []
    for entry in raw.get("links") or []:
        if not isinstance(entry, list) or len(entry) < 4:
            return None
        ends = entry[:4]
        if ends[0] is None:
            continue  # from outside, when the group was made
        if not all(isinstance(one, int) and not isinstance(one, bool) for one in ends):
            return None
        if not _ends_exist(raw["nodes"], *ends):
            return None
        links.append((*ends, entry[5] if len(entry) > 5 else "*"))
    external = {
        (one[0], one[1])
        for one in raw.get("external") or []
        if isinstance(one, list) and len(one) > 1 and all(isinstance(end, int) for end in one[:2])
    }
    config = raw.get("config")
    return Group(raw["nodes"], links, external, config if isinstance(config, dict) else {})


def _ends_exist(nodes: list[dict], origin: int, out: int, target: int, into: int) -> bool:
    return (
        0 <= origin < len(nodes)
        and 0 <= target < len(nodes)
        and 0 <= out < len(nodes[origin].get("outputs") or [])
        and 0 <= into < len(nodes[target].get("inputs") or [])
    )


def _unfold(level: Workflow, node: str, name: str, definitions: dict, report: Report) -> bool:
    """Put the nodes of a group node in its place; False, with nothing changed, if its sockets are unclear."""
    group = _read(definitions[name])
    if group is None:
        return False
    old = level.nodes[node]
    inputs = _match(level.input_names(node), group.inputs())
    outputs = _match(level.output_names(node), group.outputs())
    given = {place: source for place, (_, source) in enumerate(level.inputs(node)) if source}
    taken = [place for place in range(len(level.output_names(node))) if level.consumers((node, place))]
    if any(place not in inputs for place in given) or any(place not in outputs for place in taken):
        return False
    values, known = distribute(group.nodes, old.get("widgets_values"), [names_of(n) for n in group.nodes])
    ids = _put_in(level, old, group, values)
    for origin, out, target, place, kind in group.links:
        level.connect_place((ids[origin], out), ids[target], place, _kind(kind))
    for place, source in given.items():
        slot = inputs[place]
        at = slot.place
        if at is None:
            at = level.add_slot(ids[slot.index], slot.name, level.input_kind(node, place), widget=True)
        level.connect_place(source, ids[slot.index], at, level.input_kind(node, place))
    for place in taken:
        new: Source = (ids[outputs[place].index], outputs[place].place)
        level.redirect((node, place), new)
    label = f"{level.name}:{node}" if level.name else node
    kind = level.type(node)
    level.remove(node)
    report.add("changed", label, kind, f"Taken apart: its {len(ids)} nodes stand in its place.")
    if not known:
        text = "Its values could not be told apart: its nodes have those with which it was made. Check them."
        report.add("lost", label, kind, text)
    return True


def _kind(kind: object) -> str:
    return kind if isinstance(kind, str) else "*"


def _match(names: list[tuple[str, str]], slots: list[Slot]) -> dict[int, Slot]:
    """Which socket of the nodes inside each socket of the group node is; by names, in order."""
    left = list(slots)
    found: dict[int, Slot] = {}
    for place, shown in enumerate(names):
        fits = [slot for slot in left if set(shown) & set(slot.labels)]
        if fits:
            found[place] = fits[0]
            left.remove(fits[0])
    plain = [slot for slot in slots if slot.place is not None]
    if len(found) < len(names) == len(plain):
        return dict(enumerate(plain))  # renamed sockets, but all of them there
    return found


def _put_in(level: Workflow, old: dict, group: Group, values: list) -> list[str]:
    """The nodes of a group beside its place; their ids."""
    corner = level.position(old)
    places = [level.position(node) for node in group.nodes]
    left, top = min(x for x, _ in places), min(y for _, y in places)
    mode = old.get("mode", ALWAYS)
    ids = []
    for node, (x, y), widgets in zip(group.nodes, places, values, strict=True):
        new = {
            key: copy.deepcopy(value)
            for key, value in node.items()
            if key not in ("index", "widgets_values_named")
        }
        new["pos"] = [corner[0] + x - left, corner[1] + y - top]
        new["widgets_values"] = widgets
        new["order"] = old.get("order", 0)
        new["mode"] = mode if mode in (2, 4) else node.get("mode", ALWAYS)
        new.setdefault("flags", {})
        new.setdefault("properties", {})
        for slot in new.get("inputs") or []:
            slot["link"] = None
        for slot in new.get("outputs") or []:
            slot["links"] = None
        ids.append(level.adopt(new))
    return ids
