"""A motion module between two: ``W = (1 - w) * A + w * B``, with a ``w`` of its own for some blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch

from ..module.block_text import block_name
from ..module.config import MotionModuleConfig
from .module_weights import POSITIONS, ModuleWeights, require_same_layout

SAME_POSITIONS = 1e-3
"""Two position tables whose rows differ by less are one table, rounded."""


@dataclass(frozen=True)
class BlockWeight:
    """The second module's share in some of the modules."""

    block: str
    """By the beginning of their name: ``up_blocks``, ``down_blocks.0.motion_modules.1``."""
    weight: float

    def names(self, module: str) -> bool:
        """Whether a module, or a tensor of one, is meant."""
        return f"{module}.".startswith(f"{self.block}.")


def read_block_weights(text: str) -> tuple[BlockWeight, ...]:
    """Lines such as ``up_blocks.1: 0.3``; of two that name a module, the first counts.

    Raises:
        ValueError: names the line that cannot be read.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.split("#")[0].strip()
        if not line:
            continue
        name, colon, value = line.partition(":")
        try:
            weight = float(value)
            block = block_name(name.strip(), number, line)
        except ValueError:
            weight = math.nan
        if not colon or not 0.0 <= weight <= 1.0:
            shown = line if len(line) <= 60 and line.isprintable() else "not readable"
            raise ValueError(
                f"Line {number} of the blocks is `{shown}`; expected a block and the second module's share "
                "in it, 0 to 1, such as `up_blocks.1: 0.3`, `down_blocks.0.1: 0` or `mid_block: 1`."
            )
        found.append(BlockWeight(block, weight))
    return tuple(found)


def blend(
    one: ModuleWeights,
    other: ModuleWeights,
    weight: float,
    blocks: Iterable[BlockWeight] = (),
    progress: Callable[[int, int], None] | None = None,
) -> tuple[ModuleWeights, list[str]]:
    """Mix two modules of one layout.

    Args:
        one, other: the modules. Conventions (GroupNorms, noise schedule) are the first's.
        weight: share of the second, 0 .. 1; 0 is the first, 1 the second, exactly.
        blocks: shares for blocks of their own.
        progress: is told how many of how many tensors are done.

    Returns:
        The mixture, in the wider of both types, and a sentence for each thing that was decided.

    Raises:
        ValueError: the layouts differ, or position tables of two lengths hold different positions.
    """
    if not 0.0 <= weight <= 1.0:
        raise ValueError(f"The weight of a blend is 0 to 1, got {weight:g}.")
    require_same_layout(one, other)
    blocks = tuple(blocks)
    notes = _conventions(one, other)
    unknown = [each.block for each in blocks if not any(each.names(name) for name in one.config.widths)]
    if unknown:
        notes.append(f"There is no block {', '.join(unknown)} in these modules: its line does nothing.")
    dtype = torch.promote_types(one.dtype, other.dtype)
    tensors = {}
    for done, (key, first) in enumerate(one.tensors.items(), 1):
        share = next((each.weight for each in blocks if each.names(key)), weight)
        if key.endswith(POSITIONS):
            tensors[key] = _positions(one, other, key, share)
        else:
            tensors[key] = _mixed(first, other.tensors[key], share).to(dtype)
        if progress is not None:
            progress(done, len(one.tensors))
    config = _with_lengths(one.config, tensors)
    if config.pe_length < max(one.config.pe_length, other.config.pe_length):
        notes.append(f"Positions: the {config.pe_length} rows that both modules have.")
    controls = _controls(one, other, weight, notes)
    return ModuleWeights(f"{one.name} + {other.name}", config, tensors, controls), notes


def _controls(
    one: ModuleWeights, other: ModuleWeights, share: float, notes: list[str]
) -> dict[str, torch.Tensor]:
    """The first's parts that steer by a picture, mixed with the second's if these are alike."""
    shapes = [{key: part.shape for key, part in each.controls.items()} for each in (one, other)]
    if shapes[0] == shapes[1]:
        return {key: _mixed(part, other.controls[key], share).to(part) for key, part in one.controls.items()}
    whose = [f"{each.name} has {'one' if each.controls else 'none'}" for each in (one, other)]
    notes.append(f"The part that steers by a picture is the first's, for they differ: {', '.join(whose)}.")
    return dict(one.controls)


def _mixed(first: torch.Tensor, second: torch.Tensor, share: float) -> torch.Tensor:
    if share in (0.0, 1.0):  # exactly, whatever the types round
        return (second if share else first).clone()
    return torch.lerp(first.float(), second.to(first.device).float(), share)


def _positions(one: ModuleWeights, other: ModuleWeights, key: str, share: float) -> torch.Tensor:
    if key not in other.tensors:
        raise ValueError(f"{other.name} has no positions in {key.removesuffix(POSITIONS)}, {one.name} has.")
    first, second = one.tensors[key].float(), other.tensors[key].float()
    rows = min(first.shape[-2], second.shape[-2])
    if first.shape == second.shape:
        return _mixed(first, second, share)
    first, second = first[:, :rows], second[:, :rows]
    if float((first - second.to(first.device)).abs().max()) > SAME_POSITIONS:
        longer = max(one, other, key=lambda each: each.tensors[key].shape[-2])
        raise ValueError(
            f"{one.name} has positions for {one.config.pe_length} frames, {other.name} for "
            f"{other.config.pe_length}, and they do not agree where both have some: {longer.name} cannot be "
            "blended. Use two modules of one length."
        )
    return _mixed(first, second, share)


def _with_lengths(config: MotionModuleConfig, tensors: Mapping[str, torch.Tensor]) -> MotionModuleConfig:
    """The layout with the position tables as they are."""
    modules = []
    for name, shape in config.modules:
        own = [
            tensor.shape[-2]
            for key, tensor in tensors.items()
            if key.startswith(f"{name}.") and key.endswith(POSITIONS)
        ]
        modules.append((name, replace(shape, pe_length=min(own, default=shape.pe_length))))
    return replace(config, modules=tuple(modules))


def _conventions(one: ModuleWeights, other: ModuleWeights) -> list[str]:
    names = ("generation", "unet_groupnorm", "module_groupnorm", "beta_schedule")
    values = [(name, getattr(one.config, name), getattr(other.config, name)) for name in names]
    return [
        f"{name}: {first} of {one.name} counts, not {second} of {other.name}."
        for name, first, second in values
        if first != second
    ]
