"""Where nodes stand after a conversion: what is new, or has grown, lies on no other node.

Only these move, each to the nearest free place: everything else stays where its author put it. Boxes are
(left, top, right, bottom) in the page's units, with the title, which is drawn above a node's place.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection

from .workflow import Workflow

Box = tuple[float, float, float, float]
TITLE, GAP = 30, 20
COLLAPSED = 175
"""About how wide a node is of which only the title shows."""
NEAR = 40
"""Boxes beside which a place is looked for: time grows with the square of it."""


def boxes(level: Workflow) -> dict[str, Box]:
    """Node -> what it covers."""
    return {node: _box(found) for node, found in level.nodes.items()}


def settle(level: Workflow, before: dict[str, Box]) -> None:
    """Move what lies on others only since the conversion; ``before``: the boxes as they were."""
    now = boxes(level)
    moving = dict.fromkeys(node for node in now if node not in before or _is_hit(node, now, before))
    taken = [box for node, box in now.items() if node not in moving]
    for node in moving:
        left, top, right, bottom = now[node]
        x, y = free_place(now[node], taken)
        if (x, y) != (left, top):
            old_x, old_y = Workflow.position(level.nodes[node])
            level.nodes[node]["pos"] = [old_x + x - left, old_y + y - top]
        taken.append((x, y, x + right - left, y + bottom - top))


def free_place(box: Box, taken: Collection[Box]) -> tuple[float, float]:
    """The nearest left upper corner, among those beside other boxes, at which a box meets none."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    others = [(a - GAP, b - GAP, c + GAP, d + GAP) for a, b, c, d in taken]
    near = heapq.nsmallest(NEAR, others, key=lambda other: abs(other[0] - left) + abs(other[1] - top))
    across = {left, *(other[0] - width for other in near), *(other[2] for other in near)}
    down = {top, *(other[1] - height for other in near), *(other[3] for other in near)}
    corners = sorted(
        ((x, y) for x in across for y in down),
        key=lambda corner: abs(corner[0] - left) + abs(corner[1] - top),
    )
    soonest_met = [*near, *others]
    free = (
        corner
        for corner in corners
        if not any(_meet((*corner, corner[0] + width, corner[1] + height), other) for other in soonest_met)
    )
    return next(free, (max((other[2] for other in others), default=left), top))


def _is_hit(node: str, now: dict[str, Box], before: dict[str, Box]) -> bool:
    """Whether a node has grown onto another one."""
    return now[node] != before[node] and any(
        other != node and _meet(now[node], now[other]) and not _meet(before[node], before[other])
        for other in before
        if other in now
    )


def _box(node: dict) -> Box:
    x, y = Workflow.position(node)
    flags = node.get("flags")
    if isinstance(flags, dict) and flags.get("collapsed"):
        return x, y - TITLE, x + COLLAPSED, y
    size = node.get("size")
    if isinstance(size, dict):
        size = [size.get("0"), size.get("1")]
    known = isinstance(size, list) and len(size) >= 2 and all(_is_number(value) for value in size[:2])
    width, height = size[:2] if known else (0, 0)
    return x, y - TITLE, x + width, y + height


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float))
