"""A motion model: the temporal transformers of a whole UNet, under the names that AnimateDiff's files use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .call import MotionCall
from .config import MotionModuleConfig
from .layers import TemporalTransformer

__all__ = ["MotionCall", "MotionModel", "MotionModule"]


class MotionModule(nn.Module):
    """One entry of the file; the extra level ``temporal_transformer`` is the original's."""

    def __init__(self, temporal_transformer: TemporalTransformer) -> None:
        super().__init__()
        self.temporal_transformer = temporal_transformer

    def forward(self, x: torch.Tensor, call: MotionCall) -> torch.Tensor:
        """``x`` (B*F, C, H, W) -> the same shape."""
        return self.temporal_transformer(x, call)


class MotionModel(nn.Module):
    """All motion modules of one file.

    It has no forward of its own: its modules run inside the UNet (:mod:`~.injection`).

    Args:
        config: layout and conventions.
        operations: namespace with ``Linear``, ``LayerNorm`` and ``GroupNorm``.
        dtype, device: of the weights; position tables stay fp32.
        fused_qkv: one product for q, k and v (inference); off, the layers are those the files name
            (training).
    """

    def __init__(
        self,
        config: MotionModuleConfig,
        *,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        fused_qkv: bool = True,
    ) -> None:
        super().__init__()
        self.config = config
        self.fused_qkv = fused_qkv
        for name, shape in config.modules:
            transformer = TemporalTransformer(
                shape,
                num_heads=config.num_heads,
                norm_groups=config.norm_groups,
                joint_norm=config.module_groupnorm == "joint",
                fused_qkv=fused_qkv,
                operations=operations,
                dtype=dtype,
                device=device,
            )
            _add_by_path(self, name, MotionModule(transformer))
        if operations is nn:
            self.zero_outputs()

    def zero_outputs(self) -> None:
        """Make every module the identity, as training from scratch begins."""
        for _, module in self.motion_modules():
            nn.init.zeros_(module.temporal_transformer.proj_out.weight)
            nn.init.zeros_(module.temporal_transformer.proj_out.bias)

    def motion_modules(self) -> Iterator[tuple[str, MotionModule]]:
        """``(name, module)`` in file order."""
        for name, _ in self.config.modules:
            yield name, self.get_submodule(name)

    def get_dtype(self) -> torch.dtype:
        """Type of the weights, as ComfyUI asks for it."""
        return next(self.parameters()).dtype


def _add_by_path(root: nn.Module, path: str, module: nn.Module) -> None:
    """Register ``module`` under a dotted path, making the levels in between."""
    *parents, last = path.split(".")
    for parent in parents:
        if parent not in root._modules:
            root.add_module(parent, nn.Module())
        root = root.get_submodule(parent)
    root.add_module(last, module)
