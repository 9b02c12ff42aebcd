"""What a motion module file holds beside its modules to steer them by a picture: PIA's input convolution and
AnimateLCM-I2V's image encoder.

They become submodules of the motion model, so that they are loaded, moved and freed with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from ..control.image_encoder import PREFIX, encoder_for
from ..control.pia import ADDED_CHANNELS, LATENT_CHANNELS, input_layer, whole_convolution
from ..module.model import MotionModel
from .tensor_file import TensorFile
from .weights import computable, require_finite, require_floats

PIA_INPUT, IMAGE_ENCODER = "pia_input", "img_encoder"
"""Names of the parts on a motion model."""
CONVOLUTION = "conv_in.weight"

NOTES = {
    PIA_INPUT: "PIA: connect PIA Reference to `motion_control` of Apply Motion Module to animate a picture. "
    "Without it, it animates the prompt.",
    IMAGE_ENCODER: "AnimateLCM-I2V: connect Image Reference to `motion_control` of Apply Motion Module to "
    "animate a picture. Without it, it animates the prompt.",
}
"""What a user is told of a part."""


def control_keys(shapes: Mapping[str, tuple[int, ...]], start: str) -> dict[str, str]:
    """Own name -> key in the file, of the weights of either part.

    Args:
        shapes: of all tensors of the file.
        start: what stands before the names of the motion modules.
    """
    pia, encoder = {}, {}
    for key, shape in shapes.items():
        if match := re.search(rf"(?:^|\.)({re.escape(PREFIX)}(?:conv_in|body)\..+)$", key):
            encoder[match[1]] = key
        elif key in (CONVOLUTION, start + CONVOLUTION) and shape[1:2] == (LATENT_CHANNELS + ADDED_CHANNELS,):
            pia[CONVOLUTION] = key
    return pia | (encoder if f"{PREFIX}conv_in.weight" in encoder else {})


def parts_of(names: Iterable[str]) -> list[str]:
    """The parts that weights belong to."""
    names = set(names)
    found = {PIA_INPUT: CONVOLUTION in names, IMAGE_ENCODER: f"{PREFIX}conv_in.weight" in names}
    return [part for part, is_there in found.items() if is_there]


def load_control_parts(
    model: MotionModel,
    source: TensorFile,
    keys: Mapping[str, str],
    *,
    operations: Any = nn,
    dtype: torch.dtype | None = None,
) -> None:
    """Add the parts that a file has to its motion model.

    Args:
        model: gets a submodule ``pia_input``, ``img_encoder``, or none.
        source, keys: the file, and the result of :func:`control_keys`.
        operations: where layers come from.
        dtype: of the weights.

    Raises:
        ValueError: a part is incomplete or its weights are none.
    """
    state = read_weights(source, keys, dtype) if parts_of(keys) else {}
    try:
        add_control_parts(model, state, operations=operations, dtype=dtype)
    except ValueError as error:
        raise ValueError(f"{source.name} cannot be used. {error}") from error


def add_control_parts(
    model: MotionModel,
    state: Mapping[str, torch.Tensor],
    *,
    operations: Any = nn,
    dtype: torch.dtype | None = None,
) -> None:
    """Add the parts that weights are of to a motion model; their names are those of :func:`control_keys`.

    Raises:
        ValueError: a part is incomplete.
    """
    parts = parts_of(state)
    if PIA_INPUT in parts:
        model.add_module(PIA_INPUT, input_layer(state[CONVOLUTION], operations=operations, dtype=dtype))
    if IMAGE_ENCODER in parts:
        encoder = encoder_for(state, operations=operations, dtype=dtype)
        model.add_module(IMAGE_ENCODER, encoder.requires_grad_(False))


def take_control_parts(model: MotionModel) -> dict[str, torch.Tensor]:
    """Remove a model's parts; returns their weights by the names of :func:`control_keys`, none: empty."""
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    state = split_weights(model, weights)[1]
    for part in parts_of(state):
        delattr(model, part)
    return state


def split_weights(
    model: MotionModel, weights: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A motion model's weights by its own names -> those of its modules, and those of its parts by the names
    of :func:`control_keys`."""
    modules, parts = {}, {}
    for name, weight in weights.items():
        if name == f"{PIA_INPUT}.weight":
            parts[CONVOLUTION] = whole_convolution(model.get_submodule(PIA_INPUT), weight)
        elif name.startswith(PREFIX):
            parts[name] = weight
        else:
            modules[name] = weight
    return modules, parts


def read_weights(
    source: TensorFile, keys: Mapping[str, str], dtype: torch.dtype | None = None
) -> dict[str, torch.Tensor]:
    """Copies of tensors under names of their own, checked to be weights.

    Raises:
        ValueError: integers, infinite values and the like.
    """
    names = {key: name for name, key in keys.items()}
    state = {}
    for key, tensor in source.read(names):
        require_floats(source.name, key, tensor.dtype)
        converted = computable(tensor).to(dtype=dtype, copy=True)
        require_finite(source.name, key, tensor, converted)
        state[names[key]] = converted
    return state
