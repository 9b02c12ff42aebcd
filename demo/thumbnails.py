"""Thumbnails of the workflows whose clips the tiny family cannot make: drawn, with the world that it knows.

Why: a picture in ComfyUI's template browser shall say what a graph does. Where the networks that the graph
needs are not among the demo's models, their clip would be noise; so the world of world.py is drawn as the
graph would change it. Whatever stands in a yellow frame is given to the graph, the rest is what it makes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import world
from gallery import write_panels
from PIL import Image, ImageDraw

MOMENTS = np.array([0.0, 1 / 3, 2 / 3, 1.0])  # of a clip: what the four panels show
GIVEN = "#ffd84a"
PAPER, FIRST, SECOND = "#1b1e26", "#5aa9e6", "#f08a4b"
FINE = 4  # lines are drawn this much larger, and come out smooth
LIMBS = (  # of a figure: joint to joint, in the colours of drawn poses
    ("neck", "left hand", "#00c8ff"),
    ("neck", "right hand", "#ffb000"),
    ("neck", "hip", "#ff3030"),
    ("hip", "left foot", "#30e060"),
    ("hip", "right foot", "#4060ff"),
)

Panels = list[Image.Image]


def _pictures(frames: np.ndarray) -> Panels:
    return [Image.fromarray(np.round(frame * 255).astype(np.uint8)) for frame in frames]


def _film(number: int, moments: np.ndarray = MOMENTS, **parts: object) -> Panels:
    """A clip of the world; parts: of its `world.Scene`, in place of those drawn."""
    return _pictures(world.render(replace(world.scene(3, number), **parts), moments))


def _framed(picture: Image.Image) -> Image.Image:
    """As something that is given."""
    framed = picture.copy()
    ImageDraw.Draw(framed).rectangle((0, 0, world.SIZE - 1, world.SIZE - 1), outline=GIVEN, width=4)
    return framed


def _given(frames: Panels, *numbers: int) -> Panels:
    return [_framed(frame) if number in numbers else frame for number, frame in enumerate(frames)]


def _rows(above: Panels, below: Panels) -> Panels:
    """The second and the last moment of what is given, and below them of what becomes of it."""
    return [_framed(above[1]), _framed(above[3]), below[1], below[3]]


def _canvas(background: Image.Image | None = None) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    size = (FINE * world.SIZE, FINE * world.SIZE)
    canvas = background.resize(size) if background else Image.new("RGB", size, PAPER)
    return canvas, ImageDraw.Draw(canvas)


def _small(canvas: Image.Image) -> Image.Image:
    return canvas.resize((world.SIZE, world.SIZE), Image.Resampling.LANCZOS)


def _camera() -> Panels:
    """What the camera will have come to see is marked in its first picture."""
    camera = world.Camera(zoom=0.04, pan_x=2.0)
    parts = {"shape": "circle", "texture": "dotted", "colour": "cyan", "centre": (42.0, 58.0), "radius": 15.0}
    scene = replace(world.scene(3, 5, "still"), **parts)
    first, *others = _pictures(world.render(scene, MOMENTS, camera))
    canvas, draw = _canvas(first)
    middle, frames = world.SIZE / 2, world.FRAMES - 1
    for moment in MOMENTS[1:]:
        half = middle / (1 + camera.zoom) ** (moment * frames)
        centre = middle - camera.pan_x * moment * frames * half / middle
        box = (centre - half, middle - half, centre + half, middle + half)
        draw.rectangle([FINE * value for value in box], outline=GIVEN, width=6)
    return [_small(canvas), *others]


def _two_modules() -> Panels:
    parts = {"shape": "triangle", "texture": "dotted", "colour": "magenta", "centre": (64.0, 64.0)}
    one = _film(1, motion="growing", **parts)
    other = _film(1, motion="moving up", travel=56.0, **parts)
    return [one[0], other[0], one[3], other[3]]


def _figure(moment: float) -> dict[str, tuple[float, float]]:
    """Joints of somebody who waves and walks."""
    swing = math.sin(2 * math.pi * moment - 1.0)
    return {
        "neck": (64, 40),
        "hip": (64 + 3 * swing, 74),
        "left hand": (36 + 6 * swing, 42 - 24 * swing),
        "right hand": (92 + 6 * swing, 42 + 24 * swing),
        "left foot": (50 + 14 * swing, 114),
        "right foot": (78 - 14 * swing, 114),
    }


def _drawn(moment: float, ground: Image.Image | None) -> Image.Image:
    """The figure as drawn poses have it, or with a body on a ground."""
    canvas, draw = _canvas(ground)
    if ground is None:
        draw.rectangle((0, 0, *canvas.size), fill="black")
    joints = {name: (FINE * x, FINE * y) for name, (x, y) in _figure(moment).items()}
    thick = FINE * (4 if ground is None else 13)
    for start, end, colour in LIMBS:
        draw.line((*joints[start], *joints[end]), fill=colour if ground is None else "#d83a2b", width=thick)
        for x, y in (joints[start], joints[end]):
            dot, fill = (FINE * 3, "white") if ground is None else (thick / 2, "#d83a2b")
            draw.ellipse((x - dot, y - dot, x + dot, y + dot), fill=fill)
    x, y = joints["neck"]
    head = FINE * (4 if ground is None else 12)
    draw.ellipse((x - head, y - 18 * FINE - head, x + head, y - 18 * FINE + head), fill="#ffe0c0")
    if ground is None:
        draw.line((x, y, x, y - 18 * FINE), fill="#c040ff", width=thick)
    return _small(canvas)


def _poses() -> Panels:
    ground = _film(2, texture="striped", shape="circle", radius=0.1)[0]
    poses, people = ([_drawn(moment, on) for moment in MOMENTS] for on in (None, ground))
    return _rows(poses, people)


def _repainted() -> Panels:
    film = {"motion": "moving right", "shape": "square", "centre": (64.0, 60.0), "radius": 24.0}
    before = _film(4, texture="dotted", colour="yellow", **film)
    return _rows(before, _film(7, texture="checkered", colour="blue", **film))


def _inpainted() -> Panels:
    """The mask is drawn around what it covers."""
    film = {"motion": "moving right", "centre": (64.0, 66.0), "texture": "striped", "travel": 56.0}
    before = _film(6, shape="circle", colour="green", radius=21.0, **film)
    for number, picture in enumerate(before):
        canvas, draw = _canvas(picture)
        x, reach = 64 + 56 * (MOMENTS[number] - 0.5), 28
        for part in range(0, 360, 24):
            box = [FINE * v for v in (x - reach, 66 - reach, x + reach, 66 + reach)]
            draw.arc(box, part, part + 14, fill="white", width=10)
        before[number] = _small(canvas)
    return _rows(before, _film(6, shape="cross", colour="magenta", radius=24.0, **film))


def _enlarged() -> Panels:
    """One picture over all four panels: its left half coarse."""
    fine = _film(8, shape="circle", texture="dotted", colour="red", centre=(64.0, 64.0), radius=30.0)[1]
    sides = (2 * world.SIZE, 2 * world.SIZE)
    coarse = fine.resize((32, 32), Image.Resampling.BOX).resize(sides, Image.Resampling.NEAREST)
    page = fine.resize(sides, Image.Resampling.LANCZOS)
    page.paste(coarse.crop((0, 0, world.SIZE, 2 * world.SIZE)), (0, 0))
    ImageDraw.Draw(page).line((world.SIZE, 0, world.SIZE, 2 * world.SIZE), fill="white", width=2)
    corners = ((x, y) for y in (0, world.SIZE) for x in (0, world.SIZE))
    return [page.crop((x, y, x + world.SIZE, y + world.SIZE)) for x, y in corners]


def _weights() -> Panels:
    """Two modules, their blend, and what one has more than the other, as rows of bars."""
    rng = np.random.default_rng(5)
    one, other = rng.uniform(0.25, 0.6, 7), rng.uniform(0.1, 0.35, 7)
    panels = []
    for below, above in ((one, None), (other, None), (one, other), (one * 0, other)):
        canvas, draw = _canvas()
        for bar, low in enumerate(below):
            left, floor = 14 + 15 * bar, 116
            colour = SECOND if below is other else FIRST
            top = floor - 100 * low
            draw.rectangle([FINE * v for v in (left, top, left + 10, floor)], fill=colour)
            if above is not None:
                box = (left, top - 100 * above[bar], left + 10, top)
                draw.rectangle([FINE * v for v in box], fill=SECOND)
        panels.append(_small(canvas))
    return [_framed(panels[0]), _framed(panels[1]), *panels[2:]]


def _curve() -> Image.Image:
    """A loss that falls."""
    canvas, draw = _canvas()
    rng = np.random.default_rng(2)
    x = np.linspace(0.0, 1.0, 60)
    loss = 0.25 + 0.65 * np.exp(-4 * x)
    noisy = loss + rng.normal(0, 0.05, 60)
    draw.line([FINE * v for v in (12, 12, 12, 116, 118, 116)], fill="#6b7280", width=6)
    for values, colour, width in ((noisy, "#3d5a73", 5), (loss, FIRST, 12)):
        points = [(FINE * (14 + 102 * a), FINE * (114 - 100 * b)) for a, b in zip(x, values, strict=True)]
        draw.line(points, fill=colour, width=width, joint="curve")
    return _small(canvas)


def _trained_lora() -> Panels:
    """Clips whose crop shrinks, the loss, and another scene that zooms like them."""
    clips = []
    for number, moment in ((10, 0.0), (10, 1.0)):
        scene = replace(world.scene(3, number, "still"), texture="checkered")
        clips += _pictures(world.render(scene, np.array([moment]), world.Camera(zoom=0.045)))
    scene = replace(world.scene(3, 12, "still"), colour="red", shape="square", texture="dotted")
    (result,) = _pictures(world.render(scene, np.array([1.0]), world.Camera(zoom=0.045)))
    return [*map(_framed, clips), _curve(), result]


def _trained_adapter() -> Panels:
    """Soft clips with a watermark, the loss, and a clip without either."""
    scenes = [world.render(world.scene(3, number), np.array([0.5])) for number in (14, 16, 18)]
    clips = [_pictures(world.as_video(frames))[0] for frames in scenes[:2]]
    return [*map(_framed, clips), _curve(), _pictures(scenes[2])[0]]


DRAWN: Mapping[str, Callable[[], Panels]] = {
    "camera": _camera,
    "pia": lambda: _given(_film(20, motion="growing", texture="striped"), 0),
    "image-to-animation": lambda: _given(_film(22, motion="moving left", texture="dotted"), 0),
    "sparse-pictures": lambda: _given(_film(24, motion="moving up", texture="striped"), 0),
    "between-key-pictures": lambda: _given(_film(26, motion="moving right", texture="checkered"), 0, 2, 3),
    "sdxl": lambda: _film(28, motion="moving right", texture="dotted", colour="magenta"),
    "hotshot-xl": lambda: _film(30, motion="shrinking", texture="checkered", colour="yellow"),
    "video-to-video": _repainted,
    "controlnet-poses": _poses,
    "inpaint-moving": _inpainted,
    "upscale-frames": _enlarged,
    "compare-modules": _two_modules,
    "weights-tools": _weights,
    "train-motion-lora": _trained_lora,
    "train-domain-adapter": _trained_adapter,
}
"""Stem of a workflow -> its four panels in reading order, each (128, 128)."""


def draw_thumbnails(folder: Path) -> list[Path]:
    """Write one JPEG for each of `DRAWN`; the same bytes wherever Pillow is the same. Returns their paths."""
    paths = [folder / f"{name}.jpg" for name in DRAWN]
    for path, panels in zip(paths, DRAWN.values(), strict=True):
        write_panels(panels(), path)
    return paths
