"""Motion Keyframe: values of a motion module that change over the steps."""

from __future__ import annotations

from comfy_api.latest import io

from ...motion_core.schedule.keyframes import Keyframe
from ..checks import check_inputs
from ..compat import make_schema
from ..types import CATEGORY, MotionKeyframes, MotionSettings
from .motion_settings import given_settings
from .motion_value import as_value, value_input

RANGES = {"scale": (0.0, 10.0), "effect": (0.0, 10.0), "lora_strength": (-10.0, 10.0)}
"""What a keyframe sets, and from where to where."""


class MotionKeyframe(io.ComfyNode):
    """Values from some point of the noise schedule on."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlipbookMotionKeyframe",
            display_name="Motion Keyframe",
            category=CATEGORY,
            description=(
                "From some point of sampling on, other values for a motion module: they multiply those of "
                "Apply Motion Module. Chain several, in any order; the earliest counts from its start on."
            ),
            search_aliases=[
                "AnimateDiff Keyframe",
                "AD keyframe",
                "timestep keyframe",
                "motion over steps",
                "ADE",
            ],
            inputs=[
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Part of the noise schedule at which the values set in. 0: from the beginning.",
                ),
                io.Int.Input(
                    "guarantee_steps",
                    default=1,
                    min=0,
                    max=1000,
                    tooltip=(
                        "Steps that the values hold at least, even if the next keyframe's time has come: "
                        "with few steps it may come at once."
                    ),
                ),
                io.Boolean.Input(
                    "inherit_missing",
                    default=True,
                    tooltip="On: what is not connected stays as the keyframe before had it. Off: it is 1.",
                ),
                value_input("scale", "Amount of motion, times that of Apply Motion Module."),
                value_input("effect", "Share of the motion module, times that of Apply Motion Module."),
                value_input("lora_strength", "Factor on the strength of all MotionLoRAs of the module."),
                MotionSettings.Input(
                    "motion_settings",
                    optional=True,
                    tooltip="Values by block, in place of those of Apply Motion Module; only its `blocks`.",
                ),
                MotionKeyframes.Input("previous", optional=True, tooltip="Keyframes that this one joins."),
            ],
            outputs=[
                MotionKeyframes.Output(display_name="motion_keyframes", tooltip="For Apply Motion Module.")
            ],
        )

    @classmethod
    def execute(
        cls,
        start_percent: float = 0.0,
        guarantee_steps: int = 1,
        inherit_missing: bool = True,
        scale: object = None,
        effect: object = None,
        lora_strength: object = None,
        motion_settings: object = None,
        previous: object = None,
    ) -> io.NodeOutput:
        check_inputs(cls, locals())
        given = {"scale": scale, "effect": effect, "lora_strength": lora_strength}
        values = {
            name: as_value(name, value, *RANGES[name]) for name, value in given.items() if value is not None
        }
        if motion_settings is not None:
            settings = given_settings("motion_settings", motion_settings)
            if not settings.only_blocks:
                raise ValueError(
                    "A Motion Keyframe can change values by block, but not weights or positions, which are "
                    "the same in all steps. Connect Motion Settings in which only `blocks` is set, and give "
                    "the others to Apply Motion Module."
                )
            values["blocks"] = settings.blocks
        keyframe = Keyframe(start_percent, values, guarantee_steps, inherit_missing)
        return io.NodeOutput((*given_keyframes("previous", previous), keyframe))


def given_keyframes(name: str, value: object) -> tuple[Keyframe, ...]:
    """What arrived at a MOTION_KEYFRAMES input.

    Raises:
        ValueError: something else.
    """
    if value is None:
        return ()
    if not isinstance(value, tuple) or not all(isinstance(one, Keyframe) for one in value):
        raise ValueError(
            f"The {name} input got a {type(value).__name__}. Connect Motion Keyframe "
            "(FlipbookMotionKeyframe)."
        )
    return value
