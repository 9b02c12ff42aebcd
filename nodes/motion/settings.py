"""What a motion module on a model was told: one frozen dataclass, the only place where it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from comfy.model_patcher import ModelPatcher

from ...motion_core.files.lora import lora_targets
from ...motion_core.module.call import BlockValues
from ...motion_core.module.positions import PositionStretch
from ...motion_core.module.values import Value
from ...motion_core.schedule.keyframes import KeyframeSchedule
from ..control.motion_control import Control
from .noise_schedule import ChosenSchedule

FACTORS = ("all_weights", "q", "k", "v", "out", "feed_forward")
"""Groups of weights that Motion Settings knows."""
ROLES = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out": "out", "ff": "feed_forward"}
"""Part of a layer's name -> its group."""


@dataclass(frozen=True)
class ModuleSettings:
    """A MOTION_SETTINGS: how a module's parts are used."""

    stretch: PositionStretch | None = None
    position_factor: float = 1.0
    factors: Mapping[str, float] = field(default_factory=dict)
    """Factor on each group of weights; 1 where there is none."""
    blocks: tuple[BlockValues, ...] = ()

    def behind(self, before: ModuleSettings) -> ModuleSettings:
        """Both together: factors are multiplied; where two blocks name a module, these here count.

        Raises:
            ValueError: both stretch the positions.
        """
        if self.stretch is not None and before.stretch is not None:
            raise ValueError(
                "Two Motion Settings in a row stretch the positions. Set `stretch_rows`, `stretch_by` and "
                "`first_position` in one of them."
            )
        names = {*self.factors, *before.factors}
        return ModuleSettings(
            self.stretch or before.stretch,
            self.position_factor * before.position_factor,
            {name: self.factors.get(name, 1.0) * before.factors.get(name, 1.0) for name in names},
            (*self.blocks, *before.blocks),
        )

    @property
    def only_blocks(self) -> bool:
        """Whether nothing but values by block is set."""
        return replace(self, blocks=()) == ModuleSettings()


@dataclass(frozen=True)
class AppliedMotion:
    """What Apply Motion Module was told; one per motion module on the model, in the order of application."""

    name: str
    scale: Value
    effect: Value
    start_percent: float
    end_percent: float
    schedule: ChosenSchedule | None = None
    """The noise schedule that the node has set; None if it has left the model's."""
    module: ModuleSettings = field(default_factory=ModuleSettings)
    keyframes: KeyframeSchedule | None = None
    lora_strengths: tuple[Value, ...] = ()
    """Of MotionLoRAs that stand beside the weights, since their strength changes; the others are in them."""
    controls: tuple[Control, ...] = ()
    """What steers the frames by a picture or a camera."""


def patch_factors(patcher: ModelPatcher, factors: Mapping[str, float]) -> None:
    """Multiply groups of a motion model's weights, as patches of ComfyUI's."""
    wanted = {name: factor for name, factor in factors.items() if factor != 1.0}
    everywhere = wanted.pop("all_weights", 1.0)
    if everywhere != 1.0:
        for key in patcher.model.state_dict():
            _multiply(patcher, key, everywhere)
    for name, target in lora_targets(patcher.model).items():
        role = next((ROLES[part] for part in name.split(".") if part in ROLES), None)
        if role not in wanted:
            continue
        factor = wanted[role]
        _multiply(patcher, target.key if target.rows is None else (target.key, (0, *target.rows)), factor)
        bias = target.key.replace(".weight", ".bias")
        if target.rows is None and bias in patcher.model.state_dict():
            _multiply(patcher, bias, factor)


def _multiply(patcher: ModelPatcher, key: str | tuple, factor: float) -> None:
    # A patch of strength 0 adds nothing; what it does is multiply the weight it finds.
    patcher.add_patches({key: ("diff", (torch.zeros(1),))}, 0.0, factor)
