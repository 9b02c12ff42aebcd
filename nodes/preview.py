"""Moving preview: while a clip is sampled, its frames so far go to the page, which plays them on the node.

ComfyUI's own preview goes on as it is and shows the first frame; ``web/preview.js`` puts the moving one over
it. A page that cannot play is sent all frames on one sheet, as if ComfyUI had made that preview. All frames
are decoded in one go: their latents lie side by side, which ComfyUI's own previewer takes for a single
picture. A sheet is made only if the time spent on sheets stays a small part of the time that the run has
taken.
"""

from __future__ import annotations

import base64
import inspect
import io
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from comfy.model_management import InterruptProcessingException
from PIL import Image

from . import host_preview
from .compat import logger

MARK = "animatediff_flipbook_preview"
"""Entry in a run's options, which end with it: the preview is arranged."""
MOST_FRAMES = 16
"""Frames on a sheet; a longer clip is shown by as many, evenly spaced."""
CELL = 128
"""Longest side of a frame on the page's sheet, in pixels."""
LATENT_CELL, NETWORK_CELL = 128, 32
"""Longest side of a frame on the sheet of latents, where a latent is a pixel and where a network decodes."""
GUTTER = 2
"""Latents between frames for a network, which looks around every pixel."""
SHARE = 0.02
"""Part of a run's time that sheets may take."""
INTERVAL = 0.5
"""Seconds between two sheets, and before the first."""


def sample_with_preview(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """Go on with an OUTER_SAMPLE call, with a moving preview where the run has a callback. Several wrappers
    of a run may come here; the first one arranges it."""
    options = executor.class_obj.model_options
    call = inspect.signature(executor.original).bind(*args, **kwargs)
    callback = call.arguments.get("callback")
    if callback is None or options.get(MARK):
        return executor(*args, **kwargs)
    options[MARK] = True
    call.arguments["callback"] = MovingPreview(callback, executor.class_obj.model_patcher)
    return executor(*call.args, **call.kwargs)


class MovingPreview:
    """A sampler's callback that also sends the clip so far, now and then."""

    def __init__(
        self, callback: Callable, patcher: Any, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._callback = callback
        self._patcher = patcher
        self._clock = clock
        self._begun = self._last = clock()
        self._spent = 0.0
        self._expected: float | None = None
        self._previewer: Any = None
        self._sheet: Image.Image | None = None
        """What a page that cannot play was sent."""
        self._encoding = 0.0
        """Seconds that the server takes to send it again."""
        self._off = False

    def __call__(self, step: int, x0: torch.Tensor, x: torch.Tensor, total_steps: int) -> Any:
        result = self._callback(step, x0, x, total_steps)
        way = None if self._off or not _is_clip(x0) else host_preview.way_to_show()
        if way is None:
            return result
        begun = self._clock()
        try:
            if self._is_due():
                self._show(way, step + 1, x0, total_steps)
                self._last = self._clock()
            elif self._sheet is not None and self._is_affordable(self._encoding):
                self._send_sheet(step + 1, total_steps)  # else the first frame, just sent, would stay
        except InterruptProcessingException:
            raise
        except Exception as error:  # a preview is not worth a run
            self._off = True
            logger.warning("No moving preview for the rest of this run: %s", error)
        self._spent += self._clock() - begun
        return result

    def _is_due(self) -> bool:
        return self._clock() - self._last >= INTERVAL and self._is_affordable(self._expected or 0.0)

    def _is_affordable(self, seconds: float) -> bool:
        return self._spent + seconds <= SHARE * (self._clock() - self._begun)

    def _show(self, way: str, step: int, x0: torch.Tensor, total_steps: int) -> None:
        """Send a sheet; the first time, find out whether there is a previewer and what a sheet will cost."""
        if self._expected is None:
            self._previewer = host_preview.core_previewer(self._patcher)
            self._off = self._previewer is None
            if self._off:
                return
            frames = min(len(x0), MOST_FRAMES)
            for _ in range(2):  # the first time is not like the others
                begun = self._clock()
                contact_sheet(self._previewer, x0[:1])
                self._expected = frames * (self._clock() - begun)
            if not self._expected <= SHARE * (self._clock() - self._begun):
                return
        node = host_preview.running_node()
        if node is None:
            return
        begun = self._clock()
        indices = chosen_frames(len(x0))
        picture, columns = contact_sheet(self._previewer, x0[indices])
        drawn = self._clock()
        jpeg = io.BytesIO()
        picture.save(jpeg, "JPEG", quality=85)
        self._expected = self._clock() - begun
        self._encoding = self._clock() - drawn
        self._sheet = picture if way == "sheet" else None
        if way == "sheet":
            self._send_sheet(step, total_steps)
            return
        host_preview.send(
            {
                **node,
                "step": step,
                "steps": total_steps,
                "frames": len(indices),
                "columns": columns,
                "image": base64.b64encode(jpeg.getvalue()).decode(),
            }
        )

    def _send_sheet(self, step: int, total_steps: int) -> None:
        """ComfyUI's server encodes it, in its own thread."""
        host_preview.send_as_core_does(self._sheet, step, total_steps)
        self._spent += self._encoding


def chosen_frames(num_frames: int) -> list[int]:
    """Which frames of a clip are shown: all, or ``MOST_FRAMES`` of them, evenly spaced from the first on."""
    count = min(num_frames, MOST_FRAMES)
    return [number * num_frames // count for number in range(count)]


def contact_sheet(previewer: Any, latents: torch.Tensor) -> tuple[Image.Image, int]:
    """Frames side by side on one picture, row by row, decoded as one, so that a GPU is waited for once.

    Args:
        previewer: one of ComfyUI's; it makes a picture of the first entry of a batch.
        latents: ``(F, C, H, W)``.

    Returns:
        The picture, each frame at most ``CELL`` pixels long, and the number of frames in a row.

    Raises:
        ValueError: the previewer's picture is not a multiple of its latent.
    """
    network = host_preview.decodes_with_network(previewer)
    gutter = GUTTER if network else 0
    cells = _shrunk(latents, NETWORK_CELL if network else LATENT_CELL)
    if gutter:
        cells = torch.nn.functional.pad(cells, (gutter,) * 4, mode="replicate")
    count, channels, height, width = cells.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    missing = rows * columns - count
    if missing:
        cells = torch.cat((cells, cells.new_zeros(missing, channels, height, width)))
    sheet = cells.view(rows, columns, channels, height, width).permute(2, 0, 3, 1, 4)
    decoded = previewer.decode_latent_to_preview(sheet.reshape(1, channels, rows * height, columns * width))
    factor, rest = divmod(decoded.width, columns * width)
    if rest or not factor or decoded.height != rows * height * factor:
        raise ValueError(
            f"ComfyUI's previewer made a picture of {decoded.width} x {decoded.height} of a latent of "
            f"{columns * width} x {rows * height}; expected a multiple."
        )
    if not gutter and max(height, width) * factor <= CELL:
        return decoded, columns
    inner = ((width - 2 * gutter) * factor, (height - 2 * gutter) * factor)
    smaller = min(1.0, CELL / max(inner))
    size = tuple(max(1, round(side * smaller)) for side in inner)
    picture = Image.new("RGB", (columns * size[0], rows * size[1]))
    for number in range(count):
        row, column = divmod(number, columns)
        left, top = (column * width + gutter) * factor, (row * height + gutter) * factor
        box = (left, top, left + inner[0], top + inner[1])
        picture.paste(decoded.resize(size, Image.Resampling.BILINEAR, box), (column * size[0], row * size[1]))
    return picture, columns


def _shrunk(latents: torch.Tensor, longest: int) -> torch.Tensor:
    height, width = latents.shape[-2:]
    if max(height, width) <= longest:
        return latents
    factor = longest / max(height, width)
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    return torch.nn.functional.adaptive_avg_pool2d(latents, size)


def _is_clip(x0: Any) -> bool:
    """Whether there is something to move: several pictures, and no tensors of several kinds in one."""
    return not getattr(x0, "is_nested", False) and getattr(x0, "ndim", 0) == 4 and len(x0) > 1
