"""Between MOTION_MODULE and plain weights: what a patcher stands for, and a patcher of new weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import comfy.lora
import comfy.ops
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher

from ...motion_core.files.control_parts import split_weights
from ...motion_core.weights.module_weights import ModuleWeights, model_of
from ..compat import new_patcher
from ..types import LoadedMotionModule


def require_module(name: str, value: object) -> LoadedMotionModule:
    """What arrived at a MOTION_MODULE input.

    Raises:
        ValueError: another pack's object of the same type name.
    """
    if not hasattr(value, "load_again"):
        raise ValueError(
            f"The {name} input got a {type(value).__name__}. Connect Load Motion Module "
            "(FlipbookLoadMotionModule)."
        )
    return value


def weights_of_module(module: LoadedMotionModule) -> ModuleWeights:
    """A module's weights on the CPU with all its patches, whatever of them is loaded at the moment."""
    tensors: dict[str, torch.Tensor] = {}
    # ComfyUI's own question for merging: the weights as they were loaded, and the patches behind them.
    for key, (stored, *patches) in module.patcher.get_key_patches().items():
        weight, convert = stored
        value = convert(weight.detach().to("cpu", copy=True), inplace=True)
        if patches:
            wide = comfy.lora.calculate_weight(patches, value.float(), key)
            value = wide.to(value.dtype)
        if ".to_qkv." in key:
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                tensors[key.replace(".to_qkv.", f".to_{part}.")] = piece
        else:
            tensors[key] = value
    for name, layer in module.patcher.model.named_modules():
        if name.endswith(".pos_encoder"):
            tensors[f"{name}.pe"] = layer.pe.detach().to("cpu", torch.float32, copy=True)
    modules, parts = split_weights(module.patcher.model, tensors)
    return ModuleWeights(module.name, module.config, modules, parts)


def derived_module(make: Callable[[], ModuleWeights], metadata: Mapping[str, str]) -> LoadedMotionModule:
    """A MOTION_MODULE of weights that ``make`` computes; a second copy is computed again, not kept."""
    weights = make()
    patcher = _patcher(weights, make)
    return LoadedMotionModule(
        weights.name, weights.config, patcher, lambda: _patcher(make(), make), dict(metadata)
    )


def progress_bar() -> Callable[[int, int], None]:
    """ComfyUI's, moved by ``(done, total)``; it also is where a cancelled run stops."""
    bar = comfy.utils.ProgressBar(1)
    return lambda done, total: bar.update_absolute(done, total)


def _patcher(weights: ModuleWeights, make: Callable[[], ModuleWeights]) -> ModelPatcher:
    def load(disable_dynamic: bool = False) -> ModelPatcher:
        again = model_of(make(), operations=comfy.ops.manual_cast)
        return new_patcher(again, load, plain=disable_dynamic)

    return new_patcher(model_of(weights, operations=comfy.ops.manual_cast), load)
