"""A LoRA beside a linear layer instead of in its weights: ``y + strength * up(down(z))``.

In the weights a LoRA costs nothing, but has one strength for a whole run. Beside them its strength may
change from step to step, and from frame to frame: a frame's rows are multiplied by the strength of that
frame, at the cost of two products of the LoRA's rank.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .values import Value


class LowRank(nn.Module):
    """The factors of one linear layer.

    Args:
        number: of the LoRA among those of a call.
        down: ``(rank, in)``.
        up: ``(out, rank)``, the LoRA's own scale folded in.
        rows: ``(first, count)`` of the layer's outputs, where several layers are one product.
        operations: where layers come from.
        dtype: of the weights.
    """

    def __init__(
        self,
        number: int,
        down: torch.Tensor,
        up: torch.Tensor,
        rows: tuple[int, int] | None,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.number, self.rows = number, rows
        self.down = operations.Linear(down.shape[1], down.shape[0], bias=False, dtype=dtype)
        self.up = operations.Linear(up.shape[1], up.shape[0], bias=False, dtype=dtype)
        for layer, weight in ((self.down, down), (self.up, up)):
            layer.weight = nn.Parameter(weight.to(layer.weight.dtype, copy=True), requires_grad=False)

    def added_to(self, y: torch.Tensor, z: torch.Tensor, strength: Value) -> torch.Tensor:
        """``y`` (N, F, out), the layer's output for ``z`` (N, F, in), with the LoRA's part added in place;
        ``strength`` a number or ``(1 or N, F, 1)``."""
        part = y if self.rows is None else y.narrow(-1, *self.rows)
        part.add_(self.up(self.down(z) * strength))
        return y
