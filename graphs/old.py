"""Nodes of other packs as tables, and their widget values read by name from files of every age."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class OldWidget:
    """A widget of another pack's node."""

    kind: str
    """``int``, ``float``, ``bool``, ``text`` or ``choice``."""
    default: object
    """What the pack itself fills in where the value is absent."""


def whole(default: int = 0) -> OldWidget:
    """A whole number."""
    return OldWidget("int", default)


def number(default: float = 1.0) -> OldWidget:
    """A number."""
    return OldWidget("float", default)


def switch(default: bool = False) -> OldWidget:
    """On or off."""
    return OldWidget("bool", default)


def text(default: str = "") -> OldWidget:
    """A text, or the name of a file."""
    return OldWidget("text", default)


def choice(default: str) -> OldWidget:
    """One of a list."""
    return OldWidget("choice", default)


@dataclass(frozen=True)
class Old:
    """A node of another pack, over its whole life."""

    widgets: dict[str, OldWidget] = field(default_factory=dict)
    """By their present names."""
    orders: tuple[str, ...] = ("",)
    """Widget orders in workflow files, the newest first: names apart by spaces. ``-`` is one of no use."""
    sockets: str = ""
    """Inputs for links, apart by spaces."""
    renamed: dict[str, str] = field(default_factory=dict)
    """Old name of an input -> present name."""
    output: str = ""
    """Type of the first output; empty for none."""

    def aliases(self, name: str) -> tuple[str, ...]:
        """All names that an input has had."""
        return (name, *(old for old, new in self.renamed.items() if new == name))


def read_widgets(old: Old, values: object, complain: Callable[[str], None]) -> dict[str, object]:
    """Widget values by name, every one of the right kind.

    Args:
        old: the node.
        values: ``widgets_values`` of a workflow (a list, a dict or nothing), or a prompt's inputs.
        complain: told in words what could not be used.
    """
    found: dict[str, object] = {}
    if isinstance(values, dict):
        for name, value in values.items():
            found[old.renamed.get(name, name)] = value
    elif isinstance(values, list):
        given = list(values)
        while given and given[-1] in ("", None):
            given.pop()  # DOM widgets (autosize, deprecation_warning) are no values
        order = fitting_order(old, given)
        for name, value in zip(order, given, strict=False):
            found[old.renamed.get(name, name)] = value
    result = {}
    for name, widget in old.widgets.items():
        value = found.get(name)
        fitting = _as_kind(widget.kind, value)
        if value is not None and fitting is None:
            complain(
                f"{name} was {_short(value)}, which is no {_KIND_WORDS[widget.kind]}; taken: "
                f"{widget.default!r}."
            )
        result[name] = widget.default if fitting is None else fitting
    return result


_KIND_WORDS = {
    "int": "whole number",
    "float": "number",
    "bool": "switch",
    "text": "text",
    "choice": "choice",
}


def fitting_order(old: Old, given: list) -> list[str]:
    """The order whose length and kinds agree best; of equals the newest."""

    def score(order: list[str]) -> tuple[int, int, int]:
        kinds = [old.widgets.get(old.renamed.get(name, name)) for name in order]
        wrong = sum(
            widget is not None and not _is_kind(widget.kind, value)
            for widget, value in zip(kinds, given, strict=False)
        )
        return wrong, abs(len(order) - len(given)), -len(order)

    return min((order.split() for order in old.orders), key=score)


def _is_kind(kind: str, value: object) -> bool:
    if value is None:
        return True
    if kind == "bool":
        return isinstance(value, bool)
    if kind in ("int", "float"):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, str)


def _as_kind(kind: str, value: object) -> object:
    """The value as the kind, None where it cannot be."""
    if kind == "bool":
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        return value if isinstance(value, bool) else None
    if kind in ("int", "float"):
        return as_number(value, whole_number=kind == "int")
    return value if isinstance(value, str) else None


def as_number(value: object, *, whole_number: bool = False) -> int | float | None:
    """A finite number, also from a text such as ``"1.5"``; None for anything else."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int) and whole_number:
        return value
    if isinstance(value, (int, float, str)):
        try:
            result = float(value)
        except (ValueError, OverflowError):
            return None
        if not math.isfinite(result):
            return None
        if whole_number:
            return int(result) if result == int(result) else None
        return value if isinstance(value, (int, float)) else result
    return None


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else f"{shown[:37]}..."
