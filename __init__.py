"""AnimateDiff Flipbook: motion modules, MotionLoRA and domain adapters for ComfyUI.

ComfyUI loads this file as a custom node pack; the trainer installs the same folder as a Python package.
Importing it must therefore work without ComfyUI, and costs nothing until ComfyUI asks for the nodes.
"""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Called by ComfyUI's loader: register folders and routes, and hand over the nodes."""
    from .nodes import FlipbookExtension
    from .nodes.compat import running_server
    from .nodes.convert_route import add_routes
    from .nodes.host_preview import register_route
    from .nodes.paths import register_folders
    from .nodes.replacements import register_replacements

    register_folders()
    if (server := running_server()) is not None:
        add_routes(server.routes)
        register_route(server)
    await register_replacements()
    return FlipbookExtension()
