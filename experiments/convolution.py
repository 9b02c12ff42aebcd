"""The ablation's other motion module: a one-dimensional convolution over time in place of attention.

AnimateDiff's paper (arXiv 2307.04725, section 5.3) sets a temporal transformer against "1D Temporal
Convolution" of the same size. Here only what lies between `proj_in` and `proj_out` differs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..motion_core.module.call import MotionCall
from ..motion_core.module.config import MotionModuleConfig
from ..motion_core.module.model import MotionModel

KERNEL = 3


class TemporalConvolution(nn.Module):
    """Norm, convolution over frames, GELU, convolution over frames, residual."""

    def __init__(self, width: int, inner: int, device: torch.device | str | None = None) -> None:
        super().__init__()
        pad = KERNEL // 2
        self.norm = nn.LayerNorm(width, device=device)
        self.conv_in = nn.Conv1d(width, inner, KERNEL, padding=pad, device=device)
        self.conv_out = nn.Conv1d(inner, width, KERNEL, padding=pad, device=device)

    def forward(self, t: torch.Tensor, call: MotionCall) -> torch.Tensor:
        """``t`` (N, F, C) -> the same shape."""
        return t + self.conv_out(F.gelu(self.conv_in(self.norm(t).mT))).mT


class ConvolutionModel(MotionModel):
    """A motion model whose blocks are convolutions with as many values as the transformer's."""

    def __init__(self, config: MotionModuleConfig, *, device: Any = None, **ignored: Any) -> None:
        super().__init__(config, fused_qkv=False, device=device)
        for _, module in self.motion_modules():
            transformer = module.temporal_transformer
            for place, block in enumerate(transformer.transformer_blocks):
                width = transformer.shape.inner
                values = sum(weight.numel() for weight in block.parameters())
                inner = round(values / (2 * KERNEL * width))
                transformer.transformer_blocks[place] = TemporalConvolution(width, inner, device)
