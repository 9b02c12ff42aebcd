"""What the demo leaves behind: a page of its animations, and a strip of them for the README.

The page stands beside its pictures and refers to nothing else, so the folder can be moved, zipped or served.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageChops

if TYPE_CHECKING:
    from renders import Result

MILLISECONDS = 125  # of a frame: motion modules know 8 frames per second

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>AnimateDiff Flipbook: demo</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }}
h2 {{ font-size: 1.1rem; margin: 2.5rem 0 1rem; }}
.row {{ display: flex; flex-wrap: wrap; gap: 1.25rem; }}
figure {{ margin: 0; width: 13.5rem; }}
img {{ width: 100%; image-rendering: auto; border-radius: .4rem; display: block; }}
figcaption {{ margin-top: .4rem; }}
small {{ opacity: .7; display: block; }}
</style>
<h1>AnimateDiff Flipbook</h1>
<p>{intro}</p>
{sections}
</html>
"""


def write_page(results: Sequence[Result], path: Path, intro: str) -> None:
    """Write the page for results that lie in its own folder, whole or not at all."""
    sections = []
    for section, group in groupby(results, key=lambda result: result.render.section):
        figures = "\n".join(_figure(result) for result in group)
        sections.append(f'<h2>{escape(section)}</h2>\n<div class="row">\n{figures}\n</div>')
    text = PAGE.format(intro=escape(intro), sections="\n".join(sections))
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _figure(result: Result) -> str:
    render = result.render
    facts = f"{render.workflow}.json, seed {render.seed}, {result.frames} frames, {result.seconds:.1f} s"
    prompt = f"<small>{escape(render.prompt)}</small>" if render.prompt not in (None, render.caption) else ""
    return (
        f'<figure><img src="{escape(result.path.name)}" alt="{escape(render.prompt or render.caption)}">'
        f"<figcaption>{escape(render.caption)}{prompt}<small>{escape(facts)}</small></figcaption></figure>"
    )


def read_frames(path: Path) -> list[Image.Image]:
    """All frames of an animation, RGB."""
    with Image.open(path) as image:
        frames = []
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            frames.append(image.convert("RGB"))
    return frames


def count_moving_frames(path: Path) -> int:
    """Number of frames of an animation. Raises ValueError if there is one only, or if nothing moves."""
    frames = read_frames(path)
    if len(frames) < 2:
        raise ValueError(f"{path} holds one frame: the result is a picture and no animation")
    if not any(ImageChops.difference(frames[0], frame).getbbox() for frame in frames[1:]):
        raise ValueError(f"{path} holds {len(frames)} equal frames: nothing moves")
    return len(frames)


def write_strip(paths: Sequence[Path], output: Path, size: int = 192, gap: int = 8) -> None:
    """Animations side by side as one animated WEBP of the shortest one's length.

    size: pixels of each picture's side. gap: pixels between them, transparent.
    """
    clips = [read_frames(path) for path in paths]
    width = len(clips) * (size + gap) - gap
    frames = []
    for moment in zip(*clips, strict=False):
        frame = Image.new("RGBA", (width, size), (0, 0, 0, 0))
        for index, picture in enumerate(moment):
            frame.paste(picture.resize((size, size), Image.Resampling.LANCZOS), (index * (size + gap), 0))
        frames.append(frame)
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_suffix(".tmp")
    frames[0].save(
        temporary, "WEBP", save_all=True, append_images=frames[1:], duration=MILLISECONDS, loop=0, quality=85
    )
    os.replace(temporary, output)


def write_thumbnail(path: Path, output: Path, size: int = 192) -> None:
    """Four moments of an animation as `write_panels` puts them together."""
    frames = read_frames(path)
    write_panels([frames[number * (len(frames) - 1) // 3] for number in range(4)], output, size)


def write_panels(panels: Sequence[Image.Image], output: Path, size: int = 192) -> None:
    """Four pictures in a square JPEG, in reading order: ComfyUI's template browser shows no other format.

    size: pixels of each picture's side.
    """
    page = Image.new("RGB", (2 * size, 2 * size))
    for number, panel in enumerate(panels):
        part = panel.resize((size, size), Image.Resampling.LANCZOS)
        page.paste(part, (number % 2 * size, number // 2 * size))
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_suffix(".tmp")
    page.save(temporary, "JPEG", quality=85)
    os.replace(temporary, output)
