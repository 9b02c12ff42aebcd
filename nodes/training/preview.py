"""Preview Training Clips: what training will see, after resampling, cropping and camera motion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
from comfy_api.latest import io, ui
from PIL import Image, ImageDraw, ImageFont

from ..checks import check_inputs
from ..compat import make_schema, show_on_node
from .clips import find_folder, sources, stamp
from .curve import INK, PAPER
from .extras import require_extras
from .runs import PLACE, pixels_of
from .settings import camera_inputs, clip_inputs, data_tree, given, late_inputs

SHEET_FRAMES = 8
"""Frames of a clip in the picture."""
SIDE = 96
"""Pixels of a frame's width in the picture."""


class PreviewTrainingClips(io.ComfyNode):
    """Shows clips as training sees them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlipbookPreviewTrainingClips",
            display_name="Preview Training Clips",
            category="AnimateDiff/training",
            description=(
                "Shows what will be trained: the clips after resampling, cropping and camera motion, with "
                "their captions, and which files cannot be used and why. Give it the inputs of the training "
                "node."
            ),
            search_aliases=["dataset preview", "train"],
            is_input_list=True,
            is_output_node=True,
            inputs=[
                *clip_inputs(frames=True),
                *camera_inputs(),
                io.Int.Input("first", default=0, min=0, max=1_000_000, tooltip="Clip to begin with, from 0."),
                io.Int.Input("most", default=8, min=1, max=64, tooltip="How many clips to show."),
                *late_inputs(settings=False),
            ],
            outputs=[
                io.Image.Output(display_name="clips", tooltip="The clips' frames, one clip after the other."),
                io.Image.Output(
                    display_name="picture", tooltip="A row of frames for each clip, with caption and file."
                ),
                io.Int.Output(display_name="count", tooltip="How many files there are."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: Any = "", **_: Any) -> str:
        name = folder[0] if isinstance(folder, list) and folder else folder
        try:
            return stamp(find_folder(name)) if isinstance(name, str) and name.strip() else ""
        except (ValueError, OSError):
            return ""

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        require_extras()
        from ...training.config import from_dict
        from ...training.data.media import list_media

        values = given(inputs)
        check_inputs(
            cls, {name: value for name, value in values.items() if name not in ("clips", "captions")}
        )
        place = Path(folder_paths.get_output_directory()) / PLACE
        found, _ = sources(
            values["folder"], values["clips"], values["captions"], values["fps"], place / "clips"
        )
        tree = data_tree(values, found)
        tree["data"]["missing_captions"] = "empty"
        base = {"checkpoint": "none"}
        config = from_dict({**tree, "stage": "motion_module", "name": "preview", "output": ".", "base": base})
        files = list_media(config.data.sources, config.data)
        clips, rows, left_out = _decoded(files, values["first"], values["most"], config)
        if not clips:
            reasons = "; ".join(left_out[:3]) or f"first = {values['first']} is behind the last clip"
            raise ValueError(f"None of {len(files)} files can be shown: {reasons}.")
        line = f"{len(files)} files, {len(clips)} clips shown"
        show_on_node(cls, "\n".join([line, *(f"Left out: {reason}" for reason in left_out[:5])]))
        picture = pixels_of([_sheet(rows)])
        frames = [Image.fromarray(frame, "RGB") for clip in clips for frame in clip]
        return io.NodeOutput(pixels_of(frames), picture, len(files), ui=ui.PreviewImage(picture, cls=cls))


def _decoded(files: list, first: int, most: int, config: Any) -> tuple[list, list, list[str]]:
    """Clips ``(F, height, width, 3)`` uint8, a row of the picture for each, and why files are left out."""
    from ...training.data.tracks import tracks_of_file
    from ...training.data.video import Unreadable

    clips, rows, left_out, passed = [], [], [], 0
    bar = comfy.utils.ProgressBar(most)
    # A camera move has taken the stride into account.
    stride = 1 if config.camera.direction else config.data.stride
    for file in files:
        try:
            pause = comfy.model_management.throw_exception_if_processing_interrupted
            tracks = tracks_of_file(file, file.content_hash(), config, pause).tracks
        except (Unreadable, OSError) as error:
            left_out.append(f"{file.path.name}: {error}")
            continue
        for _, _, pixels in tracks:
            clip = pixels[::stride][: config.data.frames]
            if len(clip) < config.data.frames:
                left_out.append(f"{file.path.name}: {len(clip)} frames of {config.data.frames}")
                continue
            if passed >= first:
                clips.append(clip)
                rows.append((f"{file.path.name}: {file.caption or 'no caption'}", clip))
                bar.update_absolute(len(clips))
            passed += 1
            if len(clips) == most:
                return clips, rows, left_out
    return clips, rows, left_out


def _sheet(rows: list[tuple[str, Any]]) -> Image.Image:
    """A line of words and a row of frames for each clip."""
    height, width = rows[0][1].shape[1:3]
    side = max(8, round(SIDE * height / width))
    columns = min(SHEET_FRAMES, len(rows[0][1]))
    image = Image.new("RGB", (columns * SIDE, len(rows) * (side + 18)), PAPER)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default()
    for row, (words, clip) in enumerate(rows):
        top = row * (side + 18)
        safe = "".join(c if c.isprintable() else " " for c in words)[:120]
        pen.text((4, top + 3), safe, INK, font=font)
        for column in range(columns):
            frame = Image.fromarray(clip[column * len(clip) // columns], "RGB")
            image.paste(frame.resize((SIDE, side), Image.Resampling.LANCZOS), (column * SIDE, top + 18))
    return image
