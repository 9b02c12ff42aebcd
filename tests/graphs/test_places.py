"""A converted workflow can be read: no node lies on another that did not before."""

import time

import pytest
from animatediff_flipbook.graphs.convert import convert
from animatediff_flipbook.graphs.places import free_place
from support_graphs import FOLDER, published

WORKFLOWS = [path.stem for path in sorted(FOLDER.glob("*.json")) if "nodes" in published(path.stem)]


def box(node):
    """What a node covers, with its title; None of one that is collapsed, whose width the page decides."""
    (x, y), size = node["pos"][:2], node["size"]
    width, height = (size["0"], size["1"]) if isinstance(size, dict) else size[:2]
    return None if node.get("flags", {}).get("collapsed") else (x, y - 30, x + width, y + height)


def meeting(graph):
    """Pairs of nodes that lie on each other."""
    placed = [(node["id"], box(node)) for node in graph["nodes"] if box(node)]
    return {
        (a, b)
        for number, (a, one) in enumerate(placed)
        for b, other in placed[number + 1 :]
        if one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
    }


@pytest.mark.parametrize("name", WORKFLOWS)
def test_no_node_comes_to_lie_on_another(name):
    old = published(name)
    new = convert(old).graph
    before = {node["id"]: node for node in old["nodes"]}
    assert any(node["type"] != before.get(node["id"], {}).get("type") for node in new["nodes"])
    assert meeting(new) - meeting(old) == set()


def test_a_box_that_is_free_stays_and_another_takes_the_nearest_place():
    taken = [(0, 0, 100, 100), (200, 0, 300, 100)]
    assert free_place((400, 0, 450, 50), taken) == (400, 0)
    assert free_place((90, 10, 130, 60), taken) == (120, 10)  # between both, 20 apart from each
    assert free_place((90, 10, 190, 60), taken) == (90, -70)  # too wide for that: above
    assert free_place((0, 0, 10, 10), []) == (0, 0)


def test_places_are_found_in_a_large_graph_in_no_time():
    crowd = [(x * 50, y * 50, x * 50 + 49, y * 50 + 49) for x in range(100) for y in range(100)]
    start = time.process_time()
    x, y = free_place((2400, 2400, 2700, 2500), crowd)
    assert time.process_time() - start < 2
    assert not any(x < c and a < x + 300 and y < d and b < y + 100 for a, b, c, d in crowd)
