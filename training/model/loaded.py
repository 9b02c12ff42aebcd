"""A base that ComfyUI has loaded already, for training inside of a running ComfyUI.

What is trained on is a copy of the UNet, so that the loaded one stays as it is, bit by bit, whatever becomes
of the run: layers are put into the copy, an adapter may be merged into it, and it is in the run's precision.
LoRAs and merges that lie on the model are in the copy's weights, by ComfyUI's own arithmetic.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...motion_core.files.checkpoint import control_state_dict, motion_state_dict
from ...motion_core.files.control_parts import add_control_parts
from ...motion_core.module.model import MotionModel

PREFIX = "diffusion_model."
"""Of the UNet's weights in a model of ComfyUI."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """What a graph hands over."""

    model: Any
    """ComfyUI's MODEL, not on the device: its weights without patches, which lie beside them."""
    clip: Any
    """CLIP."""
    vae: Any
    """VAE."""
    motion: MotionModel | None
    """A motion module to start from or to train on top of."""
    fingerprint: str
    """Of everything above, see :func:`fingerprint`."""
    licence: str = ""
    """The motion module's."""


def fingerprint(*parts: Any, pause: Callable[[], None] = lambda: None) -> str:
    """A hash of weights, patches and settings: of tensors, their names, and plain values in any nesting.
    ``pause`` is called at every tensor and may end it."""
    digest = hashlib.blake2b(digest_size=32)

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            pause()
            flat = value.detach().to("cpu", copy=True).contiguous().flatten()
            digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
            digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                digest.update(str(key).encode())
                add(value[key])
        elif isinstance(value, (list, tuple)):
            digest.update(f"[{len(value)}".encode())
            for item in value:
                add(item)
        elif hasattr(value, "weights"):  # ComfyUI's adapters
            digest.update(type(value).__name__.encode())
            add(value.weights)
        elif value is None or isinstance(value, (bool, int, float, str)):
            digest.update(repr(value).encode())
        else:  # functions that nobody can look into
            digest.update(f"{type(value).__name__}{id(value)}".encode())

    for part in parts:
        add(part)
    return digest.hexdigest()


def patched(patcher: Any) -> list[Any]:
    """Weights and patches of one of ComfyUI's patchers, for :func:`fingerprint`."""
    return [patcher.model.state_dict(), patcher.patches]


@torch.no_grad()
def copy_of_unet(model: Any, dtype: torch.dtype, device: torch.device, operations: Any) -> nn.Module:
    """The UNet of a MODEL with the patches on it, as a module of its own.

    Args:
        model: ComfyUI's patcher, not on the device.
        dtype: of the copy.
        device: of the copy.
        operations: where its layers come from.
    """
    import comfy.lora

    original = model.model.diffusion_model
    settings = dict(model.model.model_config.unet_config)
    settings.pop("disable_unet_model_creation", None)
    settings["dtype"] = dtype
    copy = type(original)(**settings, device="meta", operations=operations)
    found, names = {}, set(copy.state_dict())
    for key, ((weight, convert), *patches) in model.get_key_patches(PREFIX).items():
        name = key.removeprefix(PREFIX)
        if name not in names:
            continue  # scales of layers in 8 bit, which `convert` has taken into the weight
        value = convert(weight.to(device=device, dtype=torch.float32, copy=True), inplace=True)
        if patches:
            value = comfy.lora.calculate_weight(patches, value, key)
        found[name] = value.to(dtype)
    copy.load_state_dict(found, strict=True, assign=True)
    return copy


@torch.no_grad()
def copy_of_motion(model: MotionModel) -> MotionModel:
    """A motion module with weights of its own in fp32, q, k and v apart, as training wants it, and with its
    parts that steer by a picture."""
    copy = type(model)(model.config, fused_qkv=False, device="meta")
    weights = {name: weight.float().clone() for name, weight in motion_state_dict(model).items()}
    for name, module in copy.named_modules():
        if name.endswith(".pos_encoder"):
            module.pe = weights.pop(f"{name}.pe")
    copy.load_state_dict(weights, strict=True, assign=True)
    parts = {name: weight.float().clone() for name, weight in control_state_dict(model).items()}
    add_control_parts(copy, parts, dtype=torch.float32)
    return copy
