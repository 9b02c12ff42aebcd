"""The ComfyUI nodes: schema and wiring. What they compute lives in ``motion_core``."""

from comfy_api.latest import ComfyExtension, io

from .context.context import ContextSampler, ContextWindows
from .context.context_preview import ContextPreview
from .control.camera_control import CameraControl, LoadCameraControl
from .control.camera_poses import CameraPoses, CameraPosesFromText
from .control.image_reference import ImageReference
from .control.pia_reference import PiaReference
from .control.sparse import LoadSparseControl, SparseControlFrames
from .motion.apply import ApplyMotionModule
from .motion.domain_adapter import ApplyDomainAdapter
from .motion.load import LoadMotionLora, LoadMotionModule
from .motion.motion_keyframe import MotionKeyframe
from .motion.motion_settings import MotionSettingsNode
from .motion.motion_value import MotionValueNode
from .noise.frame_noise import FrameNoiseNode
from .noise.free_init import FreeInitSampler
from .noise.model_free_init import ModelFreeInit
from .noise.model_noise import ModelNoise
from .schedule.prompt_schedule import FloatSchedule, PromptSchedule
from .training.preview import PreviewTrainingClips
from .training.train import TrainDomainAdapter, TrainMotionLora, TrainMotionModule

NODES: list[type[io.ComfyNode]] = [
    LoadMotionModule,
    LoadMotionLora,
    ApplyMotionModule,
    ApplyDomainAdapter,
    MotionValueNode,
    MotionSettingsNode,
    MotionKeyframe,
    ContextWindows,
    ContextSampler,
    ContextPreview,
    PromptSchedule,
    FloatSchedule,
    FrameNoiseNode,
    ModelNoise,
    ModelFreeInit,
    FreeInitSampler,
    LoadSparseControl,
    SparseControlFrames,
    PiaReference,
    ImageReference,
    LoadCameraControl,
    CameraPoses,
    CameraPosesFromText,
    CameraControl,
    PreviewTrainingClips,
    TrainMotionLora,
    TrainDomainAdapter,
    TrainMotionModule,
]


class FlipbookExtension(ComfyExtension):
    """What ComfyUI's loader asks for."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
