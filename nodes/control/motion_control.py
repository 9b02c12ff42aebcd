"""Controls of a motion module: what steers its frames by a picture or a camera.

A MOTION_CONTROL is a tuple of controls, put together through the nodes' `previous` inputs and handed to Apply
Motion Module, which asks each of them: does it fit, what is to be done when a run begins, and what it has to
say to a model call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import nn

from ...motion_core.control.pia import with_reference
from ...motion_core.files.control_parts import NOTES
from ...motion_core.module.call import MotionCall
from ..compat import follow_device, logger
from ..types import LoadedMotionModule
from .control_run import ControlCall, ControlRun, run_of

MotionControl = io.Custom("MOTION_CONTROL")
NETWORKS = "animatediff_flipbook_control"
"""Under which a motion model's patcher holds the networks of its controls: they are loaded with it."""


class Network(Protocol):
    """A network with weights of its own, in ComfyUI's memory management."""

    patcher: ModelPatcher

    def load_again(self) -> ModelPatcher:
        """A second copy of the weights."""


class Control:
    """What a control may do; most do some of it."""

    title: str
    """The node's name."""
    part: str | None = None
    """The part of the motion module's file that it works with."""

    @property
    def network(self) -> Network | None:
        """Its network, if it has one."""
        return None

    def check(self, module: LoadedMotionModule, model: ModelPatcher) -> str:
        """A line for the node.

        Raises:
            ValueError: it does not fit the motion module or the base.
        """
        raise NotImplementedError

    def begin(self, run: ControlRun) -> None:
        """Do what must be done before the models are loaded, and say what is left out."""

    def tell(self, call: MotionCall, motion: ModelPatcher, place: ControlCall) -> MotionCall:
        """A call of the motion module with what this control asks of it."""
        return call

    def added_input(self, motion: ModelPatcher, place: ControlCall) -> tuple[nn.Module, torch.Tensor] | None:
        """Layer and channels for the UNet's input."""
        return None


def control_input() -> io.Input:
    """The socket by which controls are put together."""
    return MotionControl.Input(
        "previous", optional=True, tooltip="Another kind of control to combine with this one."
    )


def chosen_controls(value: object, name: str = "motion_control") -> tuple[Control, ...]:
    """What arrived at a MOTION_CONTROL input.

    Raises:
        ValueError: another pack's object, or two controls of one kind.
    """
    if value is None:
        return ()
    if not isinstance(value, tuple) or not all(isinstance(one, Control) for one in value):
        raise ValueError(
            f"The {name} input got a {type(value).__name__} of another pack. Connect PIA Reference, Image "
            "Reference or Camera Control."
        )
    titles = [one.title for one in value]
    if len(set(titles)) < len(titles):
        twice = next(title for title in titles if titles.count(title) > 1)
        raise ValueError(
            f"There are two of {twice} in a row, and a motion module takes one. Take one away; cameras are "
            "put together as poses (`previous` of Camera Poses)."
        )
    return value


def attach_controls(
    controls: Sequence[Control],
    model: ModelPatcher,
    patcher: ModelPatcher,
    module: LoadedMotionModule,
    present: Sequence[ModelPatcher],
) -> list[str]:
    """Give the networks of controls to a motion model's patcher.

    Args:
        controls: in their order.
        model: the MODEL that the motion module is put on.
        patcher: the motion module's own on that MODEL.
        module: what was loaded.
        present: motion modules on the MODEL already.

    Returns:
        Lines for the node.

    Raises:
        ValueError: a control does not fit.
    """
    lines = [one.check(module, model) for one in controls]
    used = {one.part for one in controls}
    for part, note in NOTES.items():
        if hasattr(patcher.model, part) and part not in used:
            lines.append(note)
            logger.info("%s: %s", module.name, note)
    loaded = [one for motion in present for one in motion.get_additional_models_with_key(NETWORKS)]
    networks = []
    for network in (one.network for one in controls if one.network is not None):
        own = network.patcher.clone()
        elsewhere = own.load_device != model.load_device
        if elsewhere or any(other.is_clone(own) for other in loaded):
            own = network.load_again()
        if elsewhere:
            follow_device(own, model)
        networks.append(own)
    if networks:
        patcher.set_additional_models(NETWORKS, networks)
    return lines


def begin_controls(guider: Any, noise: torch.Tensor, chains: Sequence[tuple[Control, ...]]) -> None:
    """When a run begins: give each of its controls time to prepare.

    Args:
        guider: ComfyUI's, within a run.
        noise: ``(F, C, H, W)``.
        chains: the controls of each motion module.
    """
    for control in dict.fromkeys(control for chain in chains for control in chain):
        run = run_of(guider, noise)
        run.kept((control, "begun"), lambda control=control, run=run: control.begin(run))


def with_controls(
    call: MotionCall, controls: Sequence[Control], motion: ModelPatcher, place: ControlCall
) -> MotionCall:
    """A call of a motion module with all that its controls ask of it."""
    for control in controls:
        call = control.tell(call, motion, place)
    return call


def added_inputs(
    controls: Sequence[Control], motion: ModelPatcher, place: ControlCall
) -> list[tuple[nn.Module, torch.Tensor]]:
    """What the controls of a motion module add to the UNet's input."""
    found = [control.added_input(motion, place) for control in controls]
    return [one for one in found if one is not None]


@contextmanager
def with_inputs(unet: nn.Module, inputs: Sequence[tuple[nn.Module, torch.Tensor]]) -> Iterator[None]:
    """Run the UNet with additions to its input; within :func:`~motion_core.module.injection.inserted`."""
    with ExitStack() as stack:
        for layer, channels in inputs:
            stack.enter_context(with_reference(unet, layer, channels))
        yield
