"""What can be told of a motion module or a LoRA from its numbers."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..files.control_parts import NOTES, parts_of
from ..files.lora import LoraFile
from ..files.words import shown
from ..module.layers import sinusoidal_positions
from . import loss_curve
from .module_weights import POSITIONS, ModuleWeights

MOST_WORDS = 40
"""Entries of metadata that are shown."""


@dataclass(frozen=True)
class PartNorms:
    """Root mean squares of a module's weights by part."""

    name: str
    parts: Mapping[str, float]
    """``attention``, ``feed_forward``, ``proj_in``, ``proj_out``."""


def norms(weights: ModuleWeights) -> list[PartNorms]:
    """Of every module, in file order. A ``proj_out`` of 0 is a module that does nothing."""
    squares: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for key, tensor in weights.tensors.items():
        if tensor.ndim != 2 or key.endswith(POSITIONS):
            continue
        module = next(name for name in weights.config.widths if key.startswith(f"{name}."))
        names = {
            ".to_": "attention",
            ".ff.": "feed_forward",
            ".proj_in.": "proj_in",
            ".proj_out.": "proj_out",
        }
        part = next((what for mark, what in names.items() if mark in key), "other")
        squares[module][part] += float(tensor.float().square().sum())
        counts[module][part] += tensor.numel()
    return [
        PartNorms(name, {part: math.sqrt(squares[name][part] / n) for part, n in counts[name].items()})
        for name in weights.config.widths
    ]


def position_table(weights: ModuleWeights) -> tuple[torch.Tensor | None, float]:
    """The first table ``(frames, width)``, and the largest distance of any table from the sinusoids."""
    tables = [tensor[0].float() for key, tensor in weights.tensors.items() if key.endswith(POSITIONS)]
    if not tables:
        return None, 0.0
    far = max(float((table - sinusoidal_positions(*table.shape)[0]).abs().max()) for table in tables)
    return tables[0], far


def lora_norms(lora: LoraFile) -> dict[str, float]:
    """Frobenius norm of each layer's change at strength 1."""
    found = {}
    for name, layer in lora.layers.items():
        up, down = layer.up.flatten(1).double(), layer.down.flatten(1).double()
        scale = 1.0 if layer.alpha is None else layer.alpha / layer.rank
        # |U D|^2 = trace(U^T U D D^T): no product of the layer's size.
        square = float(((up.T @ up) * (down @ down.T).T).sum())
        found[name] = abs(scale) * math.sqrt(max(square, 0.0))
    return found


def block_of(layer: str, parts: int = 2) -> str:
    """The block that a layer is in: how its name begins; an underscored one, up to its first number."""
    if "." in layer:
        return ".".join(layer.split(".")[:parts])
    return re.match(r".*?_\d+(?=_|$)|.*", layer)[0]


def metadata_lines(metadata: Mapping[str, str]) -> list[str]:
    """A file's words, a line each, escaped and cut."""
    lines = [f"  {shown(key, 60)}: {shown(value)}" for key, value in sorted(metadata.items())]
    rest = len(lines) - MOST_WORDS
    return lines[:MOST_WORDS] + ([f"  and {rest} more"] if rest > 0 else [])


def describe_module(
    weights: ModuleWeights, metadata: Mapping[str, str], stored: torch.dtype | None = None
) -> list[str]:
    """The report about a motion module; ``stored`` is the type in its file, where it is held in another."""
    config, dtype = weights.config, str(stored or weights.dtype).removeprefix("torch.")
    values = sum(tensor.numel() for key, tensor in weights.tensors.items() if not key.endswith(POSITIONS))
    table, far = position_table(weights)
    lines = [
        f"{shown(weights.name)}: {config.describe()}",
        f"{values / 1e6:.1f} million weights in {dtype}, {config.num_heads} attention heads",
        f"module GroupNorm {config.module_groupnorm}, {config.norm_groups} groups",
    ]
    if table is not None:
        kind = "sinusoids, as released" if far < 2e-2 else f"trained, up to {far:.3g} off the sinusoids"
        lines.append(f"positions: {table.shape[0]} rows, {kind}")
    for part in parts_of(weights.controls):
        lines.append(f"steered by a picture: {NOTES[part].split(':')[0]}")
    lines.append("root mean square of the weights:")
    for one in norms(weights):
        lines.append(
            f"  {one.name} ({config.widths[one.name]}): "
            + ", ".join(f"{part} {value:.4f}" for part, value in one.parts.items())
        )
        if one.parts.get("proj_out") == 0.0:
            lines[-1] += " - does nothing"
    return [*lines, *_words(metadata)]


def describe_lora(lora: LoraFile) -> list[str]:
    """The report about a MotionLoRA or a domain adapter."""
    sizes = lora_norms(lora)
    ranks = sorted({layer.rank for layer in lora.layers.values()})
    kind = {"motion_lora": "MotionLoRA", "domain_adapter": "domain adapter or LoRA of the image model"}
    lines = [
        f"{shown(lora.name)}: {kind.get(lora.kind, lora.kind)}",
        f"{len(sizes)} layers of rank {', '.join(map(str, ranks))}, norm of the whole change "
        f"{math.sqrt(sum(size**2 for size in sizes.values())):.4g}",
    ]
    blocks: dict[str, float] = defaultdict(float)
    for name, size in sizes.items():
        blocks[block_of(name)] += size**2
    lines.append("norm of the change by block:")
    lines += [f"  {shown(name)}: {math.sqrt(square):.4g}" for name, square in blocks.items()]
    if lora.ignored:
        lines.append(f"{len(lora.ignored)} tensors of no known use, such as {shown(lora.ignored[0])}")
    return [*lines, *_words(lora.metadata)]


def _words(metadata: Mapping[str, str]) -> list[str]:
    losses = loss_curve.of_metadata(metadata)
    others = {key: value for key, value in metadata.items() if not losses or key != loss_curve.KEY}
    lines = [loss_curve.described(losses)] if losses else []
    return [*lines, *(["metadata:", *metadata_lines(others)] if others else ["no metadata"])]
