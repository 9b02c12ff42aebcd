"""The command line on weights: merge, blend, extract, inspect (arithmetic: motion_core.weights)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ..motion_core.files.checkpoint import (
    MotionFile,
    load_with_parts,
    open_motion_module,
    save_motion_module,
)
from ..motion_core.files.lora import LoraFile, plain_factors, read_lora, save_motion_lora
from ..motion_core.files.recognise import recognise
from ..motion_core.files.tensor_file import TensorFile
from ..motion_core.weights.blend import blend, read_block_weights
from ..motion_core.weights.inspect import describe_lora, describe_module
from ..motion_core.weights.low_rank_change import extract_lora, merge_lora
from ..motion_core.weights.module_weights import ModuleWeights, model_of, weights_of
from ..motion_core.weights.words import licence_of_all, words_of_all
from .commands import DTYPES, lost_facts

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 2.0
"""A line of progress this often."""


def merged(module: Path, lora: Path, target: Path, strength: float, dtype: str | None) -> list[str]:
    """Write a module with a MotionLoRA in its weights; returns lines about it."""
    _require_new(target)
    opened = open_motion_module(module)
    added = read_lora(lora)
    weights, line = merge_lora(_weights(opened), added, strength, _progress("merging layers"))
    own = opened.source.metadata
    made_from = f"merge: {module.name} with {lora.name} at {strength:g}"
    words = {**own, **licence_of_all(own, added.metadata), "made_from": made_from}
    return [line, *_oddities(opened), *_write(target, weights, words, dtype)]


def blended(
    one: Path, other: Path, target: Path, weight: float, blocks: list[str], dtype: str | None
) -> list[str]:
    """Write a mixture of two modules; returns what was decided and left out."""
    _require_new(target)
    opened = [open_motion_module(path) for path in (one, other)]
    shares = read_block_weights("\n".join(blocks))
    weights, notes = blend(*map(_weights, opened), weight, shares, _progress("blending tensors"))
    words = words_of_all(*(each.source.metadata for each in opened))
    words["made_from"] = f"blend: {one.name} and {other.name} at {weight:g}"
    return [*notes, *_oddities(*opened), *_write(target, weights, words, dtype)]


def extracted(
    base: Path, tuned: Path, target: Path, rank: int, attention_only: bool, dtype: str | None
) -> list[str]:
    """Write the MotionLoRA between two modules; returns its error and what is not in it."""
    _require_new(target)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    opened = [open_motion_module(path) for path in (base, tuned)]
    found = extract_lora(
        *map(_weights, opened),
        rank,
        attention_only=attention_only,
        device=device,
        progress=_progress("extracting layers"),
    )
    if not found.layers:
        raise ValueError(f"{base.name} and {tuned.name} do not differ in these layers: nothing was written.")
    lora = LoraFile(target.name, "motion_lora", found.layers)
    layers = plain_factors(lora, DTYPES[dtype or "float32"])
    words = {"made_from": f"extract: {tuned.name} less {base.name}", "error": f"{found.error:.6f}"}
    words |= licence_of_all(*(each.source.metadata for each in opened))
    save_motion_lora(target, layers, words)
    lines = [f"{len(layers)} layers at rank {rank}, {found.error:.1%} of their difference missed"]
    if found.left:
        lines.append(f"{len(found.left)} other tensors differ and are not in it ({found.share_left:.1%})")
    return [*lines, *_oddities(*opened)]


def inspected(file: Path) -> list[str]:
    """What a module, MotionLoRA or domain adapter is made of."""
    if recognise(TensorFile(file).shapes) in ("motion_lora", "domain_adapter"):
        return describe_lora(read_lora(file))
    opened = open_motion_module(file)
    return [*describe_module(_weights(opened), opened.source.metadata, opened.dtype), *opened.notes]


def _progress(what: str) -> Callable[[int, int], None]:
    """Tells now and then how far a command is."""
    last = time.monotonic()

    def move(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            log.info("%s: %d of %d", what, done, total)

    return move


def _weights(file: MotionFile) -> ModuleWeights:
    return weights_of(file.source.name, load_with_parts(file, fused_qkv=False))


def _oddities(*files: MotionFile) -> list[str]:
    return [f"{file.source.name}: {note}" for file in files for note in file.oddities]


def _write(target: Path, weights: ModuleWeights, words: dict[str, str], dtype: str | None) -> list[str]:
    """A module's file; returns what it does not say."""
    save_motion_module(target, model_of(weights), words, dtype=None if dtype is None else DTYPES[dtype])
    return lost_facts(target, weights.config)


def _require_new(target: Path) -> None:
    if target.exists():
        raise ValueError(f"{target} exists already. Nothing was written: name another file.")
