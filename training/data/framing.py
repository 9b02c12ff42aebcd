"""Pictures to the sizes of training: buckets, crops, and crops that move as a camera would.

A camera clip is made from ordinary footage by a crop that shrinks (zoom in), grows (zoom out), travels
(pan) or turns (roll), as in the AnimateDiff paper, section 4.3. Directions are the camera's: under pan_left
the crop travels left and what is seen moves right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .. import randomness

Size = tuple[int, int]
"""(width, height) in pixels."""


@dataclass(frozen=True)
class View:
    """What of a picture is seen."""

    x: float
    """Centre, in pixels from the left."""
    y: float
    """Centre, in pixels from the top."""
    width: float
    """Of the crop, in pixels of the picture."""
    height: float
    """Of the crop, in pixels of the picture."""
    angle: float = 0.0
    """By how much the content appears turned, clockwise, in radians."""


def pick_bucket(size: Size, buckets: Sequence[Size]) -> Size:
    """The bucket whose shape is nearest to a picture's; of equal shapes the largest that needs no
    enlarging."""
    width, height = size

    def distance(bucket: Size) -> tuple[float, float, int]:
        shape = abs(math.log((bucket[0] / bucket[1]) / (width / height)))
        enlarging = max(bucket[0] / width, bucket[1] / height, 1.0)
        return round(shape, 6), enlarging, -bucket[0] * bucket[1]

    return min(buckets, key=distance)


def whole_view(size: Size, bucket: Size, where: tuple[float, float] = (0.5, 0.5)) -> View:
    """The largest crop of the bucket's shape; ``where`` places it, 0..1 from left and from top."""
    scale = min(size[0] / bucket[0], size[1] / bucket[1])
    width, height = bucket[0] * scale, bucket[1] * scale
    return View(
        width / 2 + where[0] * (size[0] - width), height / 2 + where[1] * (size[1] - height), width, height
    )


def crop_place(mode: str, content_hash: str) -> tuple[float, float]:
    """Where a file's crop lies: the middle, or a place drawn once per content."""
    if mode == "center":
        return 0.5, 0.5
    x, y = randomness.stream("crop", content_hash).random(2)
    return float(x), float(y)


def camera_view(whole: View, size: Size, direction: str, speed: float, progress: float) -> View:
    """The crop of a camera move at ``progress`` 0..1.

    Args:
        whole: the crop without motion.
        size: of the picture; no part of the crop leaves it.
        direction: see :data:`config.DIRECTIONS`.
        speed: zoom and pan: part of the side lost or passed over the clip; roll: quarter turns over the clip.
    """
    kind, _, way = direction.partition("_")
    if kind == "zoom":
        # A steady zoom multiplies: equal ratios in equal times.
        scale = (1 - speed) ** (progress if way == "in" else 1 - progress)
        return View(whole.x, whole.y, whole.width * scale, whole.height * scale)
    if kind == "pan":
        sideways = way in ("left", "right")
        forward = way in ("right", "down")
        offset = (progress - 0.5) * speed * (1 if forward else -1)
        width, height = whole.width * (1 - speed), whole.height * (1 - speed)
        return View(
            whole.x + (offset * whole.width if sideways else 0),
            whole.y + (0 if sideways else offset * whole.height),
            width,
            height,
        )
    half_turn = speed * math.pi / 4
    angle = (progress - 0.5) * 2 * half_turn * (1 if way == "clockwise" else -1)
    scale = _roll_scale(whole, size, half_turn)
    return View(whole.x, whole.y, whole.width * scale, whole.height * scale, angle)


def _roll_scale(whole: View, size: Size, half_turn: float) -> float:
    """How far a crop must shrink so that it stays in the picture at every angle up to ``half_turn``."""
    room_x = 2 * min(whole.x, size[0] - whole.x)
    room_y = 2 * min(whole.y, size[1] - whole.y)
    scale = 1.0
    for angle in np.linspace(0, half_turn, 33):
        c, s = abs(math.cos(angle)), abs(math.sin(angle))
        scale = min(
            scale,
            room_x / (whole.width * c + whole.height * s),
            room_y / (whole.width * s + whole.height * c),
        )
    return scale


def render(image: Image.Image, view: View, bucket: Size) -> np.ndarray:
    """What the view shows, at the bucket's size: (height, width, 3) uint8."""
    if view.angle == 0.0:
        left, top = view.x - view.width / 2, view.y - view.height / 2
        box = (
            max(left, 0.0),
            max(top, 0.0),
            min(left + view.width, image.width),
            min(top + view.height, image.height),
        )
        return np.asarray(image.resize(bucket, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0))
    # An affine map samples points; what is finer than the result must go before, or it would shimmer.
    shrink = min(bucket[0] / view.width, 1.0)
    small = image
    if shrink < 1.0:
        small = image.resize(
            (max(round(image.width * shrink), 1), max(round(image.height * shrink), 1)),
            Image.Resampling.LANCZOS,
        )
    kx, ky = small.width / image.width, small.height / image.height
    step_x, step_y = view.width / bucket[0], view.height / bucket[1]
    c, s = math.cos(view.angle), math.sin(view.angle)
    # Result pixel (u, v) shows the source at centre + R(-angle) (u - w/2, v - h/2): content turns clockwise.
    a, b = c * step_x * kx, s * step_y * kx
    d, e = -s * step_x * ky, c * step_y * ky
    u, v = bucket[0] / 2, bucket[1] / 2
    data = (a, b, view.x * kx - a * u - b * v, d, e, view.y * ky - d * u - e * v)
    return np.asarray(small.transform(bucket, Image.Transform.AFFINE, data, Image.Resampling.BICUBIC))
