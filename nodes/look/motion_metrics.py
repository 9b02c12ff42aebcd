"""Motion Metrics: numbers about a clip, and a plot of them."""

from __future__ import annotations

import comfy.utils
import numpy as np
import torch
from comfy_api.latest import io, ui
from PIL import Image, ImageDraw, ImageFont

from ...motion_core.look.metrics import ClipMetrics, measure
from ..checks import check_inputs
from ..compat import make_schema, picture_device, show_on_node
from ..types import CATEGORY

WIDTH, BAND, MARGIN = 640, 110, 12
PAPER, GRID, INK, LINE = (250, 250, 248), (225, 225, 222), (40, 40, 44), (34, 96, 168)

NUMBERS = (
    ("flicker", "Change that motion does not explain, percent of the brightness range. 0 is steady."),
    ("smoothness", "1: motion goes on evenly, or there is none. 0: back and forth."),
    ("motion", "Amount of motion: mean length of the optical flow, percent of the longer side per frame."),
    ("direction", "Where the picture moves on the whole, degrees: 0 right, 90 up, 180 left, 270 down."),
    ("zoom", "Growth about the middle, percent per frame. Negative: it shrinks."),
    ("loop_seam", "Change from the last frame to the first, over that between frames. 1: the loop closes."),
)


class MotionMetrics(io.ComfyNode):
    """Measures a clip."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlipbookMotionMetrics",
            display_name="Motion Metrics",
            category=f"{CATEGORY}/look",
            description=(
                "Measures the frames of a clip: flicker, smoothness, amount of motion by optical flow, "
                "direction, zoom and the seam of a loop, as numbers and as a plot."
            ),
            search_aliases=["optical flow", "flicker", "clip quality", "measure motion"],
            inputs=[io.Image.Input("images", tooltip="The frames of one clip, at least two.")],
            outputs=[
                *(io.Float.Output(display_name=name, tooltip=words) for name, words in NUMBERS),
                io.String.Output(display_name="report", tooltip="The numbers in words."),
                io.Image.Output(display_name="plot", tooltip="Motion, zoom and flicker from frame to frame."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images: torch.Tensor) -> io.NodeOutput:
        check_inputs(cls, locals())
        bar = comfy.utils.ProgressBar(1)
        found = measure(images, lambda done, total: bar.update_absolute(done, total), picture_device())
        report = described(found, images)
        picture = torch.from_numpy(np.array(draw(found))).float().div(255.0).unsqueeze(0)
        show_on_node(cls, report)
        numbers = [getattr(found, name) for name, _ in NUMBERS]
        return io.NodeOutput(*numbers, report, picture, ui=ui.PreviewImage(picture, cls=cls))


def described(found: ClipMetrics, images: torch.Tensor) -> str:
    """The report."""
    way = f"{found.direction:.0f} degrees at {found.pan:.2f} %" if found.has_direction else "none"
    seam = found.loop_seam
    closes = " (closes)" if seam < 1.5 else " (a jump, if it is played as a loop)"
    # Of one step alone there is no change, and the way back from its end is as long as it.
    few = "" if found.jumps else " (needs three frames)"
    lines = [
        f"{images.shape[0]} frames of {images.shape[2]} x {images.shape[1]}",
        f"flicker {found.flicker:.2f} %{few}",
        f"smoothness {found.smoothness:.2f}{few}",
        f"motion {found.motion:.2f} % of the longer side per frame",
        f"direction {way}",
        f"zoom {found.zoom:+.2f} % per frame",
        f"loop seam {seam:.2f}{few or closes}",
    ]
    return "\n".join(lines)


def draw(found: ClipMetrics) -> Image.Image:
    """A band for each: motion, zoom, flicker."""
    bands = [
        ("motion, % per frame", [step.motion for step in found.steps]),
        ("zoom, % per frame", [step.zoom for step in found.steps]),
        ("flicker, %", list(found.jumps)),
    ]
    image = Image.new("RGB", (WIDTH, BAND * len(bands) + MARGIN), PAPER)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default()
    for number, (title, values) in enumerate(bands):
        top = MARGIN + BAND * number
        low, high = min([0.0, *values]), max([0.0, *values])
        high = high if high - low > 0.1 else low + 0.1
        left, right, bottom = MARGIN, WIDTH - MARGIN, top + BAND - 2 * MARGIN
        place = [
            (
                left + (right - left) * (index + 0.5) / len(values),
                bottom - (bottom - top - 14) * (value - low) / (high - low),
            )
            for index, value in enumerate(values)
        ]
        zero = bottom - (bottom - top - 14) * (0.0 - low) / (high - low)
        pen.text((left, top - 2), f"{title}: {low:.2f} to {high:.2f}", INK, font=font)
        pen.line((left, zero, right, zero), GRID)
        if len(place) > 1:
            pen.line(place, LINE, width=2)
        for x, y in place:
            pen.ellipse((x - 2, y - 2, x + 2, y + 2), LINE)
    return image
