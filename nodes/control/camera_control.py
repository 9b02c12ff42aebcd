"""Load Camera Control and Camera Control: CameraCtrl, which moves the camera through a clip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import comfy.ops
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ...motion_core.control.camera import Pose, for_frames, pluecker
from ...motion_core.control.camera_encoder import SHRINK, CameraModel, cameras
from ...motion_core.files.camera_file import CameraFile, load_camera_model, open_camera_file
from ...motion_core.module.call import MotionCall
from ...motion_core.module.values import Value, is_number, times
from .. import paths
from ..checks import check_inputs
from ..compat import logger, make_schema, new_patcher, show_on_node
from ..motion.load import weight_dtype
from ..motion.motion_value import as_value, value_input
from ..types import CATEGORY, LoadedMotionModule
from .camera_poses import CameraPosesType, chosen_poses
from .control_run import ControlCall, ControlRun, Part
from .motion_control import NETWORKS, Control, MotionControl, chosen_controls, control_input

CameraControlType = io.Custom("CAMERA_CONTROL")
FOLDERS = (paths.MOTION_MODULES, "controlnet")
"""Where people keep CameraCtrl files."""


@dataclass(frozen=True, eq=False)
class LoadedCameraControl:
    """A CameraCtrl model in ComfyUI's memory management."""

    name: str
    """File name."""
    patcher: ModelPatcher
    load_again: Callable[[], ModelPatcher]
    """Loads a second copy of the weights."""

    def is_dynamic(self) -> bool:
        """Asked by ComfyUI's cache when RAM is short: what reads weights on demand is not worth dropping."""
        return hasattr(self.patcher, "is_dynamic") and self.patcher.is_dynamic()


@dataclass(frozen=True, eq=False)
class CameraMotion(Control):
    """What Camera Control was told."""

    camera: LoadedCameraControl
    poses: tuple[Pose, ...]
    strength: Value

    title = "Camera Control"

    @property
    def network(self) -> LoadedCameraControl:
        return self.camera

    def check(self, module: LoadedMotionModule, model: ModelPatcher) -> str:
        needed = self.camera.patcher.model.widths
        there = {
            name: width for name, width in module.config.widths.items() if not name.startswith("mid_block.")
        }
        if needed != there:
            place = sorted(set(needed.items()) ^ set(there.items()))[0][0]
            raise ValueError(
                f"{self.camera.name} does not fit {module.name}: at {place} it is made for "
                f"{needed.get(place, 'no')} channels, and the module has {there.get(place, 'none')}. "
                "CameraCtrl was trained with AnimateDiff v3 (v3_sd15_mm); load that."
            )
        line = f"Camera Control: {self.camera.name}, {len(self.poses)} poses"
        if module.config.generation != "v3":
            line += f"; it was trained with AnimateDiff v3, and {module.name} is {module.config.generation}"
            logger.warning("%s", line)
        return line

    def begin(self, run: ControlRun) -> None:
        count = len(self.poses)
        if count != run.num_frames:
            what = "the camera stays at the last one" if count < run.num_frames else "the rest is not used"
            logger.warning(
                "Camera Control: %d poses for a clip of %d frames; %s.", count, run.num_frames, what
            )
        if not is_number(self.strength) and self.strength.shape[0] < run.num_frames:
            logger.warning(
                "Camera Control: %d strengths for a clip of %d frames; the last one goes on.",
                *(self.strength.shape[0], run.num_frames),
            )

    def tell(self, call: MotionCall, motion: ModelPatcher, place: ControlCall) -> MotionCall:
        if is_number(self.strength) and self.strength == 0.0:
            return call
        # The patcher of this MODEL, which may have weights of its own on another device.
        (network,) = motion.get_additional_models_with_key(NETWORKS)
        model: CameraModel = network.model

        def features(part: Part) -> list[torch.Tensor]:
            poses = for_frames(self.poses, place.run.num_frames)
            rays = pluecker(poses, SHRINK * part.width, SHRINK * part.height)
            return model.encoder(part.of(rays, SHRINK).to(place.device, place.dtype))

        told = cameras(place.rows(self, features), model.layers, place.value(self.strength))
        return replace(call, cameras=told)


class LoadCameraControl(io.ComfyNode):
    """Reads a CameraCtrl file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlipbookLoadCameraControl",
            display_name="Load Camera Control",
            category=CATEGORY,
            description=(
                "Loads a CameraCtrl model, which lets a v3 motion module follow a camera's path, from "
                "models/animatediff_models or models/controlnet."
            ),
            search_aliases=["Load AnimateDiff+CameraCtrl Model", "CameraCtrl_pruned"],
            inputs=[
                io.Combo.Input(
                    "camera_control",
                    options=_choices(),
                    tooltip="The file: CameraCtrl_pruned.safetensors, or the authors' CameraCtrl.ckpt.",
                )
            ],
            outputs=[CameraControlType.Output(display_name="camera_control", tooltip="For Camera Control.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, camera_control: str | None = None) -> bool | str:
        return paths.check(_folder_of(camera_control), camera_control)

    @classmethod
    def fingerprint_inputs(cls, camera_control: str) -> str:
        return paths.fingerprint(_folder_of(camera_control), camera_control)

    @classmethod
    def execute(cls, camera_control: str) -> io.NodeOutput:
        check_inputs(cls, locals())
        file = open_camera_file(paths.full_path(_folder_of(camera_control), camera_control))
        patcher = _load(file)
        line = f"CameraCtrl: {len(patcher.model.names)} motion modules"
        logger.info("%s: %s", camera_control, line)
        show_on_node(cls, line)
        return io.NodeOutput(LoadedCameraControl(camera_control, patcher, lambda: _load(file)))


class CameraControl(io.ComfyNode):
    """Lets a motion module follow camera poses."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlipbookCameraControl",
            display_name="Camera Control",
            category=CATEGORY,
            description="Moves the camera through the clip along a path of poses (CameraCtrl).",
            search_aliases=["Apply AnimateDiff+CameraCtrl Model", "camera motion", "camera path"],
            inputs=[
                CameraControlType.Input("camera_control", tooltip="From Load Camera Control."),
                CameraPosesType.Input(
                    "poses", tooltip="From Camera Poses or Camera Poses from Text, one for each frame."
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="How strongly the motion follows the camera. 1 is as trained.",
                ),
                control_input(),
                value_input(
                    "strength_values",
                    "A strength for each frame or place, times `strength`: Float Schedule or Motion Value.",
                ),
            ],
            outputs=[MotionControl.Output(display_name="motion_control", tooltip="For Apply Motion Module.")],
        )

    @classmethod
    def execute(
        cls,
        camera_control: LoadedCameraControl,
        poses: Sequence[Pose],
        strength: float | Sequence[float] = 1.0,
        previous: tuple[Control, ...] | None = None,
        strength_values: object = None,
    ) -> io.NodeOutput:
        listed = isinstance(strength, list | tuple | torch.Tensor)
        check_inputs(cls, {**locals(), "strength": 1.0} if listed else locals())
        if not isinstance(camera_control, LoadedCameraControl):
            raise ValueError(
                f"The camera_control input got a {type(camera_control).__name__}. Connect Load Camera "
                "Control (FlipbookLoadCameraControl)."
            )
        # A FLOAT link may carry a list: then it is a strength for each frame.
        amount = times(
            *(
                as_value(name, value, 0.0, 10.0)
                for name, value in (("strength", strength), ("strength_values", strength_values))
            )
        )
        control = CameraMotion(camera_control, chosen_poses(poses), amount)
        return io.NodeOutput(chosen_controls((*chosen_controls(previous, "previous"), control), "previous"))


def _choices() -> list[str]:
    return list(dict.fromkeys(name for folder in FOLDERS for name in paths.choices(folder)))


def _folder_of(name: str | None) -> str:
    """The first folder that holds a file."""
    there = (folder for folder in FOLDERS if name and folder_paths.get_full_path(folder, name))
    return next(there, FOLDERS[0])


def _load(file: CameraFile, disable_dynamic: bool = False) -> ModelPatcher:
    """Weights into memory; arguments as ComfyUI calls it to load them once more."""
    model = load_camera_model(
        file, operations=comfy.ops.manual_cast, dtype=weight_dtype(file.dtype, file.num_values)
    )
    return new_patcher(model, _load, file, plain=disable_dynamic)
