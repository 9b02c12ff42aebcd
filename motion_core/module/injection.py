"""Motion modules as layers of the UNet, for the duration of one call.

Between calls the UNet is untouched: no layer, no name and no number of it is other than the loader made it.
During a call the modules stand as extra entries in their blocks, without renaming a layer of the base;
whatever ends the call, they are taken out again, each by its own identity.

Calls may come from several threads. Those with motion modules wait for each other, UNet by UNet. A call
without any may run meanwhile: layers that are not its own let it through unchanged, and the tables that it
walks along are replaced, never changed under its feet.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from .call import MotionCall
from .config import base_of
from .layers import joint_group_norm
from .model import MotionModel, MotionModule
from .unet import Slot, is_kind, plain, unet_slots
from .values import rows_per_video

TURN = "animatediff_flipbook_turn"
"""Name of the UNet's attribute that holds the lock, while calls with motion modules run."""


class LayerOfOneCall(nn.Module):
    """A layer that works for one call: not for those of other threads, and no more when the call is over."""

    def __init__(self) -> None:
        super().__init__()
        # With gradients a checkpointed layer is run once more by a thread of autograd's.
        self._thread = None if torch.is_grad_enabled() else threading.get_ident()
        self.over = False

    def is_foreign(self) -> bool:
        """Whether it is somebody else who calls."""
        if self.over:
            return True
        # A compiler cannot look at threads, and need not: its call is this one.
        return (
            self._thread is not None
            and not torch.compiler.is_compiling()
            and self._thread != threading.get_ident()
        )


class MotionLayer(LayerOfOneCall):
    """A motion module with what this call asks of it: the UNet calls its layers with the feature alone."""

    def __init__(self, module: MotionModule, call: MotionCall, feature: torch.Tensor | None = None) -> None:
        super().__init__()
        self.module = module
        self.call = call
        self.feature = feature

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.is_foreign():
            return x
        if self.feature is not None:
            x = with_feature(x, self.feature, self.call.frames)
        return self.module(x, self.call)


class JointGroupNorm(LayerOfOneCall):
    """A GroupNorm of the base, with statistics over all frames of a video (AnimateDiff v1)."""

    def __init__(self, norm: nn.GroupNorm, frames: int) -> None:
        super().__init__()
        # The norm's weights keep their names: they are shown as this layer's own, the norm is no child.
        for name, parameter in norm.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        object.__setattr__(self, "norm", norm)
        self.frames = frames

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x) if self.is_foreign() else joint_group_norm(self.norm, x, self.frames)


@contextmanager
def inserted(unet: nn.Module, motions: Sequence[tuple[MotionModel, MotionCall]]) -> Iterator[None]:
    """Run the UNet with motion modules in it.

    Args:
        unet: ComfyUI's ``UNetModel``, bare or compiled.
        motions: motion models with their calls; several run one after the other in each slot, in this order.

    Raises:
        ValueError: a motion model does not fit the UNet, or two models disagree about the number of frames.
    """
    # effect 0 is a skip, not a blend: nothing is inserted and no norm is changed.
    motions = [(motion, call) for motion, call in motions if not call.is_off]
    if not motions:
        yield
        return
    slots = {slot.name: slot for slot in unet_slots(unet)}
    frames = {call.frames for _, call in motions}
    if len(frames) != 1:
        raise ValueError(
            f"Motion models of one call must agree on the number of frames, got {sorted(frames)}."
        )
    with ExitStack() as stack:
        stack.enter_context(_turn_on(plain(unet)))
        if any(motion.config.unet_groupnorm == "joint" for motion, _ in motions):
            for container, key in resblock_norms(unet):
                stack.enter_context(_replaced(container, key, frames.copy().pop()))
        # Each goes directly behind the slot's layer, so the last one entered would run first: enter in
        # reverse.
        for motion, call in reversed(motions):
            check_fit(motion, slots)
            for name, module in motion.motion_modules():
                layer = MotionLayer(module, call.for_module(name), call.features.get(name))
                slot = slots[name]
                stack.enter_context(entered(slot.block, slot.after, layer))
        yield


def with_feature(x: torch.Tensor, feature: torch.Tensor, frames: int) -> torch.Tensor:
    """Add a feature ``(F or B*F, C, H, W)`` to a UNet feature of all videos, ``(B*F, C, H, W)``.

    Raises:
        ValueError: it is of another size.
    """
    if feature.shape[1:] != x.shape[1:]:
        raise ValueError(
            f"A reference has features of {tuple(feature.shape[1:])}, the clip of {tuple(x.shape[1:])}. "
            "Encode the reference at the size of the clip."
        )
    rows = rows_per_video(feature.to(x), x.shape[0] // frames, frames)
    return (x.unflatten(0, (-1, frames)) + rows).flatten(0, 1)


def check_fit(motion: MotionModel, slots: Mapping[str, Slot], name: str = "The motion module") -> None:
    """Refuse a motion model whose modules do not sit where this UNet has slots of their width.

    Raises:
        ValueError: names the first module that does not fit and what to pick instead.
    """
    widths = {name: slot.channels for name, slot in slots.items()}
    if all(widths.get(name) == width for name, width in motion.config.widths.items()):
        return
    place, width = next((n, w) for n, w in motion.config.widths.items() if widths.get(n) != w)
    there = f"{widths[place]} channels" if place in widths else "no such place"
    raise ValueError(
        f"{name} does not fit the base model: it is a motion module for "
        f"{_title(motion.config.widths.items())}, the base is {_title(widths.items())} ({place} has {width} "
        f"channels in the one, {there} in the other). Pick a motion module made for this base, or a "
        "checkpoint made for this module."
    )


def resblock_norms(unet: nn.Module) -> Iterator[tuple[nn.Sequential, str]]:
    """``(container, key)`` of every ResBlock norm and the output norm: those that AnimateDiff v1 inflates."""
    unet = plain(unet)
    for layer in unet.modules():
        if is_kind(layer, "ResBlock"):
            yield layer.in_layers, "0"
            yield layer.out_layers, "0"
    yield unet.out, "0"


class _Turn:
    """Whose turn it is on a UNet. A thread may take several: calls within calls."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.holders = 0


@contextmanager
def _turn_on(unet: nn.Module) -> Iterator[None]:
    """Wait until no other thread has motion modules in this UNet.

    The lock is the UNet's own attribute, as nothing else is known to all calls that share it, and goes with
    the last of them.
    """
    attributes = vars(unet)
    while True:
        turn = attributes.setdefault(TURN, _Turn())
        turn.lock.acquire()
        if attributes.get(TURN) is turn:
            break
        turn.lock.release()  # taken away by its last holder meanwhile
    turn.holders += 1
    try:
        yield
    finally:
        turn.holders -= 1
        if not turn.holders:
            del attributes[TURN]
        turn.lock.release()


@contextmanager
def entered(block: nn.Sequential, after: str, layer: LayerOfOneCall) -> Iterator[None]:
    """Put a layer behind that of key ``after`` in a block, under a key that no layer of the base has."""
    key = next(k for k in (f"motion_{n}" for n in range(len(block._modules) + 1)) if k not in block._modules)
    # A Sequential runs its entries in dictionary order: the base keeps its keys, only the order is new.
    order = []
    for k, entry in block._modules.items():
        order += [(k, entry), (key, layer)] if k == after else [(k, entry)]
    block._modules = type(block._modules)(order)
    try:
        yield
    finally:
        layer.over = True
        block._modules = type(block._modules)((k, e) for k, e in block._modules.items() if e is not layer)


@contextmanager
def _replaced(container: nn.Sequential, key: str, frames: int) -> Iterator[None]:
    """Give one norm joint statistics."""
    layer = JointGroupNorm(container._modules[key], frames)
    container._modules[key] = layer
    try:
        yield
    finally:
        layer.over = True
        above = container._modules.get(key)
        if above is layer:
            container._modules[key] = layer.norm
        else:
            # A later call's layer stands on this one; what another pack has put there stays.
            while isinstance(above, JointGroupNorm):
                if above.norm is layer:
                    object.__setattr__(above, "norm", layer.norm)
                above = above.norm


def _title(widths: object) -> str:
    """The base family in words, with its widths where it has no name."""
    pairs = list(widths)
    base = base_of(pairs)
    if base != "custom":
        return {"sd15": "SD1.5", "sdxl": "SDXL"}[base]
    down = [width for name, width in pairs if name.startswith("down_blocks.")]
    return f"a UNet of widths {'/'.join(map(str, dict.fromkeys(down)))}"
