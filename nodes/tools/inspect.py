"""Inspect Motion Module: what is in a module, a MotionLoRA or a file of either."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from comfy_api.latest import io, ui
from PIL import Image, ImageDraw, ImageFont

from ...motion_core.files.checkpoint import load_with_parts, open_motion_module
from ...motion_core.files.lora import LoraFile, read_lora
from ...motion_core.files.recognise import recognise
from ...motion_core.files.tensor_file import TensorFile
from ...motion_core.weights.inspect import (
    block_of,
    describe_lora,
    describe_module,
    lora_norms,
    norms,
    position_table,
)
from ...motion_core.weights.loss_curve import of_metadata
from ...motion_core.weights.module_weights import ModuleWeights, weights_of
from .. import paths
from ..checks import check_inputs
from ..compat import make_schema, show_on_node
from ..motion.load import chosen_loras
from ..training.curve import draw_curve
from ..types import CATEGORY, MotionLora, MotionModule
from .derived import progress_bar, require_module, weights_of_module

NONE = "none"
FOLDERS = (paths.MOTION_MODULES, paths.MOTION_LORAS, paths.LORAS)
WIDTH, ROW, NAMES = 720, 14, 260
PAPER, INK, BARS = (
    (250, 250, 248),
    (40, 40, 44),
    ((34, 96, 168), (196, 84, 30), (90, 140, 70), (140, 90, 150)),
)


class InspectMotionModule(io.ComfyNode):
    """Tells what a motion module or a MotionLoRA is made of."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlipbookInspectMotionModule",
            display_name="Inspect Motion Module",
            category=f"{CATEGORY}/tools",
            description=(
                "Tells what a motion module, a MotionLoRA or a domain adapter is: family, layout, positions, "
                "size of the weights by block, and the words in its file."
            ),
            search_aliases=["motion model info", "metadata", "lora info"],
            inputs=[
                MotionModule.Input("motion_module", optional=True, tooltip="A module to look into."),
                MotionLora.Input("motion_lora", optional=True, tooltip="MotionLoRAs to look into."),
                io.Combo.Input(
                    "file",
                    options=[
                        NONE,
                        *(f"{folder}/{name}" for folder in FOLDERS for name in paths.choices(folder)),
                    ],
                    default=NONE,
                    optional=True,
                    tooltip="A file to look into, without anything connected.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="What was found, in words."),
                io.Image.Output(display_name="picture", tooltip="Weights by block, and the position table."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, file: str | None = None) -> bool | str:
        if file is None or file == NONE:
            return True
        folder, _, name = file.partition("/")
        if folder not in FOLDERS:
            return (
                f"A file is named with its folder ({', '.join(FOLDERS)}) before it. Choose one of the list."
            )
        return paths.check(folder, name)

    @classmethod
    def fingerprint_inputs(
        cls, motion_module: object = None, motion_lora: object = None, file: str = NONE
    ) -> str:
        folder, _, name = (file or NONE).partition("/")
        return paths.fingerprint(folder, name) if folder in FOLDERS else NONE

    @classmethod
    def execute(
        cls, motion_module: object = None, motion_lora: object = None, file: str = NONE
    ) -> io.NodeOutput:
        check_inputs(cls, locals())
        lines: list[str] = []
        pictures: list[Image.Image] = []
        if motion_module is not None:
            module = require_module("motion_module", motion_module)
            weights = weights_of_module(module)
            lines += describe_module(weights, module.metadata)
            pictures += [draw_module(weights), *_losses(module.metadata)]
        for one in chosen_loras(motion_lora):
            lines += describe_lora(one.lora)
            pictures += [draw_lora(one.lora), *_losses(one.lora.metadata)]
        if file and file != NONE:
            found = cls.validate_inputs(file)
            if found is not True:
                raise ValueError(found)
            folder, _, name = file.partition("/")
            more, drawn = _of_file(folder, name)
            lines += more
            pictures += drawn
        if not pictures:
            raise ValueError(
                "There is nothing to inspect: connect a module or a MotionLoRA, or choose a file."
            )
        report = "\n".join(lines)
        show_on_node(cls, report)
        pixels = torch.from_numpy(np.array(_stacked(pictures))).float().div(255.0).unsqueeze(0)
        return io.NodeOutput(report, pixels, ui=ui.PreviewImage(pixels, cls=cls))


def _of_file(folder: str, name: str) -> tuple[list[str], list[Image.Image]]:
    """Of a file, its notes too."""
    path = paths.full_path(folder, name)
    if recognise(TensorFile(path).shapes) in ("motion_lora", "domain_adapter"):
        lora = read_lora(path)
        return describe_lora(lora), [draw_lora(lora), *_losses(lora.metadata)]
    opened = open_motion_module(path)
    move = progress_bar()
    model = load_with_parts(opened, fused_qkv=False, progress=lambda done: move(done, opened.num_values))
    weights = weights_of(opened.source.name, model)
    words = opened.source.metadata
    lines = describe_module(weights, words, opened.dtype)
    return [*lines, *opened.notes], [draw_module(weights), *_losses(words)]


def _losses(metadata: Mapping[str, str]) -> list[Image.Image]:
    """The curve of a training of ours."""
    losses = of_metadata(metadata)
    return [draw_curve(losses, losses[-1][0])] if losses else []


def draw_module(weights: ModuleWeights) -> Image.Image:
    """Bars of every module's weights by part, and the position table: frames downwards."""
    found = norms(weights)
    rows = [
        (f"{one.name.replace('.motion_modules', '')} {part}", value)
        for one in found
        for part, value in one.parts.items()
    ]
    bars = _bars(weights.name, rows, len({part for one in found for part in one.parts}))
    table, _ = position_table(weights)
    if table is None:
        return bars
    grey = ((table - table.min()) / (table.max() - table.min()).clamp(min=1e-9) * 255).byte().numpy()
    picture = Image.fromarray(grey, "L").resize((WIDTH, max(64, 4 * len(grey))), Image.Resampling.NEAREST)
    return _stacked([bars, picture.convert("RGB")])


def draw_lora(lora: LoraFile) -> Image.Image:
    """Bars of the change by block."""
    blocks: dict[str, float] = {}
    for name, size in lora_norms(lora).items():
        block = block_of(name, 4).replace(".motion_modules", "")
        blocks[block] = (blocks.get(block, 0.0) ** 2 + size**2) ** 0.5
    return _bars(lora.name, list(blocks.items()), 1)


def _bars(title: str, rows: list[tuple[str, float]], colours: int) -> Image.Image:
    image = Image.new("RGB", (WIDTH, ROW * (len(rows) + 2)), PAPER)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default()
    pen.text((6, 4), _plain(title), INK, font=font)
    highest = max([value for _, value in rows], default=0.0) or 1.0
    for number, (name, value) in enumerate(rows):
        top = ROW * number + 22
        pen.text((6, top - 1), _plain(name[:42]), INK, font=font)
        length = (WIDTH - NAMES - 70) * value / highest
        pen.rectangle((NAMES, top, NAMES + length, top + ROW - 5), BARS[number % colours % len(BARS)])
        pen.text((NAMES + length + 6, top - 1), f"{value:.3g}", INK, font=font)
    return image


def _plain(text: str) -> str:
    """What the built-in font can draw."""
    return text.encode("ascii", "backslashreplace").decode("ascii")[:80]


def _stacked(pictures: list[Image.Image]) -> Image.Image:
    image = Image.new("RGB", (WIDTH, sum(each.height for each in pictures)), PAPER)
    top = 0
    for each in pictures:
        image.paste(each, (0, top))
        top += each.height
    return image
