"""SparseCtrl's encoder as a ControlNet of ComfyUI's, with our motion modules in it."""

from __future__ import annotations

import os
from typing import Any

import comfy.cldm.cldm
import comfy.utils
import torch

from ...motion_core.control.sparse_control import EMBEDDING, ConditionEmbedding, SparseLayout, read_layout
from ...motion_core.files.checkpoint import load_motion_module, open_motion_module
from ...motion_core.module.call import MotionCall
from ...motion_core.module.injection import inserted
from ...motion_core.module.model import MotionModel


class SparseNetwork(comfy.cldm.cldm.ControlNet):
    """The encoder of one file. Weights arrive by :func:`load_sparse_network`."""

    def __init__(self, layout: SparseLayout, motion: MotionModel, operations: Any, **factory: Any) -> None:
        # ComfyUI's embedding of pictures is made small and put aside for SparseCtrl's own.
        super().__init__(hint_channels=3, operations=operations, **layout.unet_config(), **factory)
        self.input_hint_block = ConditionEmbedding(layout, operations, **factory)
        self.layout = layout
        self.motion = motion

    def forward(
        self,
        x: torch.Tensor,
        hint: torch.Tensor,
        timesteps: torch.Tensor,
        context: torch.Tensor,
        *,
        motion_call: MotionCall,
        **more: Any,
    ) -> dict[str, list[torch.Tensor]]:
        """Residuals for the UNet.

        ``x`` (B*F, 4, h, w) gives the size alone; ``hint`` (B*F, C + 1, H, W) as
        :func:`motion_core.control.sparse_control.sparse_condition` makes it.
        """
        with inserted(self, [(self.motion, motion_call)]):
            return super().forward(torch.zeros_like(x), hint, timesteps, context, **more)


def load_sparse_network(path: str | os.PathLike, operations: Any, dtype: torch.dtype | None) -> SparseNetwork:
    """Read an encoder file.

    Args:
        path: the file.
        operations: where layers come from.
        dtype: of the weights; by default the file's.

    Raises:
        FileNotFoundError, ValueError: as :func:`motion_core.files.checkpoint.open_motion_module`; also for an
            encoder that is incomplete.
    """
    file = open_motion_module(path, kind="sparsectrl")
    dtype = dtype or file.dtype
    own = {_bare(key): key for key in file.source.shapes if ".motion_modules." not in key}
    layout = read_layout({name: file.source.shapes[key] for name, key in own.items()})
    motion = load_motion_module(file, operations=operations, dtype=dtype)
    network = SparseNetwork(layout, motion, operations, dtype=dtype, device="cpu")
    names = _names(layout)
    state = {}
    for key, tensor in file.source.read(own.values()):
        name = names.get(_bare(key))
        if name is not None:
            state[name] = tensor.to(dtype, copy=True)
    expected = {name for name in network.state_dict() if not name.startswith("motion.")}
    if state.keys() != expected:
        missing = sorted(expected ^ state.keys())[0]
        raise ValueError(f"{file.source.name}: the encoder is incomplete ({missing}). Download it again.")
    network.load_state_dict(state, strict=False)
    return network.requires_grad_(False).eval()


def _bare(key: str) -> str:
    return key.removeprefix("module.")


def _names(layout: SparseLayout) -> dict[str, str]:
    """Name in the file -> name in ComfyUI's ControlNet."""
    config = layout.unet_config()
    config["transformer_depth_output"] = [0] * sum(count + 1 for count in config["num_res_blocks"])
    names = comfy.utils.unet_to_diffusers(config)
    skips = 0
    for level, depths in enumerate(layout.depths):
        skips += len(depths) + int(level < len(layout.depths) - 1)
    for part in ("weight", "bias"):
        for skip in range(skips + 1):
            names[f"controlnet_down_blocks.{skip}.{part}"] = f"zero_convs.{skip}.0.{part}"
        names[f"controlnet_mid_block.{part}"] = f"middle_block_out.0.{part}"
        names[f"{EMBEDDING}{part}"] = f"input_hint_block.single.{part}"
        for place in ("conv_in", "conv_out", *(f"blocks.{i}" for i in range(len(layout.embedding) - 2))):
            names[f"{EMBEDDING}{place}.{part}"] = f"input_hint_block.{place}.{part}"
    return names
