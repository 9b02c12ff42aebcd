"""AnimateDiff Flipbook: motion modules, MotionLoRA and domain adapters for ComfyUI."""

WEB_DIRECTORY = "./web"
