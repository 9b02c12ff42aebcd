"""The ComfyUI nodes: schema and wiring. What they compute lives in ``motion_core``."""

from comfy_api.latest import ComfyExtension, io

from .apply import ApplyMotionModule
from .context import ContextSampler, ContextWindows
from .context_preview import ContextPreview
from .domain_adapter import ApplyDomainAdapter
from .frame_noise import FrameNoiseNode
from .free_init import FreeInitSampler
from .load import LoadMotionLora, LoadMotionModule
from .prompt_schedule import FloatSchedule, PromptSchedule

NODES: list[type[io.ComfyNode]] = [
    LoadMotionModule,
    LoadMotionLora,
    ApplyMotionModule,
    ApplyDomainAdapter,
    ContextWindows,
    ContextSampler,
    ContextPreview,
    PromptSchedule,
    FloatSchedule,
    FrameNoiseNode,
    FreeInitSampler,
]


class FlipbookExtension(ComfyExtension):
    """What ComfyUI's loader asks for."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
