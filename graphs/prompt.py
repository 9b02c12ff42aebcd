"""A prompt (ComfyUI's API format), with the same ways to look and to change as a workflow."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .errors import GraphError
from .nodes import ALWAYS, widget_values
from .targets import TARGETS
from .workflow import Source


class Prompt:
    """Nodes by id, inputs by name; links are ``[id, place]``."""

    is_prompt = True
    is_subgraph = False
    name = ""

    def __init__(self, raw: dict) -> None:
        self.raw = raw
        self.repaired = 0
        self.nodes: dict[str, dict] = {}
        for key, node in raw.items():
            if not isinstance(node, dict) or "class_type" not in node:
                continue  # a prompt may carry more than nodes
            if not isinstance(node["class_type"], str) or not isinstance(node.get("inputs", {}), dict):
                raise GraphError(f"This prompt is damaged: node {key} has no type or no inputs.")
            self.nodes[key] = node
        self._fed: dict[Source, list[tuple[str, str]]] | None = None
        self._drop_dangling()
        self._next = max((int(key) for key in raw if key.isdecimal() and len(key) < 10), default=0)

    def _drop_dangling(self) -> None:
        for node in self.nodes.values():
            inputs = node.get("inputs", {})
            for name in [name for name, value in inputs.items() if is_link(value)]:
                if str(inputs[name][0]) not in self.nodes:
                    del inputs[name]
                    self.repaired += 1

    def ids(self) -> list[str]:
        """All nodes."""
        return list(self.nodes)

    def type(self, node: str) -> str:
        """Type of a node."""
        return self.nodes[node]["class_type"]

    def mode(self, node: str) -> int:
        """A prompt holds nodes in use only."""
        return ALWAYS

    def widgets(self, node: str) -> dict:
        """Values that are no links, by name."""
        return {
            name: value for name, value in self.nodes[node].get("inputs", {}).items() if not is_link(value)
        }

    def inputs(self, node: str) -> list[tuple[str, Source | None]]:
        """Name and source of every linked input."""
        given = self.nodes[node].get("inputs", {})
        return [(name, (str(value[0]), value[1])) for name, value in given.items() if is_link(value)]

    def place_of(self, node: str, *names: str) -> str | None:
        """Key of the input with one of these names."""
        return next((name for name, _ in self.inputs(node) if name in names), None)

    def source(self, node: str, *names: str) -> Source | None:
        """What is linked to the input with one of these names."""
        return next((source for name, source in self.inputs(node) if name in names), None)

    def consumers(self, source: Source) -> list[tuple[str, str]]:
        """Nodes, and names of their inputs, that an output feeds."""
        if self._fed is None:
            self._fed = {}
            for node in self.nodes:
                for name, other in self.inputs(node):
                    self._fed.setdefault(other, []).append((node, name))
        return list(self._fed.get(source, ()))

    def input_name(self, node: str, place: str) -> str:
        """Name of an input."""
        return place

    def input_kind(self, node: str, place: str) -> str:
        """A prompt does not tell."""
        return ""

    def output_kinds(self, node: str) -> list[str]:
        """A prompt does not tell."""
        return []

    def connect(self, source: Source, node: str, name: str, kind: str = "*") -> None:
        """Link an output to an input."""
        self.nodes[node].setdefault("inputs", {})[name] = [source[0], source[1]]
        self._fed = None

    def disconnect(self, node: str, place: str) -> None:
        """Take an input off."""
        self.nodes[node]["inputs"].pop(place, None)
        self._fed = None

    def redirect(self, old: Source, new: Source, but: Iterable[str] = ()) -> None:
        """Let everything that an output feeds be fed by another one."""
        skip = set(but)
        for node, name in self.consumers(old):
            if node not in skip:
                self.connect(new, node, name)

    def drop_consumers(self, source: Source) -> None:
        """Take all links off an output."""
        for node, name in self.consumers(source):
            self.disconnect(node, name)

    def remove(self, node: str) -> None:
        """Take a node out, with its links."""
        for other in self.ids():
            for name, source in self.inputs(other):
                if source and source[0] == node:
                    self.disconnect(other, name)
        del self.nodes[node]
        self._fed = None

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
        """Put in a new node; its id."""
        self._next += 1
        node = str(self._next)
        self.nodes[node] = self._make(kind, values, links, complain)
        self._fed = None
        return node

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
        """Turn a node into one of another type under its id."""
        outputs = {0: 0} if outputs is None else outputs
        for other in self.ids():
            for name, source in self.inputs(other):
                if source and source[0] == node:
                    if source[1] in outputs:
                        self.connect((node, outputs[source[1]]), other, name)
                    else:
                        self.disconnect(other, name)
        self.nodes[node] = self._make(kind, values, links, complain)
        self._fed = None

    def named_widgets(self, node: str) -> None:
        """In a prompt all values have names."""

    def set_widget(self, node: str, place: str, value: object, name: str) -> None:
        """Change a value."""
        self.nodes[node].setdefault("inputs", {})[place] = value

    def retitle(self, node: str, title: str) -> None:
        """Give a node a title."""
        self.nodes[node]["_meta"] = {"title": title}

    def _make(self, kind: str, values: dict, links: dict, complain: Callable[[str], None]) -> dict:
        inputs = dict(widget_values(kind, values, complain))
        for one in TARGETS[kind].inputs:
            if source := links.get(one.name):
                inputs[one.name] = [source[0], source[1]]
        return {"inputs": inputs, "class_type": kind, "_meta": {"title": kind}}

    def reuse_ids(self) -> None:
        """Links of a prompt have no ids."""

    def write(self) -> None:
        """Put the nodes back into the document."""
        for key in [key for key in self.raw if _is_node(self.raw[key]) and key not in self.nodes]:
            del self.raw[key]
        self.raw.update(self.nodes)


def is_link(value: object) -> bool:
    """Whether a prompt's value is a link."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int)
        and not isinstance(value[1], bool)
    )


def _is_node(value: object) -> bool:
    return isinstance(value, dict) and "class_type" in value
