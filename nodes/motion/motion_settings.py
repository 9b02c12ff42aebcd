"""Motion Settings: positions, weights and blocks of a motion module."""

from __future__ import annotations

import numpy as np
import torch
from comfy_api.latest import io, ui
from PIL import Image, ImageDraw, ImageFont

from ...motion_core.module.block_text import read_blocks
from ...motion_core.module.call import MotionCall
from ...motion_core.module.positions import PositionStretch
from ..checks import check_inputs
from ..compat import make_schema
from ..types import CATEGORY, MotionSettings
from .settings import FACTORS, ModuleSettings

PICTURED = (
    *(f"down_blocks.{level}.motion_modules.{module}" for level in range(4) for module in range(2)),
    "mid_block.motion_modules.0",
    *(f"up_blocks.{level}.motion_modules.{module}" for level in range(4) for module in range(3)),
)
"""The modules of SD1.5, which the picture shows."""
ROW, LEFT, WIDTH = 15, 230, 360
PAPER, INK, SCALE, EFFECT = (250, 249, 246), (40, 40, 44), (222, 120, 60), (70, 120, 190)
FACTOR_TOOLTIPS = {
    "all_weights": "Factor on all weights of the module, and on its positions.",
    "q": "Factor on the weights that make queries: how decidedly a frame looks at others.",
    "k": "Factor on the weights that make keys.",
    "v": "Factor on the weights that make values: what frames take over from each other.",
    "out": "Factor on the attention's output, weights and bias.",
    "feed_forward": "Factor on the feed-forward's weights and biases.",
}


class MotionSettingsNode(io.ComfyNode):
    """How a motion module's parts are used."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlipbookMotionSettings",
            display_name="Motion Settings",
            category=CATEGORY,
            description=(
                "Changes how a motion module is used: its positions stretched, parts of its weights stronger "
                "or weaker, single blocks turned up or down. Everything is as trained until it is changed."
            ),
            search_aliases=[
                "AnimateDiff Settings",
                "Motion Model Settings",
                "Adjust PE Sweetspot Stretch",
                "Adjust PE Full Stretch",
                "Adjust PE Manual",
                "Adjust Weight",
                "per block",
                "ADE",
            ],
            inputs=[
                io.Int.Input(
                    "stretch_rows",
                    default=0,
                    min=0,
                    max=1024,
                    tooltip=(
                        "How many positions, from the first on, are stretched over more frames. 0: all the "
                        "module knows. 16 is what most modules saw most of."
                    ),
                ),
                io.Int.Input(
                    "stretch_by",
                    default=0,
                    min=0,
                    max=1024,
                    tooltip="How many positions more they become: 16 rows and 2 stretch 16 onto 18.",
                ),
                io.Int.Input(
                    "first_position",
                    default=0,
                    min=0,
                    max=1024,
                    tooltip="Position of the first frame, after stretching.",
                ),
                io.Float.Input(
                    "positions",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.01,
                    tooltip="Factor on the positions: below 1, frames know less well where they are.",
                ),
                *(
                    io.Float.Input(name, default=1.0, min=0.0, max=2.0, step=0.01, tooltip=tooltip)
                    for name, tooltip in FACTOR_TOOLTIPS.items()
                ),
                io.String.Input(
                    "blocks",
                    multiline=True,
                    default="",
                    tooltip=(
                        "Values for single blocks, one line each, times those for all: "
                        "`up_blocks.1: scale 1.2, effect 0.8`, `down_blocks.0.1: scale 1.2/0.9` (a module's "
                        "two attentions), `mid_block: effect 0`. Of two lines for a module the first counts."
                    ),
                ),
                MotionSettings.Input(
                    "previous", optional=True, tooltip="Motion Settings that these are added to."
                ),
            ],
            outputs=[
                MotionSettings.Output(
                    display_name="motion_settings", tooltip="For Apply Motion Module or Motion Keyframe."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        stretch_rows: int = 0,
        stretch_by: int = 0,
        first_position: int = 0,
        positions: float = 1.0,
        all_weights: float = 1.0,
        q: float = 1.0,
        k: float = 1.0,
        v: float = 1.0,
        out: float = 1.0,
        feed_forward: float = 1.0,
        blocks: str = "",
        previous: object = None,
    ) -> io.NodeOutput:
        check_inputs(cls, locals())
        given = (all_weights, q, k, v, out, feed_forward)
        stretch = PositionStretch(stretch_rows, stretch_by, first_position)
        settings = ModuleSettings(
            None if stretch == PositionStretch() else stretch,
            positions,
            {name: factor for name, factor in zip(FACTORS, given, strict=True) if factor != 1.0},
            read_blocks(blocks),
        )
        if previous is not None:
            settings = settings.behind(given_settings("previous", previous))
        return io.NodeOutput(settings, ui=ui.PreviewImage(draw(settings), cls=cls))


def given_settings(name: str, value: object) -> ModuleSettings:
    """What arrived at a MOTION_SETTINGS input.

    Raises:
        ValueError: something else.
    """
    if value is None:
        return ModuleSettings()
    if not isinstance(value, ModuleSettings):
        raise ValueError(
            f"The {name} input got a {type(value).__name__}. Connect Motion Settings "
            "(FlipbookMotionSettings)."
        )
    return value


def draw(settings: ModuleSettings) -> torch.Tensor:
    """A picture ``(1, H, W, 3)`` of scale and effect in every module of SD1.5."""
    image = Image.new("RGB", (LEFT + WIDTH, ROW * (len(PICTURED) + 2) + 12), PAPER)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default()
    pen.text((LEFT, 6), "scale", SCALE, font=font)
    pen.text((LEFT + WIDTH // 2, 6), "effect", EFFECT, font=font)
    for row, name in enumerate(PICTURED, 1):
        call = MotionCall(1, blocks=settings.blocks).for_module(name)
        scales = call.scale if isinstance(call.scale, tuple) else (call.scale,)
        top = 6 + ROW * row
        pen.text((8, top), name.replace("motion_modules.", ""), INK, font=font)
        _bar(pen, font, LEFT, top, max(scales), "/".join(f"{scale:g}" for scale in scales), SCALE)
        _bar(pen, font, LEFT + WIDTH // 2, top, call.effect, f"{call.effect:g}", EFFECT)
    return torch.from_numpy(np.array(image)).float().div(255.0).unsqueeze(0)


def _bar(
    pen: ImageDraw.ImageDraw, font: ImageFont.ImageFont, left: int, top: int, value: float, text: str, colour
) -> None:
    length = round(min(value, 2.0) * 50)
    pen.rectangle((left, top + 3, left + length, top + ROW - 4), colour)
    pen.text((left + length + 6, top), text, INK, font=font)
