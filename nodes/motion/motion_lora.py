"""MotionLoRA: as weight patches of the motion model, merged and unmerged by ComfyUI; or, where its strength
changes over the steps or frames, as layers beside the model's."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import comfy.lora
import comfy.ops
import torch
from comfy.model_patcher import ModelPatcher

from ...motion_core.files.lora import (
    LoraLayer,
    LoraTarget,
    left_out,
    lora_targets,
    match_layers,
    require_mergeable,
)
from ...motion_core.files.words import shown
from ...motion_core.module.low_rank import LowRank
from ...motion_core.module.values import is_number
from ..compat import logger, new_patcher
from ..types import ChosenLora, LoadedMotionModule


def patch_motion_lora(patcher: ModelPatcher, chosen: ChosenLora, module: LoadedMotionModule) -> str:
    """Add one MotionLoRA, of one strength, to a motion model's patcher.

    Returns:
        One line for the user: how many layers it changes, and what was left out.

    Raises:
        ValueError: nothing of the file fits, or a layer has another width.
    """
    layers, line = _fitting(patcher, chosen, module)
    patches = {}
    for name, (target, layer) in layers.items():
        key = target.key if target.rows is None else (target.key, (0, *target.rows))
        patches[key] = comfy_adapter(name, layer)
    patcher.add_patches(patches, chosen.strength)
    return line


def load_beside(
    chosen: Sequence[ChosenLora], patcher: ModelPatcher, module: LoadedMotionModule
) -> tuple[ModelPatcher, list[str]]:
    """MotionLoRAs as layers beside those of a motion model, for strengths that change.

    Returns:
        Their patcher, and a line for each as of :func:`patch_motion_lora`.

    Raises:
        ValueError: as :func:`patch_motion_lora`.
    """
    lines, entries = [], []
    for number, one in enumerate(chosen):
        layers, line = _fitting(patcher, one, module)
        lines.append(line)
        entries += [(number, target, layer) for target, layer in layers.values()]
    dtype = next(patcher.model.parameters()).dtype

    def load(disable_dynamic: bool = False) -> ModelPatcher:
        return new_patcher(LorasBeside(entries, dtype), load, plain=disable_dynamic)

    return load(), lines


class LorasBeside(torch.nn.Module):
    """MotionLoRAs of one motion model that are not in its weights.

    Args:
        entries: number of the LoRA, its target in the motion model, and the factors.
        dtype: of the weights.
    """

    def __init__(self, entries: Sequence[tuple[int, LoraTarget, LoraLayer]], dtype: torch.dtype) -> None:
        super().__init__()
        self.names = tuple(target.key.removesuffix(".weight") for _, target, _ in entries)
        self.layers = torch.nn.ModuleList()
        for number, target, layer in entries:
            scale = 1.0 if layer.alpha is None else layer.alpha / layer.rank
            up, down = layer.up.flatten(1) * scale, layer.down.flatten(1)
            self.layers.append(LowRank(number, down, up, target.rows, comfy.ops.manual_cast, dtype))

    def by_layer(self, model: torch.nn.Module) -> dict[torch.nn.Module, tuple[LowRank, ...]]:
        """What stands beside each layer of a motion model."""
        found: dict[torch.nn.Module, tuple[LowRank, ...]] = {}
        for name, beside in zip(self.names, self.layers, strict=True):
            layer = model.get_submodule(name)
            found[layer] = (*found.get(layer, ()), beside)
        return found


def _fitting(
    patcher: ModelPatcher, chosen: ChosenLora, module: LoadedMotionModule
) -> tuple[dict[str, tuple[LoraTarget, LoraLayer]], str]:
    """The layers of a MotionLoRA that a motion model has, and a line about it."""
    lora = chosen.lora
    targets = lora_targets(patcher.model)
    match = match_layers(lora, targets)
    if not match.layers:
        raise ValueError(
            f"{lora.name} changes nothing in {module.name}: none of its {len(lora.layers)} layers is there "
            f"(the first is {shown(next(iter(lora.layers)))}). Use a MotionLoRA for "
            f"{module.config.describe()}."
        )
    largest = torch.finfo(next(patcher.model.parameters()).dtype).max
    strengths = [chosen.strength] if is_number(chosen.strength) else chosen.strength.flatten().tolist()
    strongest = max(strengths, key=abs)
    for name, layer in match.layers.items():
        _require_shape(lora.name, name, layer, targets[name], module)
        require_mergeable(lora.name, name, layer, strongest, largest)
    words = f"{min(strengths):g}" if len(strengths) == 1 else f"{min(strengths):g} to {max(strengths):g}"
    line = f"{lora.name} at {words}: {len(match.layers)} of {len(lora.layers)} layers"
    line += left_out(lora.ignored)
    if match.unmatched:
        mid = sum(name.startswith("mid_block.") for name in match.unmatched)
        line += (
            f"; {mid} are for a mid block, which {module.name} has not: made for a v2 module"
            if mid == len(match.unmatched)
            else f"; {module.name} has no place for the others, such as {shown(match.unmatched[0])}"
        )
    logger.log(logging.WARNING if match.unmatched or lora.ignored else logging.INFO, "MotionLoRA %s", line)
    return {name: (targets[name], layer) for name, layer in match.layers.items()}, line


def comfy_adapter(name: str, layer: LoraLayer) -> object:
    """A layer's factors in the form that ComfyUI's patcher takes."""
    tensors = {f"{name}.lora_up.weight": layer.up, f"{name}.lora_down.weight": layer.down}
    if layer.alpha is not None:
        tensors[f"{name}.alpha"] = torch.tensor(layer.alpha)
    return comfy.lora.load_lora(tensors, {name: name}, log_missing=False)[name]


def _require_shape(
    file: str, name: str, layer: LoraLayer, target: LoraTarget, module: LoadedMotionModule
) -> None:
    got = (layer.up.shape[0], layer.down.shape[1])
    if got != target.shape:
        raise ValueError(
            f"{file} does not fit {module.name}: {shown(name)} is {got[0]} x {got[1]} in the MotionLoRA and "
            f"{target.shape[0]} x {target.shape[1]} in the motion module. It was made for another base "
            f"(SD1.5 and SDXL differ); use one for {module.config.describe()}."
        )
