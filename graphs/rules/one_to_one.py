"""Nodes that become exactly one node, whatever stands around them: for ComfyUI's node replacement."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Replacement:
    """How one node becomes another."""

    new_id: str
    inputs: dict[str, str]
    """Input of the new node -> input of the old one."""
    values: dict[str, object]
    """Input of the new node -> the value it gets."""
    old_widgets: tuple[str, ...]
    """Order of the old node's widgets in a workflow."""


ONE_TO_ONE: dict[str, Replacement] = {
    "ADE_LoadAnimateDiffModel": Replacement(
        "FlipbookLoadMotionModule", {"motion_module": "model_name"}, {}, ("model_name",)
    ),
    "ADE_AnimateDiffLoRALoader": Replacement(
        "FlipbookLoadMotionLora",
        {"motion_lora": "name", "strength": "strength", "previous": "prev_motion_lora"},
        {},
        ("name", "strength"),
    ),
    "ADE_EmptyLatentImageLarge": Replacement(
        "EmptyLatentImage",
        {"width": "width", "height": "height", "batch_size": "batch_size"},
        {},
        ("width", "height", "batch_size"),
    ),
    "CheckpointLoaderSimpleWithNoiseSelect": Replacement(
        "CheckpointLoaderSimple",
        {"ckpt_name": "ckpt_name"},
        {},
        ("ckpt_name", "beta_schedule", "use_custom_scale_factor", "scale_factor"),
    ),
}
"""Old id -> what takes its place. Output sockets keep their places."""
