"""Files between the stages: tensors with facts, written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from .settings import Settings


def write_whole(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    save_file(tensors, temporary, metadata=metadata)
    os.replace(temporary, path)


def write_state(path: Path, tensors: dict[str, torch.Tensor], facts: dict) -> None:
    """Write tensors and facts (JSON) as one safetensors file."""
    tensors = {key: value.detach().clone().contiguous() for key, value in tensors.items()}
    write_whole(path, tensors, {"facts": json.dumps(facts)})


def read_state(path: Path) -> tuple[dict[str, torch.Tensor], dict] | None:
    """Tensors and facts of a state, None where there is none yet."""
    if not path.exists():
        return None
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no mapping
        return tensors, json.loads(file.metadata()["facts"])


def started(settings: Settings, prefix: str) -> dict[str, torch.Tensor]:
    """Weights of one network in the checkpoint to begin with."""
    with safe_open(settings.start, "pt") as file:
        names = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118  # no mapping
        return {key[len(prefix) :]: file.get_tensor(key).float() for key in names}
