"""A motion module's weights by the names of the original's files, apart from any model that holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..files.checkpoint import control_state_dict, motion_state_dict
from ..files.control_parts import add_control_parts
from ..module.config import MotionModuleConfig
from ..module.model import MotionModel

POSITIONS = ".pos_encoder.pe"
"""End of the name of a position table."""


@dataclass(frozen=True)
class ModuleWeights:
    """A motion module as numbers."""

    name: str
    """For messages."""
    config: MotionModuleConfig
    tensors: Mapping[str, torch.Tensor]
    """By the original's names, q, k and v apart, one position table per attention."""
    controls: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Of parts that steer the modules by a picture (:mod:`motion_core.files.control_parts`)."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights; position tables are fp32."""
        return next(tensor.dtype for key, tensor in self.tensors.items() if not key.endswith(POSITIONS))


def weights_of(name: str, model: MotionModel) -> ModuleWeights:
    """The weights that a model holds, not copied."""
    return ModuleWeights(name, model.config, motion_state_dict(model), control_state_dict(model))


def model_of(weights: ModuleWeights, *, operations: Any = nn, fused_qkv: bool = True) -> MotionModel:
    """A model that holds these weights; they are copied only where q, k and v become one."""
    left = dict(weights.tensors)
    model = MotionModel(
        weights.config, operations=operations, dtype=weights.dtype, device="meta", fused_qkv=fused_qkv
    )
    for name, layer in list(model.named_modules()):
        if name.endswith(".pos_encoder"):
            layer.pe = left[f"{name}.pe"].to(torch.float32)
            continue
        own = {}
        for parameter, _ in layer.named_parameters(recurse=False):
            key = f"{name}.{parameter}"
            if name.endswith(".to_qkv"):
                parts = [left.pop(key.replace(".to_qkv.", f".to_{part}.")) for part in "qkv"]
                own[parameter] = torch.cat(parts)
            else:
                own[parameter] = left.pop(key)
        if own:
            layer.load_state_dict(own, strict=True, assign=True)
    add_control_parts(model, weights.controls, operations=operations, dtype=weights.dtype)
    return model.requires_grad_(False).eval()


def linear_layers(weights: ModuleWeights) -> dict[str, tuple[int, int]]:
    """``layer -> (out, in)`` of every layer that a LoRA can change; its weight is ``layer.weight``."""
    return {
        key.removesuffix(".weight"): tuple(tensor.shape)
        for key, tensor in weights.tensors.items()
        if key.endswith(".weight") and tensor.ndim == 2
    }


def require_same_layout(one: ModuleWeights, other: ModuleWeights) -> None:
    """Refuse modules whose weights do not correspond; lengths of position tables are not looked at.

    Raises:
        ValueError: names the first difference.
    """
    for key, tensor in one.tensors.items():
        if key.endswith(POSITIONS):
            continue
        if key not in other.tensors:
            raise _differ(one, other, f"{key} is in {one.name} only")
        if other.tensors[key].shape != tensor.shape:
            shapes = [" x ".join(map(str, each.shape)) for each in (tensor, other.tensors[key])]
            raise _differ(one, other, f"{key} is {shapes[0]} in the first and {shapes[1]} in the second")
    for key in other.tensors:
        if not key.endswith(POSITIONS) and key not in one.tensors:
            raise _differ(one, other, f"{key} is in {other.name} only")
    for name, what in (("num_heads", "attention heads"), ("norm_groups", "norm groups")):
        numbers = [getattr(each.config, name) for each in (one, other)]
        if numbers[0] != numbers[1]:
            raise _differ(one, other, f"the first has {numbers[0]} {what}, the second {numbers[1]}")


def _differ(one: ModuleWeights, other: ModuleWeights, why: str) -> ValueError:
    return ValueError(
        f"{one.name} and {other.name} are of different layouts: {why}. Use two modules of one family: "
        f"{one.config.describe()}; {other.config.describe()}."
    )
