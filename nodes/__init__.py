"""The ComfyUI nodes."""
