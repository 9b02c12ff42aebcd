"""States to resume from: everything the next step depends on, written whole or not at all.

A state is a folder ``step-00000100`` with safetensors and a ``state.json`` that holds the hash of each. It
is written under another name and renamed when complete, so a kill at any moment leaves the states before it
untouched. No pickles. The data needs no state but the step's number (see :mod:`dataset`), nor do random
numbers (see :mod:`randomness`).
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ...motion_core.files.tensor_file import save_tensors
from ..files import file_hash, write_json

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class State:
    """What was saved."""

    step: int
    """Optimizer steps done."""
    tensors: dict[str, dict[str, torch.Tensor]]
    """By file: ``weights``, ``optimizer``, ``ema``."""
    facts: dict[str, Any]
    """Plain data."""


def save_state(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, torch.Tensor]],
    facts: dict[str, Any],
    keep: int,
) -> Path:
    """Write a state and let go of all but the newest ``keep`` up to it. States of later steps, which a
    resumed run has passed over as damaged, stay until it gets there."""
    final = folder / f"step-{step:08d}"
    temporary = folder / f".{final.name}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    hashes = {}
    try:
        for name, group in tensors.items():
            path = temporary / f"{name}.safetensors"
            if group:
                save_tensors(path, _apart(group), {})
                hashes[path.name] = file_hash(path)
        write_json(temporary / "state.json", {"step": step, "hashes": hashes, "facts": facts})
        _sync_folder(temporary)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)  # a full disk needs the room
        raise
    aside = final.with_name(f"{final.name}{REPLACED}")
    if final.exists():  # no folder can be replaced in one go; the old one still counts meanwhile
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(final, aside)
    os.replace(temporary, final)
    _sync_folder(folder)
    shutil.rmtree(aside, ignore_errors=True)
    for old in [path for path in _states(folder) if _step_of(path) <= step][:-keep]:
        shutil.rmtree(old)
    return final


def newest_state(folder: Path, check: Callable[[State], None] | None = None) -> State | None:
    """The newest complete state, or None. Damaged ones are passed over with a message, as are those at which
    ``check`` raises ValueError."""
    for path in reversed(_states(folder)):
        try:
            state = load_state(path)
            if check is not None:
                check(state)
            return state
        except (ValueError, OSError) as error:
            log.warning("State %s is damaged and passed over: %s", path.name, error)
    return None


def has_states(folder: Path) -> bool:
    """Whether there are states, readable or not."""
    return bool(_states(folder))


def load_state(path: Path) -> State:
    """Read one state.

    Raises:
        ValueError, OSError: it is not whole.
    """
    try:
        record = json.loads((path / "state.json").read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("state.json is nested too deeply") from error
    _check_record(record, _step_of(path))
    tensors = {}
    for name, expected in record["hashes"].items():
        if file_hash(path / name) != expected:
            raise ValueError(f"{name} has changed since it was written")
        try:
            tensors[Path(name).stem] = load_file(path / name)
        except SafetensorError as error:
            raise ValueError(f"{name}: {error}") from error
    return State(record["step"], tensors, record["facts"])


NAMES = ("weights", "optimizer", "ema")
"""Of the files of tensors."""


def _check_record(record: Any, step: int) -> None:
    """Raises:
    ValueError: it does not tell what the state holds.
    """
    if not isinstance(record, dict) or not isinstance(record.get("facts"), dict):
        raise ValueError("state.json does not tell what the state holds")
    if type(record.get("step")) is not int or record["step"] != step:
        raise ValueError(f"state.json is of step {record.get('step')!r}")
    hashes = record.get("hashes")
    names = {f"{name}.safetensors" for name in NAMES}
    if not isinstance(hashes, dict) or "weights.safetensors" not in hashes or not hashes.keys() <= names:
        raise ValueError("state.json does not list the state's files")


def clean_up(folder: Path) -> None:
    """Remove unfinished states of runs that were killed."""
    for path in folder.glob(".step-*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


REPLACED = ".old"
"""Ending of a state while another of the same step takes its place."""
STATE_NAME = re.compile(rf"step-(\d{{8,}})(?:{re.escape(REPLACED)})?")


def _states(folder: Path) -> list[Path]:
    """From the oldest to the newest; a replaced one before the one that replaces it. Folders of other names,
    such as copies, are not ours."""
    found = [path for path in folder.glob("step-*") if STATE_NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: (_step_of(path), path.suffix != REPLACED))


def _step_of(path: Path) -> int:
    return int(STATE_NAME.fullmatch(path.name)[1])


def _apart(group: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors that share no memory, as safetensors wants them: copies of those that do."""
    seen: set[int] = set()
    result = {}
    for name, tensor in group.items():
        place = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return result


def _sync_folder(folder: Path) -> None:
    """Make names durable, where the system allows it."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


# --- optimizers as tensors and plain data -------------------------------------------------------------------


def pack_optimizer(state: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """An optimizer's ``state_dict``, tables within it included, as named tensors and JSON."""
    tensors: dict[str, torch.Tensor] = {}

    def split(prefix: str, values: dict) -> dict[str, Any]:
        plain = {}
        for key, value in values.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{prefix}.{key}"] = value
            elif isinstance(value, dict):
                plain[key] = split(f"{prefix}.{key}", value)
            else:
                plain[key] = value
        return plain

    plain_state = {str(index): split(f"state.{index}", values) for index, values in state["state"].items()}
    groups = [split(f"group.{index}", values) for index, values in enumerate(state["param_groups"])]
    return tensors, {"state": plain_state, "groups": groups}


def unpack_optimizer(
    tensors: Mapping[str, torch.Tensor], plain: dict[str, Any], present: dict[str, Any]
) -> dict[str, Any]:
    """The ``state_dict`` again; ``present`` is that of the new optimizer, for what JSON cannot tell
    (tuples)."""
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in plain["state"].items()}
    groups = [dict(values) for values in plain["groups"]]
    for name, tensor in tensors.items():
        kind, index, key = name.split(".", 2)
        table = state.setdefault(int(index), {}) if kind == "state" else groups[int(index)]
        *outer, key = key.split(".")
        for part in outer:
            table = table[part]
        table[key] = tensor
    for group, now in zip(groups, present["param_groups"], strict=True):
        for key, value in group.items():
            if isinstance(value, list) and isinstance(now.get(key), tuple):
                group[key] = tuple(value)
    return {"state": state, "param_groups": groups}
