"""AnimateDiff Flipbook: motion modules, MotionLoRA and domain adapters for ComfyUI.

ComfyUI loads this file as a custom node pack; the trainer installs the same folder as a Python package.
Importing it must therefore work without ComfyUI, and costs nothing until ComfyUI asks for the nodes.
"""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Called by ComfyUI's loader: register the model folders and hand over the nodes."""
    from .nodes import FlipbookExtension
    from .nodes.paths import register_folders

    register_folders()
    return FlipbookExtension()
