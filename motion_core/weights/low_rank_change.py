"""LoRA and whole weights: a LoRA put into the weights, and the LoRA that says how two modules differ.

Merging is ``W + strength * (alpha / rank) * up @ down``. Extracting is the best approximation of a given
rank (Eckart and Young 1936): of ``B - A = U S V^T`` the largest singular values are kept, the error is the
rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from ..files.lora import LoraFile, LoraLayer, left_out, match_layers, require_mergeable
from ..files.words import shown
from .module_weights import POSITIONS, ModuleWeights, linear_layers, require_same_layout

ATTENTION = (".to_q", ".to_k", ".to_v", ".to_out.0")
"""Ends of the layers that published MotionLoRAs change."""


def merge_lora(
    weights: ModuleWeights,
    lora: LoraFile,
    strength: float,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[ModuleWeights, str]:
    """Put a MotionLoRA into a module's weights.

    Returns:
        The module, in its type, and one line about it: how many layers, and what was left out.

    Raises:
        ValueError: nothing of it fits, a layer has another width, the strength is no number, or the result is
            larger than the weights can hold.
    """
    if not math.isfinite(strength):
        raise ValueError(f"The strength of a LoRA is a finite number, got {strength}.")
    known = linear_layers(weights)
    match = match_layers(lora, known)
    if not match.layers:
        raise ValueError(
            f"{lora.name} changes nothing in {weights.name}: none of its {len(lora.layers)} layers is there "
            f"(the first is {shown(next(iter(lora.layers)))}). Use a MotionLoRA for "
            f"{weights.config.describe()}."
        )
    tensors = dict(weights.tensors)
    for done, (name, layer) in enumerate(match.layers.items(), 1):
        up, down = layer.up.flatten(1), layer.down.flatten(1)
        if (up.shape[0], down.shape[1]) != known[name]:
            raise ValueError(
                f"{lora.name} does not fit {weights.name}: {shown(name)} is {up.shape[0]} x {down.shape[1]} "
                f"in the LoRA and {known[name][0]} x {known[name][1]} in the motion module. It was made for "
                "another base (SD1.5 and SDXL differ)."
            )
        old = tensors[f"{name}.weight"]
        require_mergeable(lora.name, name, layer, strength, torch.finfo(old.dtype).max)
        scale = strength * (1.0 if layer.alpha is None else layer.alpha / layer.rank)
        change = up.to(old.device, torch.float32) @ down.to(old.device, torch.float32)
        tensors[f"{name}.weight"] = (old.float() + scale * change).to(old.dtype)
        if progress is not None:
            progress(done, len(match.layers))
    line = f"{lora.name} at {strength:g}: {len(match.layers)} of {len(lora.layers)} layers"
    if match.unmatched:
        line += f"; {weights.name} has no place for the others, such as {shown(match.unmatched[0])}"
    line += left_out(lora.ignored)
    merged = ModuleWeights(f"{weights.name} + {lora.name}", weights.config, tensors, weights.controls)
    return merged, line


@dataclass(frozen=True)
class Extracted:
    """A LoRA out of two modules, and what it misses."""

    layers: Mapping[str, LoraLayer]
    """fp32, without alpha; layers that do not differ are not there."""
    error: float
    """``|B - A - up @ down| / |B - A|`` over the layers that were taken (Frobenius norms); 0 if all agree."""
    error_by_layer: Mapping[str, float]
    left: Mapping[str, float]
    """Norm of the difference of every tensor that differs and was not taken: norms, biases, positions, and
    linear layers that were not asked for."""
    whole: float
    """Norm of the difference of everything."""

    @property
    def share_left(self) -> float:
        """Part of the whole difference (its square) that lies in what was not taken."""
        return sum(norm**2 for norm in self.left.values()) / self.whole**2 if self.whole else 0.0


def extract_lora(
    base: ModuleWeights,
    tuned: ModuleWeights,
    rank: int,
    *,
    attention_only: bool = False,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Extracted:
    """The LoRA that turns one module into another, as well as a rank allows.

    Args:
        base: what the LoRA is to be used on.
        tuned: what it is to become.
        rank: of every layer, at most what the layer has.
        attention_only: leave the other linear layers, as published MotionLoRAs do.
        device: where singular values are computed.
        progress: is told how many of how many layers are done.

    Raises:
        ValueError: the layouts differ, or the rank is below 1.
    """
    if rank < 1:
        raise ValueError(f"The rank of a LoRA is at least 1, got {rank}.")
    require_same_layout(base, tuned)
    taken = [name for name in linear_layers(base) if not attention_only or name.endswith(ATTENTION)]
    layers, errors, left = {}, {}, {}
    square = tail = 0.0
    for done, name in enumerate(taken, 1):
        change = _difference(base, tuned, f"{name}.weight").to(device, torch.float32)
        if change.count_nonzero():
            u, s, vh = torch.linalg.svd(change, full_matrices=False)
            kept = min(rank, s.numel())
            root = s[:kept].sqrt()
            layers[name] = LoraLayer((u[:, :kept] * root).cpu(), (root[:, None] * vh[:kept]).cpu())
            squares = s.cpu().double().square()  # Apple's GPUs have no fp64
            square, tail = square + float(squares.sum()), tail + float(squares[kept:].sum())
            errors[name] = math.sqrt(float(squares[kept:].sum() / squares.sum()))
        if progress is not None:
            progress(done, len(taken))
    names = {f"{name}.weight" for name in taken}
    for key in base.tensors:
        if key in names:
            continue
        norm = float(_difference(base, tuned, key).norm())
        if norm:
            left[key] = norm
    for key in base.controls.keys() & tuned.controls.keys():
        norm = float((tuned.controls[key].double() - base.controls[key].double()).norm())
        if norm:
            left[key] = norm
    whole = math.sqrt(square + sum(norm**2 for norm in left.values()))
    return Extracted(layers, math.sqrt(tail / square) if square else 0.0, errors, left, whole)


def _difference(base: ModuleWeights, tuned: ModuleWeights, key: str) -> torch.Tensor:
    """In fp64; of position tables, the rows that both have."""
    first, second = base.tensors[key], tuned.tensors[key]
    if key.endswith(POSITIONS):
        rows = min(first.shape[-2], second.shape[-2])
        first, second = first[:, :rows], second[:, :rows]
    return second.to(first.device, torch.float64) - first.to(torch.float64)
