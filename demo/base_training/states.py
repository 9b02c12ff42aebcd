"""Files between the stages: tensors with facts, written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from .settings import Settings

SCALE = ".scale_of_8_bits"


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
    """Weights of one network in the checkpoint to begin with, also of one in 8 bits (`write_start`)."""
    with safe_open(settings.start, "pt") as file:
        names = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118  # no mapping
        found = {key[len(prefix) :]: file.get_tensor(key).float() for key in names}
    scales = {key: found.pop(key) for key in list(found) if key.endswith(SCALE)}
    return {key: value * scales.get(key + SCALE, 1.0) for key, value in found.items()}


def write_restored(settings: Settings) -> None:
    """Write the checkpoint to begin with as it is, in fp16, without training it further.

    Raises ValueError if there is none to begin with.
    """
    if not settings.start:
        raise ValueError("There is nothing to restore. Name the file: --start demo/next/tiny_ad.safetensors.")
    with safe_open(settings.start, "pt") as file:
        facts = dict(file.metadata() or {})
    tensors = {key: value.half().contiguous() for key, value in started(settings, "").items()}
    write_whole(Path(settings.output), tensors, facts)


def write_start(checkpoint: Path, path: Path) -> None:
    """Write a checkpoint in 8 bits to begin with on another machine: half the size, and training makes good
    what rounding takes. Matrices and kernels get a scale for each output channel."""
    with safe_open(checkpoint, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no mapping
        facts = dict(file.metadata() or {})
    written = {}
    for key, value in tensors.items():
        if value.ndim < 2 or not value.is_floating_point():
            written[key] = value
            continue
        scale = value.float().flatten(1).abs().amax(1).div(127).clamp(min=1e-8)
        scale = scale.view(-1, *[1] * (value.ndim - 1))
        written |= {key: (value.float() / scale).round().to(torch.int8), key + SCALE: scale}
    write_whole(path, written, facts)
