"""Context Preview: a picture of the windows and of what each frame counts in them, step by step."""

from __future__ import annotations

import comfy.samplers
import numpy as np
import torch
from comfy_api.latest import io, ui
from PIL import Image, ImageDraw, ImageFont

from ...motion_core.clips.context import ContextOptions, ContextWindow, context_windows
from ...motion_core.clips.context_fuse import fused_weights
from ..checks import check_inputs
from ..compat import make_schema
from ..types import CATEGORY
from .context_handler import settings_on
from .context_run import ContextRun

WIDTH = 960
"""Pixels for the frames; a cell is at most 24 wide."""
MARGIN = 150
"""Pixels left of the frames, for the words."""
ROW = 12
"""Pixels per window."""
PAPER, GRID, INK = (250, 250, 248), (225, 225, 222), (40, 40, 44)
STRAIGHT, WRAPPED = (34, 96, 168), (196, 84, 30)


class ContextPreview(io.ComfyNode):
    """Draws the context windows of a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlipbookContextPreview",
            display_name="Context Preview",
            category=CATEGORY,
            description=(
                "Draws which frames the context windows of a model hold at every step of a run and what each "
                "frame counts in them: one row per window, frames from left to right, the darker the more. "
                "Windows that run over the end into the beginning are orange."
            ),
            search_aliases=["Visualize Context Options", "context windows view"],
            inputs=[
                io.Model.Input("model", tooltip="A model with Context Windows."),
                io.Int.Input("frames", default=48, min=1, max=1000, tooltip="Frames of the clip."),
                io.Int.Input(
                    "steps",
                    default=4,
                    min=1,
                    max=50,
                    tooltip=(
                        "Steps of the run, all of which are drawn: those of a whole run with the scheduler "
                        "normal. Give it the sampler's number of steps to see its windows."
                    ),
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The drawing.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model: io.Model.Type, frames: int = 48, steps: int = 4) -> io.NodeOutput:
        check_inputs(cls, locals())
        settings = settings_on(model)
        if settings is None:
            raise ValueError(
                "This model has no context windows of AnimateDiff Flipbook. Put Context Windows in front."
            )
        sampling = model.get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", steps)
        run = ContextRun(settings, sampling, sigmas, 0)
        levels = sigmas.tolist()[:steps]
        image = draw([(level, run.options_at(level)) for level in levels], frames)
        pixels = torch.from_numpy(np.array(image)).float().div(255.0).unsqueeze(0)
        return io.NodeOutput(pixels, ui=ui.PreviewImage(pixels, cls=cls))


def draw(steps: list[tuple[float, ContextOptions | None]], frames: int) -> Image.Image:
    """One band per step, one row per window.

    Args:
        steps: ``(sigma, options)`` of every step; no options where the clip runs whole.
        frames: of the clip.
    """
    bands = [_band(options, frames, number, sigma) for number, (sigma, options) in enumerate(steps)]
    cell = max(1, min(24, WIDTH // frames))
    height = 40 + sum(ROW * len(rows) + 34 for _, rows in bands)
    image = Image.new("RGB", (MARGIN + cell * frames + 20, height), PAPER)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default()
    _ruler(pen, font, frames, cell)
    top = 40
    for title, rows in bands:
        for number, line in enumerate(title):
            pen.text((10, top + 11 * number), line, INK, font=font)
        strongest = max(float(weights.max()) for _, weights in rows)
        for window, weights in rows:
            colour = WRAPPED if window.wraps else STRAIGHT
            pen.rectangle((MARGIN, top, MARGIN + cell * frames - 1, top + ROW - 2), GRID)
            for frame, weight in zip(window.indices, weights.tolist(), strict=True):
                share = 0.12 + 0.88 * weight / strongest
                shade = tuple(round(p + (c - p) * share) for p, c in zip(PAPER, colour, strict=True))
                left = MARGIN + cell * frame
                pen.rectangle((left, top, left + max(0, cell - 2), top + ROW - 2), shade)
            top += ROW
        top += 34
    return image


def _band(
    options: ContextOptions | None, frames: int, number: int, sigma: float
) -> tuple[list[str], list[tuple[ContextWindow, torch.Tensor]]]:
    """Words and rows of one step."""
    title = [f"step {number}, sigma {sigma:.2f}"]
    if options is None:
        whole = ContextWindow(tuple(range(frames)))
        return [*title, "whole clip"], [(whole, torch.ones(frames))]
    windows = context_windows(options, frames, number)
    weights = fused_weights(windows, options, frames, sigma=sigma, step=number)
    words = [*title, options.schedule, f"{options.fuse}, {len(windows)} windows"]
    return words, list(zip(windows, weights, strict=True))


def _ruler(pen: ImageDraw.ImageDraw, font: ImageFont.ImageFont, frames: int, cell: int) -> None:
    """Frame numbers along the top."""
    every = next(n for n in (1, 2, 4, 8, 16, 32, 64, 128) if n * cell >= 28 or n == 128)
    pen.text((10, 14), "frame", INK, font=font)
    for frame in range(0, frames, every):
        left = MARGIN + cell * frame
        pen.text((left, 14), str(frame), INK, font=font)
        pen.line((left, 28, left, 34), INK)
