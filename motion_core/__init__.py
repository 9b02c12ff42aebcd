"""Temporal layers of AnimateDiff, their files and their place in a UNet: plain torch, no ComfyUI."""
