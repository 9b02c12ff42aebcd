"""One check for what reaches a node: ComfyUI looks at a range only where no link delivers the value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io


def check_inputs(node: type[io.ComfyNode], values: Mapping[str, Any]) -> None:
    """Hold values against the node's own schema; call it first thing in ``execute``, with ``locals()``.

    Raises:
        ValueError: no number where one is expected, one that is not finite or outside of the widget's range,
            a word that is not in the list, something else than text.
    """
    for one in (node.SCHEMA or node.GET_SCHEMA()).inputs:
        if one.id not in values or (one.optional and values[one.id] is None):
            continue
        value = values[one.id]
        if isinstance(one, io.Int.Input | io.Float.Input):
            _check_number(one, value)
        elif isinstance(one, io.String.Input | io.Combo.Input) and not isinstance(value, str):
            raise ValueError(f"{one.id} got a {type(value).__name__}, expected text. Mind the linked node.")
        elif isinstance(one, io.Boolean.Input) and value not in (True, False):
            raise ValueError(f"{one.id} got {_short(value)}, expected on or off. Mind the linked node.")


def _check_number(one: Any, value: Any) -> None:
    kind = "a whole number" if isinstance(one, io.Int.Input) else "a number"
    lowest, highest = one.min, one.max
    span = "" if lowest is None or highest is None else f" from {lowest:g} to {highest:g}"
    wrong = ValueError(f"{one.id} is {kind}{span}, got {_short(value)}. Mind the linked node.")
    if isinstance(value, bool | str | bytes):
        raise wrong
    try:
        number = float(value)
        whole = not isinstance(one, io.Int.Input) or int(value) == value
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise wrong from None
    outside = (lowest is not None and value < lowest) or (highest is not None and value > highest)
    if not math.isfinite(number) or not whole or outside:
        raise wrong


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 and text.isprintable() else f"a {type(value).__name__}"
