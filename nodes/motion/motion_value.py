"""Motion Value: a number, a number per frame, or masks, for what motion modules take as a value."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ...motion_core.module.values import Value, between, check_value, times
from ..checks import check_inputs
from ..compat import make_schema
from ..types import CATEGORY, Floats, MotionValue

SCALINGS = ("absolute", "relative")
VALUE_TYPES = [Floats, io.Mask, MotionValue, io.Float]
"""What a slot for values takes."""


def value_input(name: str, tooltip: str) -> io.Input:
    """A slot for a number, numbers per frame or masks."""
    return io.MultiType.Input(name, VALUE_TYPES, optional=True, tooltip=tooltip)


class MotionValueNode(io.ComfyNode):
    """One value for scale, effect or strength."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlipbookMotionValue",
            display_name="Motion Value",
            category=CATEGORY,
            description=(
                "A value that differs between frames, or between parts of the picture: for scale and effect "
                "of Apply Motion Module, for keyframes, and for the strength of a MotionLoRA."
            ),
            search_aliases=[
                "Multival",
                "Multival Scaled Mask",
                "Multival Floats",
                "motion scale",
                "masked motion",
                "ADE",
            ],
            inputs=[
                io.Float.Input(
                    "value",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip="The value; with a mask, the value where the mask is white.",
                ),
                io.Float.Input(
                    "lowest",
                    default=0.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip="With a mask, the value where the mask is black. Not used without one.",
                ),
                io.Combo.Input(
                    "scaling",
                    options=list(SCALINGS),
                    default=SCALINGS[0],
                    tooltip=(
                        "absolute: a mask is used as it is. relative: it is stretched first, so that its "
                        "darkest place counts as black and its brightest as white."
                    ),
                ),
                io.MultiType.Input(
                    "values",
                    [Floats, io.Float],
                    optional=True,
                    tooltip="A number per frame, times `value`: Float Schedule, or another pack's list.",
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="One mask, or one per frame, of any size. White moves."
                ),
            ],
            outputs=[MotionValue.Output(display_name="motion_value", tooltip="For slots named values.")],
        )

    @classmethod
    def execute(
        cls,
        value: float = 1.0,
        lowest: float = 0.0,
        scaling: str = "absolute",
        values: object = None,
        mask: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        check_inputs(cls, locals())
        if scaling not in SCALINGS:
            raise ValueError(f"Unknown scaling {scaling!r}; expected one of {', '.join(SCALINGS)}.")
        highest = times(value, as_value("values", values, -10.0, 10.0))
        if mask is None:
            return io.NodeOutput(highest)
        masks = as_value("mask", mask, 0.0, 1.0)
        if not isinstance(masks, torch.Tensor) or masks.ndim != 3:
            raise ValueError(
                "mask got numbers; expected masks, (F, height, width). Connect numbers for each frame to "
                "`values`."
            )
        return io.NodeOutput(between(masks, lowest, highest, relative=scaling == "relative"))


def as_value(name: str, given: Any, lowest: float, highest: float, default: Value = 1.0) -> Value:
    """What arrived at a slot for values, whatever pack it is from.

    Args:
        name: of the slot, for messages.
        given: None (``default``), a number, a list of numbers, an array, or masks.
        lowest, highest: what is allowed.

    Raises:
        ValueError: it is nothing of the kind, or outside of the range.
    """
    if given is None:
        return default
    try:
        if isinstance(given, bool | str | bytes | dict):
            raise TypeError
        value = given if isinstance(given, int | float) else torch.as_tensor(given, device="cpu")
        if isinstance(value, torch.Tensor) and value.is_complex():
            raise TypeError
        value = value.detach().float() if isinstance(value, torch.Tensor) else value
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"{name} got a {type(given).__name__}; expected a number, a number for each frame (Float "
            "Schedule), masks, or Motion Value. Mind the linked node."
        ) from None
    if isinstance(value, torch.Tensor):
        value = value.squeeze(1) if value.ndim == 4 and value.shape[1] == 1 else value
        value = float(value) if value.ndim == 0 else value.unsqueeze(0) if value.ndim == 2 else value
    check_value(name, value, lowest, highest)
    return value
