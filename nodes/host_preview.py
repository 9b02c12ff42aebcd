"""What this ComfyUI has for previews: the previewer the user chose, the node that runs, and who looks on."""

from __future__ import annotations

from typing import Any

import latent_preview
from comfy.model_patcher import ModelPatcher
from comfy.utils import ProgressBar
from comfy_api import feature_flags
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context
from PIL import Image

from .compat import running_server

EVENT = "animatediff_flipbook.preview"
"""Name of our message to the page, and of what a page has said, on its connection."""
ROUTE = "/animatediff_flipbook/preview"
"""Where a page says that it shows moving previews."""


def core_previewer(patcher: ModelPatcher) -> Any:
    """ComfyUI's own previewer for a model's latents, as the user set it. None with previews off, and where
    another pack has its own: that one is left alone."""
    previewer = latent_preview.get_previewer(patcher.load_device, patcher.model.latent_format)
    return previewer if type(previewer).__module__ == latent_preview.__name__ else None


def decodes_with_network(previewer: Any) -> bool:
    """Whether a preview has several pixels for each of the latent's, at a cost (TAESD)."""
    return not isinstance(previewer, latent_preview.Latent2RGBPreviewer)


def way_to_show() -> str | None:
    """How the page that queued the running prompt is shown a clip.

    Returns:
        ``moving``: it plays the clip. ``sheet``: it shows ComfyUI's own previews and cannot play, for our
        extension does not run in it, or its frontend takes previews without the node they are of. None:
        nobody looks on, or the user wants neither.
    """
    server = running_server()
    connection = server and server.sockets_metadata.get(server.client_id)
    if connection is None or connection.get(EVENT) is False:
        return None
    knows_nodes = feature_flags.supports_feature(
        server.sockets_metadata, server.client_id, "supports_preview_metadata"
    )
    return "moving" if connection.get(EVENT) and knows_nodes else "sheet"


def send_as_core_does(picture: Image.Image, step: int, total_steps: int) -> None:
    """Show a picture in the place of ComfyUI's own preview, until that comes again.

    Raises:
        InterruptProcessingException: the user has cancelled.
    """
    preview = ("JPEG", picture, latent_preview.MAX_PREVIEW_RESOLUTION)
    ProgressBar(total_steps).update_absolute(step, total_steps, preview)


def send(message: dict[str, Any]) -> None:
    """Hand a message to the page that queued the running prompt."""
    server = running_server()
    if server is not None and server.client_id is not None:
        server.send_sync(EVENT, message, server.client_id)


def running_node() -> dict[str, str] | None:
    """Ids of the node that runs and of its prompt, as ComfyUI's own previews carry them."""
    context = get_executing_context()
    if context is None:
        return None
    graph = get_progress_state().dynprompt
    return {
        "node_id": context.node_id,
        "display_node_id": graph.get_display_node_id(context.node_id),
        "parent_node_id": graph.get_parent_node_id(context.node_id),
        "real_node_id": graph.get_real_node_id(context.node_id),
        "prompt_id": context.prompt_id,
    }


def register_route(server: Any) -> None:
    """Let pages say whether they show moving previews: ``{"client_id": str, "on": bool}``. It is noted on the
    page's connection and ends with it; with ``false`` the page is sent nothing of ours."""
    from aiohttp import web

    async def note(request: web.Request) -> web.Response:
        said = await request.json()
        connection = server.sockets_metadata.get(str(said.get("client_id")))
        if connection is not None:
            connection[EVENT] = said.get("on") is True
        return web.json_response({"known": connection is not None})

    server.routes.post(ROUTE)(note)
