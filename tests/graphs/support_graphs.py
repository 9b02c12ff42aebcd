"""Graphs for the tests: the published ones where they are, others by hand, and a look at both of its own."""

import json
import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("FLIPBOOK_GRAPHS") or Path(__file__).resolve().parents[3] / "shared" / "graphs")
OURS_AND_OLD = ("ADE_", "AnimateDiff", "CheckpointLoaderSimpleWithNoiseSelect")


def published(name: str) -> dict:
    """A graph that somebody has published."""
    path = FOLDER / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"{path} is not here; FLIPBOOK_GRAPHS names the folder of the published graphs")
    return json.loads(path.read_text(encoding="utf-8"))


def faults(graph: dict) -> list[str]:
    """What is wrong with a graph, told without the converter's own means."""
    if "nodes" not in graph:
        return [
            f"{key}.{name} -> {value[0]}"
            for key, node in graph.items()
            for name, value in node["inputs"].items()
            if isinstance(value, list) and len(value) == 2 and value[0] not in graph
        ]
    wrong = _level_faults(graph, set())
    for inner in graph.get("definitions", {}).get("subgraphs", []):
        wrong += _level_faults(inner, {-10, -20})
    return wrong


def _level_faults(graph: dict, edges: set) -> list[str]:
    wrong = []
    nodes = {node["id"]: node for node in graph["nodes"]}
    if len(nodes) != len(graph["nodes"]):
        wrong.append("ids twice")
    links = {}
    for entry in graph["links"]:
        if isinstance(entry, dict):
            entry = [entry[k] for k in ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")]
        number, origin, out, target, into = entry[:5]
        if number in links:
            wrong.append(f"link {number} twice")
        links[number] = entry
        if origin in nodes:
            if number not in (nodes[origin]["outputs"][out]["links"] or []):
                wrong.append(f"link {number} not at its start")
        elif origin not in edges:
            wrong.append(f"link {number} from nowhere")
        if target in nodes:
            if nodes[target]["inputs"][into]["link"] != number:
                wrong.append(f"link {number} not at its end")
        elif target not in edges:
            wrong.append(f"link {number} to nowhere")
    for node in graph["nodes"]:
        named = [slot.get("link") for slot in node.get("inputs") or []]
        named += [number for slot in node.get("outputs") or [] for number in slot.get("links") or []]
        wrong += [f"node {node['id']}: link {n}" for n in named if n is not None and n not in links]
        if node["type"].startswith(OURS_AND_OLD):
            wrong.append(f"node {node['id']} is a {node['type']}")
    if not edges:
        if graph.get("last_node_id", 0) < max([n for n in nodes if isinstance(n, int)], default=0):
            wrong.append("last_node_id")
        if graph.get("last_link_id", 0) < max([n for n in links if isinstance(n, int)], default=0):
            wrong.append("last_link_id")
    return wrong


def nodes_of(graph: dict, kind: str) -> list:
    """Ids of the nodes of a type."""
    if "nodes" in graph:
        return [node["id"] for node in graph["nodes"] if node["type"] == kind]
    return [key for key, node in graph.items() if node["class_type"] == kind]


def node(graph: dict, number) -> dict:
    """A node of a workflow."""
    return next(one for one in graph["nodes"] if one["id"] == number)


def feeder(graph: dict, number, name: str):
    """``(id, output)`` that feeds an input, None if nothing does."""
    if "nodes" not in graph:
        value = graph[number]["inputs"].get(name)
        return tuple(value) if isinstance(value, list) else None
    slot = next((one for one in node(graph, number).get("inputs") or [] if one["name"] == name), None)
    if slot is None or slot["link"] is None:
        return None
    link = next(entry for entry in graph["links"] if entry[0] == slot["link"])
    return link[1], link[2]


def widgets(graph: dict, number) -> dict:
    """Widgets by name, of our nodes and ComfyUI's."""
    from animatediff_flipbook.graphs.check import widget_names

    if "nodes" not in graph:
        return graph[number]["inputs"]
    one = node(graph, number)
    if isinstance(one["widgets_values"], dict):
        return one["widgets_values"]
    return dict(zip(widget_names(one["type"]), one["widgets_values"], strict=True))


class Builder:
    """A workflow by hand."""

    def __init__(self):
        self.nodes, self.links = [], []

    def add(self, kind, widgets=None, inputs=(), outputs=(), mode=0, **links):
        """``inputs`` and ``outputs`` are ``name:TYPE``; links are ``name=(id, slot)``. Returns the id."""
        number = len(self.nodes) + 1
        slots = [dict(zip(("name", "type"), one.split(":"), strict=True), link=None) for one in inputs]
        known = {slot["name"] for slot in slots}
        slots += [{"name": name, "type": "*", "link": None} for name in links if name not in known]
        outs = [dict(zip(("name", "type"), one.split(":"), strict=True), links=[]) for one in outputs]
        new = {
            "id": number,
            "type": kind,
            "pos": [200 * number, 100],
            "mode": mode,
            "inputs": slots,
            "outputs": outs,
            "properties": {},
            "widgets_values": widgets,
        }
        self.nodes.append(new)
        for name, (origin, slot) in links.items():
            place = next(i for i, one in enumerate(slots) if one["name"] == name)
            link = len(self.links) + 1
            start = self.nodes[origin - 1]["outputs"][slot]
            self.links.append([link, origin, slot, number, place, start["type"]])
            start["links"].append(link)
            slots[place]["link"] = link
        return number

    def graph(self):
        """The workflow."""
        return {
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": self.nodes,
            "links": self.links,
            "groups": [],
            "config": {},
            "extra": {},
            "version": 0.4,
        }


def as_prompt(graph: dict, names: dict) -> dict:
    """A workflow in API format, as the frontend exports it: reroutes, bypassed and muted nodes resolved.

    ``names``: widget names of a type, for its ``widgets_values``.
    """
    nodes = {one["id"]: one for one in graph["nodes"]}
    links = {entry[0]: entry for entry in graph["links"]}

    def origin(number):
        while number is not None and number in links:
            _, source, slot, *_ = links[number]
            one = nodes[source]
            if one["type"] == "Reroute":
                number = one["inputs"][0]["link"]
            elif one.get("mode") == 4:
                kind = one["outputs"][slot]["type"]
                number = next((i["link"] for i in one["inputs"] if i["type"] == kind and i["link"]), None)
            elif one.get("mode") == 2:
                return None
            else:
                return source, slot
        return None

    prompt = {}
    for one in graph["nodes"]:
        if one["type"] in ("Reroute", "Note", "PrimitiveNode") or one.get("mode") in (2, 4):
            continue
        values = one.get("widgets_values")
        if not isinstance(values, dict):
            values = dict(zip(names.get(one["type"], []), values or [], strict=False))
        inputs = {name: value for name, value in values.items() if not name.startswith("-")}
        for slot in one.get("inputs") or []:
            source = origin(slot["link"])
            if source is None:
                continue
            if nodes[source[0]]["type"] == "PrimitiveNode":
                inputs[slot["name"]] = nodes[source[0]]["widgets_values"][0]
            else:
                inputs[slot["name"]] = [str(source[0]), source[1]]
        prompt[str(one["id"])] = {"inputs": inputs, "class_type": one["type"]}
    return prompt
