"""Where motion modules sit in a UNet of ComfyUI: a slot after every (ResBlock, spatial transformer) pair.

Order in a block: ResBlock -> spatial transformer (if any) -> **motion module** -> down- or upsampler; in the
middle
block: ResBlock -> spatial transformer -> **motion module** -> ResBlock. Found by looking, not by counting, so
    that any
depth, width and number of blocks is served. Layers are known by the names of their classes (and base
classes), because this package does not import ComfyUI.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Slot:
    """One place for a motion module."""

    name: str
    """Name in AnimateDiff's files: ``down_blocks.0.motion_modules.0``."""
    block: nn.Sequential
    """The UNet block that holds the slot."""
    path: str
    """Path of the block in the UNet: ``input_blocks.1``."""
    after: str
    """Key, in the block, of the layer in front of the slot."""
    channels: int
    """Channels of the feature there."""
    attention: str | None
    """Field name of the spatial transformer in front, ``down_blocks.0.attentions.0``, if there is one."""
    attention_path: str | None
    """Its path in the UNet, ``input_blocks.1.1``."""


def is_kind(layer: nn.Module, kind: str) -> bool:
    """Whether a layer is of ComfyUI's class ``kind`` (``ResBlock``, ``SpatialTransformer``, ...) or derives
    from it."""
    return any(base.__name__ == kind for base in type(layer).__mro__)


def plain(module: nn.Module) -> nn.Module:
    """The module itself, or what torch.compile has wrapped."""
    return getattr(module, "_orig_mod", module)


def unet_slots(unet: nn.Module) -> tuple[Slot, ...]:
    """All slots of a ComfyUI ``UNetModel``, in the order in which a call passes them.

    Raises:
        ValueError: the model is no such UNet.
    """
    unet = plain(unet)
    if not all(hasattr(unet, part) for part in ("input_blocks", "middle_block")):
        raise ValueError(
            "Motion modules need a UNet with input, middle and output blocks (SD1.5 or SDXL), got "
            f"{type(unet).__name__}. Load an SD1.5 or SDXL checkpoint."
        )
    return (
        *_side(unet.input_blocks, "input_blocks", "down_blocks", "Downsample"),
        *_middle(unet.middle_block),
        # A ControlNet is the way down alone.
        *_side(getattr(unet, "output_blocks", ()), "output_blocks", "up_blocks", "Upsample"),
    )


def _side(blocks: nn.ModuleList, path: str, field: str, resampler: str) -> Iterator[Slot]:
    """Slots of the way down or up. A resampler ends a level."""
    level = index = transformers = 0
    for number, block in enumerate(blocks):
        block = plain(block)
        found = _last_of_pair(block)
        if found:
            key, layer, is_transformer = found
            yield Slot(
                name=f"{field}.{level}.motion_modules.{index}",
                block=block,
                path=f"{path}.{number}",
                after=key,
                channels=_channels(block),
                attention=f"{field}.{level}.attentions.{transformers}" if is_transformer else None,
                attention_path=f"{path}.{number}.{key}" if is_transformer else None,
            )
            index += 1
            transformers += int(is_transformer)
        if any(is_kind(layer, resampler) for layer in block.children()):
            level, index, transformers = level + 1, 0, 0


def _middle(block: nn.Module | None) -> Iterator[Slot]:
    """The slot in front of the middle block's second ResBlock."""
    if block is None:
        return
    block = plain(block)
    found = _last_of_pair(block)
    if found:
        key, _, is_transformer = found
        yield Slot(
            name="mid_block.motion_modules.0",
            block=block,
            path="middle_block",
            after=key,
            channels=_channels(block),
            attention="mid_block.attentions.0" if is_transformer else None,
            attention_path=f"middle_block.{key}" if is_transformer else None,
        )


def _last_of_pair(block: nn.Module) -> tuple[str, nn.Module, bool] | None:
    """``(key, layer, is a transformer)`` of the last spatial transformer, else of the first ResBlock."""
    first_resblock = last_transformer = None
    for key, layer in block.named_children():
        layer = plain(layer)
        if is_kind(layer, "SpatialTransformer"):
            last_transformer = (key, layer, True)
        elif is_kind(layer, "ResBlock") and first_resblock is None:
            first_resblock = (key, layer, False)
    return last_transformer or first_resblock


def _channels(block: nn.Module) -> int:
    """Channels after the block's first ResBlock."""
    return next(plain(layer).out_channels for layer in block.children() if is_kind(plain(layer), "ResBlock"))
