"""New nodes for either format: values checked against the table of targets."""

from __future__ import annotations

from collections.abc import Callable

from .old import as_number
from .targets import TARGETS, Input

NEVER, BYPASSED, ALWAYS = 2, 4, 0
"""Modes of a node: muted, bypassed, in use."""


def fitting(one: Input, value: object, complain: Callable[[str], None]) -> object:
    """A value that the widget takes; what was cut or replaced is told."""
    if one.kind in ("INT", "FLOAT"):
        number = as_number(value, whole_number=one.kind == "INT")
        if number is None:
            complain(f"{one.name} cannot be {value!r}; taken: {one.default!r}.")
            return one.default
        inside = min(max(number, one.low), one.high)
        if inside != number:
            complain(f"{one.name} {number:g} lies outside of {one.low:g} … {one.high:g}; taken: {inside:g}.")
        return inside
    if one.kind == "BOOLEAN":
        return bool(value)
    if one.options is not None and value not in one.options:
        complain(f"{one.name} has no choice {value!r}; taken: {one.default!r}.")
        return one.default
    return value


def widget_values(kind: str, values: dict, complain: Callable[[str], None]) -> dict[str, object]:
    """All widgets of a new node by name, defaults filled in."""
    target = TARGETS[kind]
    result = {}
    for one in target.inputs:
        if one.widget:
            given = values.get(one.name, one.default)
            result[one.name] = given if given == one.default else fitting(one, given, complain)
    return result


def serialised(kind: str, values: dict[str, object], control: str) -> list | dict:
    """``widgets_values`` of a workflow."""
    if kind == "VHS_VideoCombine":
        return dict(values)  # that pack writes its widgets by name
    result = []
    for one in TARGETS[kind].inputs:
        if one.widget:
            result.append(values[one.name])
            if one.seed:
                result.append(control)
    return result
