"""Documents in all their forms: workflows with their subgraphs, prompts, and wrappers around either."""

from __future__ import annotations

from collections.abc import Iterator

from .errors import GraphError
from .prompt import Prompt
from .workflow import Counter, Workflow
from .world import Level

MAX_NODES = 50_000


class Document:
    """One graph of a document."""

    def __init__(self, raw: dict, is_prompt: bool) -> None:
        self.raw, self.is_prompt = raw, is_prompt

    def levels(self) -> list[Level]:
        """The root and its subgraphs.

        Raises:
            GraphError: it cannot be read.
        """
        if self.is_prompt:
            return [Prompt(self.raw)]
        counter = self.counter = Counter()
        levels: list[Level] = [Workflow(self.raw, counter)]
        for number, raw in enumerate(_subgraphs(self.raw)):
            name = raw.get("name") if isinstance(raw.get("name"), str) else f"subgraph {number + 1}"
            levels.append(Workflow(raw, counter, name[:60]))
        if sum(len(level.nodes) for level in levels) > MAX_NODES:
            raise GraphError(f"This workflow has more than {MAX_NODES} nodes.")
        for raw in (self.raw, *_subgraphs(self.raw)):
            for last, key in (("node", "Node"), ("link", "Link")):
                known = [raw.get(f"last_{last}_id")]
                if isinstance(raw.get("state"), dict):
                    known.append(raw["state"].get(f"last{key}Id"))
                for value in known:
                    if isinstance(value, int):
                        setattr(counter, last, max(getattr(counter, last), value))
        return levels

    def write(self, levels: list[Level]) -> None:
        """Put all levels back, with the numbers that count them."""
        for level in levels:
            level.write()
        if self.is_prompt:
            return
        for level in levels:
            raw, state = level.raw, level.raw.get("state")
            if "last_node_id" in raw or not (level.is_subgraph or isinstance(state, dict)):
                raw["last_node_id"] = self.counter.node
                raw["last_link_id"] = self.counter.link
            if isinstance(state, dict):
                state["lastNodeId"] = self.counter.node
                state["lastLinkId"] = self.counter.link

    def add_note(self, text: str) -> None:
        """Put a note beside the graph."""
        self.counter.node += 1
        places = [node.get("pos") for node in self.raw["nodes"]]
        left = [
            pos[0] for pos in places if isinstance(pos, list) and pos and isinstance(pos[0], (int, float))
        ]
        top = [
            pos[1]
            for pos in places
            if isinstance(pos, list) and len(pos) > 1 and isinstance(pos[1], (int, float))
        ]
        self.raw["nodes"].append(
            {
                "id": self.counter.node,
                "type": "Note",
                "title": "Converted AnimateDiff nodes",
                "pos": [min(left, default=0) - 560, min(top, default=0)],
                "size": [520, 400],
                "flags": {},
                "order": 0,
                "mode": 0,
                "inputs": [],
                "outputs": [],
                "properties": {},
                "widgets_values": [text],
            }
        )
        for holder, key in ((self.raw, "last_node_id"), (self.raw.get("state"), "lastNodeId")):
            if isinstance(holder, dict) and key in holder:
                holder[key] = self.counter.node


def _subgraphs(raw: dict) -> list[dict]:
    definitions = raw.get("definitions")
    found = definitions.get("subgraphs") if isinstance(definitions, dict) else None
    if not isinstance(found, list):
        return []
    return [one for one in found if isinstance(one, dict) and isinstance(one.get("nodes"), list)]


def read_document(document: dict) -> list[Document]:
    """All graphs in a document.

    Raises:
        GraphError: there is none.
    """
    parts = list(_parts(document))
    if not parts:
        raise GraphError("This is neither a workflow (with a list of nodes) nor a prompt (with class_type).")
    return parts


def _parts(document: dict) -> Iterator[Document]:
    if "nodes" in document:
        yield Document(document, is_prompt=False)
        return
    if any(isinstance(node, dict) and "class_type" in node for node in document.values()):
        yield Document(document, is_prompt=True)
        return
    for key in ("prompt", "workflow"):
        if isinstance(document.get(key), dict):
            yield from _parts(document[key])
    data = document.get("extra_data")
    info = data.get("extra_pnginfo") if isinstance(data, dict) else None
    if isinstance(info, dict) and isinstance(info.get("workflow"), dict):
        yield from _parts(info["workflow"])


def types_in(document: object) -> set[str]:
    """All types of nodes in a document, subgraphs and group nodes included; and of slots."""
    return set(all_types(document))


def all_types(document: object) -> Iterator[str]:
    """The same, one for each node."""
    todo = [document]
    while todo:
        part = todo.pop()
        if isinstance(part, dict):
            yield from (part[key] for key in ("type", "class_type") if isinstance(part.get(key), str))
            todo += [value for value in part.values() if isinstance(value, (dict, list))]
        elif isinstance(part, list):
            todo += [value for value in part if isinstance(value, (dict, list))]
