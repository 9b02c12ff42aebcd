"""``key=value`` from a command line. What a value means is the field's to say: a path may look like a number
or a date, and shells eat the quotes that TOML wants."""

from __future__ import annotations

import dataclasses
import re
import sys
import typing
from typing import Any, Literal

from .run import RunConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
"""Forms such as ``.5`` and ``1.`` too, which TOML does not take."""


def override(tree: dict[str, Any], text: str) -> None:
    """Set one value of a tree of settings, such as ``train.steps=10`` or ``data.sources.0.path=clips``.

    Raises:
        ValueError: no ``key=value``, or a place that is not there.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is no override. Write key=value, for example train.steps=100.")
    *parents, last = key.strip().split(".")
    parsed = _meant(_hint([*parents, last]), value.strip())
    node: Any = tree
    for depth, part in enumerate(parents):
        if not isinstance(node, dict | list):
            raise ValueError(f"{key}: {'.'.join(parents[:depth])} is a value, not a table.")
        node = node[_index(node, part, key)] if isinstance(node, list) else node.setdefault(part, {})
    if isinstance(node, list):
        node[_index(node, last, key)] = parsed
    elif isinstance(node, dict):
        node[last] = parsed
    else:
        raise ValueError(f"{key}: {'.'.join(parents)} is a value, not a table.")


def overlay(tree: dict[str, Any], text: str) -> None:
    """Lay settings that are written as TOML over a tree of settings.

    Raises:
        ValueError: no TOML, or a table where there is a value.
    """
    try:
        settings = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"This is not valid TOML: {error}. Write lines such as lora.rank = 32.") from error
    _lay(tree, settings, "")


def _lay(tree: dict[str, Any], settings: dict[str, Any], where: str) -> None:
    for key, value in settings.items():
        if isinstance(value, dict) and key != "arguments":
            below = tree.setdefault(key, {})
            if not isinstance(below, dict):
                raise ValueError(f"{where}{key} is a value, not a table.")
            _lay(below, value, f"{where}{key}.")
        else:
            tree[key] = value


def _index(items: list, part: str, key: str) -> int:
    if not part.isdigit() or int(part) >= len(items):
        raise ValueError(f"{key}: {part!r} is no place in a list of {len(items)}; count from 0.")
    return int(part)


def _hint(parts: list[str]) -> Any:
    """The type of the field at a dotted place; None where there is none or it takes anything."""
    hint: Any = RunConfig
    for part in parts:
        if dataclasses.is_dataclass(hint):
            hint = typing.get_type_hints(hint).get(part)
        elif typing.get_origin(hint) is tuple:
            hint = typing.get_args(hint)[0]  # of lists, all entries are of one type
        else:
            return None
    return hint


def _meant(hint: Any, value: str) -> Any:
    """A value as a field of this type understands it; what it cannot be is left for the check to refuse."""
    if hint is str or typing.get_origin(hint) is Literal:
        return _text(value)
    if hint is bool and value.lower() in ("true", "false"):
        return value.lower() == "true"
    parsed = _toml(value)
    if parsed is not None:
        return parsed
    return float(value) if NUMBER.fullmatch(value) else value


def _toml(value: str) -> Any:
    """What TOML reads; None if it is none."""
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return None


def _text(value: str) -> str:
    """The text, without quotes around it. Back-slashes are those of a path, not TOML's escapes."""
    if len(value) < 2 or value[0] != value[-1] or value[0] not in "'\"":
        return value
    inner, parsed = value[1:-1], _toml(value)
    if isinstance(parsed, str) and parsed.isprintable():
        return parsed
    return value if value[0] in inner else inner
