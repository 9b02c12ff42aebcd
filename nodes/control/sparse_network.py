"""SparseCtrl's encoder as a ControlNet of ComfyUI's, with our motion modules in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import comfy.cldm.cldm
import comfy.utils
import torch

from ...motion_core.control.sparse_control import EMBEDDING, ConditionEmbedding, SparseLayout, read_layout
from ...motion_core.files.checkpoint import (
    MotionFile,
    load_motion_module,
    open_motion_module,
    working_dtype,
)
from ...motion_core.files.tensor_file import TensorFile
from ...motion_core.files.weights import computable, require_finite, require_floats
from ...motion_core.files.words import shown
from ...motion_core.module.call import MotionCall
from ...motion_core.module.injection import inserted
from ...motion_core.module.model import MotionModel
from ..compat import logger


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


def open_sparse_network(path: str | os.PathLike) -> MotionFile:
    """Look at an encoder file.

    Raises:
        FileNotFoundError, ValueError: as :func:`motion_core.files.checkpoint.open_motion_module`.
    """
    return open_motion_module(path, kind="sparsectrl")


def load_sparse_network(
    path: str | os.PathLike | MotionFile,
    operations: Any,
    dtype: torch.dtype | None,
    progress: Callable[[int], None] | None = None,
) -> SparseNetwork:
    """Read an encoder file.

    Args:
        path: the file, or one already opened.
        operations: where layers come from.
        dtype: of the weights; by default the file's.
        progress: is told the number of values loaded so far.

    Raises:
        FileNotFoundError, ValueError: as :func:`open_sparse_network`; also for an encoder that is incomplete
            or holds values that no weight has.
    """
    file = path if isinstance(path, MotionFile) else open_sparse_network(path)
    source = file.source
    dtype = dtype or working_dtype(file.dtype)
    own = {_bare(key): key for key in source.shapes if ".motion_modules." not in key}
    try:
        layout = read_layout({name: source.shapes[key] for name, key in own.items()})
    except ValueError as error:
        raise ValueError(f"{source.name}: {error}") from error
    with source.held():
        motion = load_motion_module(file, operations=operations, dtype=dtype, progress=progress)
        # Built without storage, then given the file's weights: no second copy in memory.
        network = SparseNetwork(layout, motion, operations, dtype=dtype, device="meta")
        names = {own[name]: ours for name, ours in _names(layout).items() if name in own}
        state = _read_state(source, names, dtype, progress, file.num_values)
    expected = {
        name: value.shape for name, value in network.state_dict().items() if not name.startswith("motion.")
    }
    found = {name: value.shape for name, value in state.items()}
    if found != expected:
        wrong = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        raise ValueError(f"{source.name}: the encoder is incomplete ({wrong[0]}). Download it again.")
    if ignored := sorted(own[name] for name in own if own[name] not in names):
        logger.warning(
            "%s: %d unknown tensors were ignored, such as %s.", source.name, len(ignored), shown(ignored[0])
        )
    network.load_state_dict(state, strict=False, assign=True)
    return network.requires_grad_(False).eval()


def _read_state(
    source: TensorFile,
    names: Mapping[str, str],
    dtype: torch.dtype,
    progress: Callable[[int], None] | None,
    loaded: int,
) -> dict[str, torch.Tensor]:
    """Weights by their names in the network. ``names``: key in the file -> that name."""
    state = {}
    for key, tensor in source.read(names):
        require_floats(source.name, key, tensor.dtype)
        converted = computable(tensor).to(dtype, copy=True)
        require_finite(source.name, key, tensor, converted)
        state[names[key]] = converted
        loaded += tensor.numel()
        if progress is not None:
            progress(loaded)
    return state


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
