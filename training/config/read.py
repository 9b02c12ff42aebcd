"""From text to dataclasses: a TOML file, overrides, plain data."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import sys
import types
import typing
from pathlib import Path
from typing import Any, Literal

from .override import override
from .run import RunConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


PATHS = {
    "output",
    "checkpoint",
    "comfyui",
    "custom_nodes",
    "domain_adapter",
    "file",
    "path",
    "media_root",
    "folder",
    "prompt_file",
}
"""Names of settings that are paths."""


def load(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> RunConfig:
    """Read a TOML file and apply overrides such as ``train.steps=10`` or ``data.sources.0.path=clips``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not TOML, an unknown key, or a value that cannot be.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no configuration file {path}. Recipes to start from lie in training/recipes."
        )
    try:
        # Windows' Notepad puts a mark before the text.
        tree = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}). Save it as UTF-8.") from error
    except tomllib.TOMLDecodeError as error:
        hint = " A back-slash in double quotes begins an escape: write paths in single quotes or with /."
        raise ValueError(f"{path} is not valid TOML: {error}{hint * ('escape' in str(error))}") from error
    for text in overrides:
        override(tree, text)
    return from_dict(tree)


def from_dict(tree: dict[str, Any]) -> RunConfig:
    """Build the configuration from plain data, as in a TOML file or in a run's record.

    Raises:
        ValueError: an unknown or missing key, a value of the wrong type or out of range.
    """
    return _build(RunConfig, tree, "")


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Plain data that :func:`from_dict` and JSON understand."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def _build(kind: type, tree: Any, where: str) -> Any:
    """A dataclass from a table, recursively."""
    if not isinstance(tree, dict):
        raise ValueError(f"{where or 'The configuration'} must be a table, got {tree!r}.")
    fields = {f.name: f for f in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    for key in tree:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"Unknown key {_join(where, key)!r}.{hint} Allowed here: {', '.join(fields)}.")
    for name, f in fields.items():
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and name not in tree:
            raise ValueError(f"{_join(where, name)!r} is missing.")
    return kind(**{key: _convert(hints[key], value, _join(where, key)) for key, value in tree.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    """A value as its field wants it."""
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where)
    if origin is Literal:
        if value not in typing.get_args(hint):
            allowed = ", ".join(map(repr, typing.get_args(hint)))
            raise ValueError(f"{where} = {value!r} is not possible; choose one of {allowed}.")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where} must be a list, got {value!r}.")
        kinds = typing.get_args(hint)
        if kinds[-1] is Ellipsis:
            return tuple(_convert(kinds[0], item, f"{where}.{i}") for i, item in enumerate(value))
        if len(kinds) != len(value):
            raise ValueError(f"{where} must have {len(kinds)} entries, got {value!r}.")
        return tuple(
            _convert(kind, item, f"{where}.{i}")
            for i, (kind, item) in enumerate(zip(kinds, value, strict=True))
        )
    if origin is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{where} must be a table, got {value!r}.")
        return value
    if isinstance(hint, types.UnionType):
        raise TypeError(f"{where}: unions are not used in the configuration.")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} must be finite, got {value!r}.")
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if hint is str and isinstance(value, str):
        _refuse_escapes(value, where)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ValueError(f"{where} must be of type {hint.__name__}, got {value!r}.")
    return value


def _refuse_escapes(value: str, where: str) -> None:
    """``"D:\\train\\new"`` in TOML holds a tab and a new line, which nobody means in a path."""
    names = [part for part in where.split(".") if not part.isdigit()]
    if names[-1] in PATHS and not value.isprintable():
        raise ValueError(
            f"{where} = {value!r} holds characters that no path has: in double quotes a back-slash begins an "
            "escape. Write the path in single quotes, or with forward slashes."
        )


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
