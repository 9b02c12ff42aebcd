"""MotionLoRA as weight patches of the motion model: low-rank in memory, merged and unmerged by ComfyUI."""

from __future__ import annotations

import logging

import comfy.lora
import torch
from comfy.model_patcher import ModelPatcher

from ...motion_core.files.lora import LoraLayer, LoraTarget, lora_targets, match_layers, require_mergeable
from ...motion_core.files.words import shown
from ..compat import logger
from ..types import ChosenLora, LoadedMotionModule


def patch_motion_lora(patcher: ModelPatcher, chosen: ChosenLora, module: LoadedMotionModule) -> str:
    """Add one MotionLoRA to a motion model's patcher.

    Returns:
        One line for the user: how many layers it changes, and what was left out.

    Raises:
        ValueError: nothing of the file fits, or a layer has another width.
    """
    lora = chosen.lora
    targets = lora_targets(patcher.model)
    match = match_layers(lora, targets)
    if not match.layers:
        raise ValueError(
            f"{lora.name} changes nothing in {module.name}: none of its {len(lora.layers)} layers is there "
            f"(the first is {shown(next(iter(lora.layers)))}). Use a MotionLoRA for "
            f"{module.config.describe()}."
        )
    patches = {}
    largest = torch.finfo(next(patcher.model.parameters()).dtype).max
    for name, layer in match.layers.items():
        target = targets[name]
        _require_shape(lora.name, name, layer, target, module)
        require_mergeable(lora.name, name, layer, chosen.strength, largest)
        key = target.key if target.rows is None else (target.key, (0, *target.rows))
        patches[key] = comfy_adapter(name, layer)
    patcher.add_patches(patches, chosen.strength)
    line = f"{lora.name} at {chosen.strength:g}: {len(match.layers)} of {len(lora.layers)} layers"
    line += left_out(lora.ignored)
    if match.unmatched:
        mid = sum(name.startswith("mid_block.") for name in match.unmatched)
        line += (
            f"; {mid} are for a mid block, which {module.name} has not: made for a v2 module"
            if mid == len(match.unmatched)
            else f"; {module.name} has no place for the others, such as {shown(match.unmatched[0])}"
        )
    logger.log(logging.WARNING if match.unmatched or lora.ignored else logging.INFO, "MotionLoRA %s", line)
    return line


def left_out(keys: tuple[str, ...]) -> str:
    """The end of a line about a LoRA: what in its file is no pair of factors."""
    return f"; {len(keys)} tensors of no known use were left out, such as {shown(keys[0])}" if keys else ""


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
