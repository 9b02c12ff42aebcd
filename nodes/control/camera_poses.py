"""Camera Poses and Camera Poses from Text: the path of a camera, for Camera Control."""

from __future__ import annotations

from collections.abc import Sequence

from comfy_api.latest import io

from ...motion_core.control.camera import MOTIONS, Lens, Pose, joined, moving_poses, read_poses
from ..checks import check_inputs
from ..compat import make_schema
from ..types import CATEGORY

CameraPosesType = io.Custom("CAMERA_POSES")


class CameraPoses(io.ComfyNode):
    """Poses of a named motion."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        motions = list(MOTIONS)
        return make_schema(
            node_id="FlipbookCameraPoses",
            display_name="Camera Poses",
            category=CATEGORY,
            description=(
                "The path of a camera by name: pan, zoom, roll, tilt, or two of them at once; several in a "
                "row by chaining."
            ),
            search_aliases=["Create CameraCtrl Poses", "pan", "zoom", "roll", "tilt"],
            inputs=[
                io.Combo.Input(
                    "motion",
                    options=motions,
                    default="zoom in",
                    tooltip="pan moves the camera sideways, zoom along its view; roll and tilt turn it.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip="How much of the motion. Negative values go the other way.",
                ),
                io.Combo.Input(
                    "second_motion",
                    options=motions,
                    default="static",
                    optional=True,
                    tooltip="Another motion at the same time. static: none.",
                ),
                io.Float.Input(
                    "second_strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    optional=True,
                    tooltip="How much of the other motion.",
                ),
                io.Float.Input(
                    "speed",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    optional=True,
                    tooltip="1 turns by 60 degrees or goes 1.5 units (zoom: 3) in 16 frames.",
                ),
                io.Int.Input(
                    "frames", default=16, min=1, max=4096, optional=True, tooltip="Frames of this motion."
                ),
                CameraPosesType.Input(
                    "previous",
                    optional=True,
                    tooltip="Poses that come before: this motion starts where they end.",
                ),
            ],
            outputs=[CameraPosesType.Output(display_name="poses", tooltip="For Camera Control.")],
        )

    @classmethod
    def execute(
        cls,
        motion: str,
        strength: float = 1.0,
        second_motion: str = "static",
        second_strength: float = 1.0,
        speed: float = 1.0,
        frames: int = 16,
        previous: Sequence[Pose] | None = None,
    ) -> io.NodeOutput:
        check_inputs(cls, locals())
        before = [] if previous is None else chosen_poses(previous, "previous")
        # The same lens as before, so that the camera only moves.
        lens = before[-1].lens if before else None
        poses = moving_poses([(motion, strength), (second_motion, second_strength)], frames, speed, lens)
        return io.NodeOutput(tuple(joined(before, poses)))


class CameraPosesFromText(io.ComfyNode):
    """Poses as RealEstate10K writes them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        size = {"min": 1, "max": 16384}
        return make_schema(
            node_id="FlipbookCameraPosesFromText",
            display_name="Camera Poses from Text",
            category=CATEGORY,
            description=(
                "The path of a camera from a text as RealEstate10K and CameraCtrl's tools write it: a line "
                "of 19 numbers per frame."
            ),
            search_aliases=["Load CameraCtrl Poses", "RealEstate10K", "camera trajectory"],
            inputs=[
                io.String.Input(
                    "text",
                    multiline=True,
                    default="",
                    tooltip=(
                        "Per frame: time fx fy cx cy 0 0, and the 3 x 4 matrix from world to camera, row by "
                        "row. A first line that is a link is passed over."
                    ),
                ),
                io.Int.Input(
                    "width",
                    default=1280,
                    **size,
                    tooltip="Width of the video that the poses were taken from.",
                ),
                io.Int.Input(
                    "height",
                    default=720,
                    **size,
                    tooltip="Height of the video that the poses were taken from.",
                ),
            ],
            outputs=[CameraPosesType.Output(display_name="poses", tooltip="For Camera Control.")],
        )

    @classmethod
    def execute(cls, text: str, width: int = 1280, height: int = 720) -> io.NodeOutput:
        check_inputs(cls, locals())
        return io.NodeOutput(tuple(read_poses(text, Lens(width=width, height=height))))


def chosen_poses(value: object, name: str = "poses") -> tuple[Pose, ...]:
    """What arrived at a CAMERA_POSES input.

    Raises:
        ValueError: another pack's object, or none.
    """
    if not isinstance(value, (tuple, list)) or not value or not all(isinstance(one, Pose) for one in value):
        raise ValueError(
            f"The {name} input got a {type(value).__name__} of another pack. Connect Camera Poses or Camera "
            "Poses from Text."
        )
    return tuple(value)
