"""Shows a training in its node while it runs, and hears when the user cancels."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import comfy.model_management
import comfy.utils
from PIL import Image

from ..compat import show_on
from .curve import draw_curve, with_frames

SECONDS_BETWEEN_PICTURES = 2.0
SECONDS_BETWEEN_LINES = 0.5
MOST_WARNINGS = 5
"""That are shown on the node; all are in the log."""


class GraphWatch:
    """What the trainer calls a watcher (:class:`training.run.watching.Watcher`).

    Args:
        node_id: of the node in its graph.
        folder: of the run.
        steps: in all.
    """

    interrupts = (comfy.model_management.InterruptProcessingException,)

    def __init__(self, node_id: str | None, folder: Path, steps: int) -> None:
        self._node, self._folder, self._steps = node_id, folder, steps
        self._bar = comfy.utils.ProgressBar(steps, node_id)
        self._first: tuple[int, float] | None = None
        self._frames: list[Image.Image] = []
        self._losses: list[tuple[int, float]] | None = None
        self._pictured = self._said = 0.0
        self._cancelled = False
        self.warnings: list[str] = []

    def doing(self, what: str, done: int = 0, total: int = 0) -> None:
        """What comes between encoding and steps."""
        self._show(f"{what}: {done} of {total}" if total else what, always=not total)
        if total:
            self._move(done, total)

    def encoded(self, what: str, done: int, total: int) -> None:
        """Latents and captions, before the first step."""
        self._show(f"Encoding {what}: {done} of {total}", always=done == total)
        self._move(done, total)

    def stepped(self, step: int, values: Mapping[str, float]) -> None:
        """A step: bar, line, and now and then the curve."""
        now = time.monotonic()
        losses = self._known_losses()
        if math.isfinite(values["loss"]) and step not in dict(losses[-1:]):
            losses.append((step, values["loss"]))
        self._first = self._first or (step, now)
        first, began = self._first
        line = f"step {step} of {self._steps}  loss {values['loss']:.4f}"
        if step > first:
            left = (now - began) / (step - first) * (self._steps - step)
            line += f"  {int(left) // 60}:{int(left) % 60:02d} left"
        self._show(line, always=step == self._steps)
        picture = None
        if now - self._pictured > SECONDS_BETWEEN_PICTURES or step == self._steps:
            self._pictured = now
            picture = (
                "JPEG",
                with_frames(self._curve(), self._frames),
                None,
            )
        self._move(step, self._steps, picture)

    def rendered(self, step: int, frames: Sequence[Image.Image], fps: float) -> None:
        """A sample clip, for the next picture."""
        self._frames, self._pictured = list(frames), 0.0
        self._move(step, self._steps, ("JPEG", with_frames(self._curve(), self._frames), None))

    def interrupted(self) -> None:
        """A layer of ComfyUI has raised, which each does once the user has cancelled."""
        self._cancelled = True

    def wants_stop(self) -> bool:
        """Whether the user has cancelled."""
        return self._cancelled or comfy.model_management.processing_interrupted()

    def _curve(self) -> Image.Image:
        return draw_curve(self._known_losses(), self._steps)

    def _known_losses(self) -> list[tuple[int, float]]:
        """Of an earlier part of the run too: read once, for a record of many steps is long."""
        from ...training.run.losses import read_losses

        if self._losses is None:
            self._losses = read_losses(self._folder)
        return self._losses

    def _move(self, done: int, total: int, picture: tuple | None = None) -> None:
        """The bar raises when the user has cancelled; a run first saves what it has."""
        try:
            self._bar.update_absolute(done, total, picture)
        except self.interrupts:
            self._cancelled = True

    def _show(self, line: str, always: bool = False) -> None:
        now = time.monotonic()
        if always or now - self._said > SECONDS_BETWEEN_LINES:
            self._said = now
            show_on(self._node, "\n".join([line, *self.warnings]))

    @contextmanager
    def hearing_warnings(self) -> Iterator[None]:
        """The trainer's warnings within this block are shown on the node too."""
        from ...training.run.report import OWN, printable

        handler = logging.Handler(logging.WARNING)

        def keep(record: logging.LogRecord) -> None:
            if len(self.warnings) < MOST_WARNINGS:
                self.warnings.append(printable(record.getMessage())[:300])

        handler.emit = keep
        logger = logging.getLogger(OWN)
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)
