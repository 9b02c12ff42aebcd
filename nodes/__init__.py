"""The ComfyUI nodes: schema and wiring. What they compute lives in ``motion_core``."""

from comfy_api.latest import ComfyExtension, io

from .apply import ApplyMotionModule
from .domain_adapter import ApplyDomainAdapter
from .load import LoadMotionLora, LoadMotionModule

NODES: list[type[io.ComfyNode]] = [
    LoadMotionModule,
    LoadMotionLora,
    ApplyMotionModule,
    ApplyDomainAdapter,
]


class FlipbookExtension(ComfyExtension):
    """What ComfyUI's loader asks for."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
