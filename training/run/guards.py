"""What stops a run that learns nothing or learns rubbish, and names the files it happened at."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch

from ..data.dataset import Batch
from ..model.sharding import whole
from .parts import Parts

log = logging.getLogger(__name__)

SKIPPED_STEPS_ALLOWED = 25
"""In a row, by the fp16 scaler: halved as often, its scale of 65536 is below any that could help."""

STEPS_TO_GRADIENT = 3
"""After as many steps every trained tensor must have had a gradient: fresh LoRA factors and fresh modules
behind a zero projection get theirs in the second."""


class NonFinite(FloatingPointError):
    """Loss or gradients are no numbers any more."""


class Guards:
    """Watches a run from the step it begins or goes on with."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._first_step = parts.step
        self._silent = set(parts.weights)
        self._skipped = 0

    def require_finite(self, gathered: torch.Tensor, step: int, batch: Batch, losses: torch.Tensor) -> None:
        """Finite losses in all processes; ``losses`` are this one's."""
        if not torch.isfinite(gathered).all():
            bad = [n for n, ok in zip(batch.names, torch.isfinite(losses), strict=True) if not ok]
            raise NonFinite(self._complaint("The loss", step, bad or ["of another process"]))

    def count_skipped(self, step: int, batch: Batch) -> None:
        """An fp16 scaler skips steps until its scale fits; one that never fits would skip all of them."""
        self._skipped = self._skipped + 1 if self._parts.optimizer.step_was_skipped else 0
        if self._skipped >= SKIPPED_STEPS_ALLOWED:
            what = f"The gradient of {self._skipped} steps in a row, in train.precision = 'fp16',"
            raise NonFinite(self._complaint(what, step, batch.names))

    def require_gradients(self, norm: float, step: int, batch: Batch) -> None:
        """Finite gradients, and within the first steps one for every trained tensor."""
        weights, scaler = self._parts.weights, self._parts.accelerator.scaler
        # An fp16 scaler overflows now and then on purpose and skips the step.
        if not math.isfinite(norm) and scaler is None:
            raise NonFinite(self._complaint("The gradient", step, batch.names))
        if not self._silent or scaler is not None:
            return
        self._silent = {
            n
            for n in sorted(self._silent)
            if weights[n].grad is None or not bool(whole(weights[n].grad).any())
        }
        if self._silent and step >= self._first_step + STEPS_TO_GRADIENT - 1:
            some = ", ".join(sorted(self._silent)[:3])
            share = len(self._silent) / len(weights)
            self._silent = set()
            if share > 0.5:
                raise ValueError(
                    f"{share:.0%} of the trained tensors get no gradient (such as {some}): nothing is "
                    "learned."
                )
            log.warning("%.0f%% of the trained tensors get no gradient, such as %s", 100 * share, some)

    def _complaint(self, what: str, step: int, names: Sequence[str]) -> str:
        state = self._parts.last_good
        good = f"The last good state is step {state}." if state else "There is no state yet."
        return (
            f"{what} is not finite in step {step + 1}, files {', '.join(names)}. {good} Lower "
            "optimizer.lr or lengthen the warm-up, and go on from there (as a command: --resume; in a node, "
            "another learning rate begins anew)."
        )
