"""diffusers' form of a motion module: a folder that ``MotionAdapter.from_pretrained`` reads.

It holds the weights under diffusers' names and a ``config.json`` with the layout. diffusers has no word for
GroupNorms that look at single frames and for noise schedules; those stay in the metadata, where we read them
again.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..module.config import ModuleShape, MotionModuleConfig
from ..module.model import MotionModel
from .checkpoint import config_metadata, control_state_dict, motion_state_dict
from .tensor_file import save_tensors
from .weights import in_type

WEIGHTS, CONFIG = "diffusion_pytorch_model.safetensors", "config.json"
NAMES = (
    (r"\.temporal_transformer\.", "."),
    (r"\.attention_blocks\.0\.", ".attn1."),
    (r"\.attention_blocks\.1\.", ".attn2."),
    (r"\.norms\.0\.", ".norm1."),
    (r"\.norms\.1\.", ".norm2."),
    (r"\.ff_norm\.", ".norm3."),
)
"""The original's names -> diffusers'."""
TABLE = re.compile(r"\.attn[12]\.pos_encoder\.pe$")


def adapter_config(config: MotionModuleConfig) -> dict[str, Any]:
    """``config.json`` of a layout.

    Raises:
        ValueError: diffusers cannot build it.
    """
    levels: dict[str, list[ModuleShape]] = defaultdict(list)
    for name, shape in config.modules:
        side, _, rest = name.partition("_blocks.")
        levels[f"{side} {rest.split('.')[0]}" if rest else "mid"].append(shape)
        plain = ModuleShape(shape.channels, shape.channels, 1, 2, 4 * shape.channels, shape.pe_length)
        if shape != plain:
            raise _cannot(f"{name} is not one block of two attentions as wide as its input")
    depth = sum(level.startswith("down") for level in levels)
    down = [levels.get(f"down {number}", []) for number in range(depth)]
    up = [levels.get(f"up {number}", []) for number in range(depth)]
    if not depth or len(levels) != 2 * depth + ("mid" in levels) or not all(down + up):
        raise _cannot("its modules do not sit at every level, downwards and upwards")
    widths = [level[0].channels for level in down]
    for level, width, count in zip(
        down + up,
        widths + widths[::-1],
        [len(one) for one in down] + [len(one) + 1 for one in down[::-1]],
        strict=True,
    ):
        if len(level) != count or {shape.channels for shape in level} != {width}:
            raise _cannot("the levels upwards do not mirror those downwards, with one module more")
    middle = levels.get("mid", [])
    if any(shape.channels != widths[-1] for shape in middle):
        raise _cannot("the middle block is not as wide as the last level")
    return {
        "_class_name": "MotionAdapter",
        "block_out_channels": widths,
        "motion_layers_per_block": [len(level) for level in down],
        "motion_transformer_layers_per_block": 1,
        "motion_mid_block_layers_per_block": max(len(middle), 1),
        "motion_transformer_layers_per_mid_block": 1,
        "motion_num_attention_heads": config.num_heads,
        "motion_norm_num_groups": config.norm_groups,
        "motion_max_seq_length": config.pe_length,
        "use_motion_mid_block": bool(middle),
        "conv_in_channels": None,
    }


def adapter_state_dict(model: MotionModel) -> dict[str, torch.Tensor]:
    """The weights under diffusers' names: one position table per block, as long as the shortest.

    Raises:
        ValueError: what diffusers has no place for.
    """
    if parts := control_state_dict(model):
        raise _cannot(f"it is steered by a picture ({next(iter(parts))})")
    state: dict[str, torch.Tensor] = {}
    for name, tensor in motion_state_dict(model).items():
        for pattern, other in NAMES:
            name = re.sub(pattern, other, name)
        if TABLE.search(name):
            name, tensor = TABLE.sub(".pos_embed.pe", name), tensor[:, : model.config.pe_length]
            if name in state and not torch.equal(state[name], tensor):
                raise _cannot(f"the two attentions of {name.split('.transformer')[0]} differ in positions")
        state[name] = tensor
    return state


def save_motion_adapter(
    folder: str | os.PathLike,
    model: MotionModel,
    metadata: Mapping[str, str] | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a motion module as diffusers' MotionAdapter.

    Args:
        folder: for the two files; made where it is not there.
        metadata: facts beyond the model's own configuration.
        dtype: of the weights; by default the model's. Position tables stay fp32.

    Raises:
        ValueError: diffusers, or the type, cannot hold it; nothing is written.
    """
    config = adapter_config(model.config)
    state = {
        name: tensor if name.endswith(".pe") else in_type(Path(folder).name, name, tensor, dtype)
        for name, tensor in adapter_state_dict(model).items()
    }
    folder = Path(folder)
    words = {**(metadata or {}), **config_metadata(model.config), "format": "pt"}
    save_tensors(folder / WEIGHTS, state, words)
    temporary = folder / f".{CONFIG}.{os.getpid()}.partial"
    temporary.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, folder / CONFIG)


def _cannot(why: str) -> ValueError:
    return ValueError(
        f"diffusers' MotionAdapter cannot hold this motion module: {why}. Write it in the original layout."
    )
