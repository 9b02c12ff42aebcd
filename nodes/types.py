"""What travels between our nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..motion_core.files.lora import LoraFile
from ..motion_core.module.config import MotionModuleConfig
from ..motion_core.module.values import Value

CATEGORY = "AnimateDiff"
"""Of all our nodes in the menu."""
MotionModule = io.Custom("MOTION_MODULE")
MotionLora = io.Custom("MOTION_LORA")
MotionValue = io.Custom("MOTION_VALUE")
"""A number, or a tensor of a number per frame or of masks (:mod:`motion_core.module.values`)."""
MotionSettings = io.Custom("MOTION_SETTINGS")
MotionKeyframes = io.Custom("MOTION_KEYFRAMES")
Floats = io.Custom("FLOATS")
"""A list of numbers, as other packs hand it over."""


@dataclass(frozen=True)
class LoadedMotionModule:
    """A motion module in ComfyUI's memory management."""

    name: str
    """File name."""
    config: MotionModuleConfig
    patcher: ModelPatcher
    load_again: Callable[[], ModelPatcher]
    """Loads a second copy of the weights, for a model that is to have the same module twice, or elsewhere."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """The file's own words, or how the module was made."""

    def is_dynamic(self) -> bool:
        """Asked by ComfyUI's cache when RAM is short: what reads weights on demand is not worth dropping."""
        return hasattr(self.patcher, "is_dynamic") and self.patcher.is_dynamic()


@dataclass(frozen=True)
class ChosenLora:
    """A MotionLoRA with its strength; a MOTION_LORA is a tuple of them, in the order of loading."""

    lora: LoraFile
    strength: Value
