"""What a clip of the small world shows, measured by geometry: no network that could have learnt our errors.

Shapes: clips (F, 8, 8, 3) in 0..1. `tests/experiments/test_probes.py` checks each measure against the truth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from . import world


def ball(frames: np.ndarray) -> np.ndarray:
    """How much each pixel belongs to the ball, (F, 8, 8) in 0..1: the ball is the only saturated thing."""
    saturation = frames.max(-1) - frames.min(-1)
    highest = saturation.reshape(len(frames), -1).max(1)[:, None, None]
    return np.clip(saturation / np.maximum(highest, 0.15) * 2.5 - 1.2, 0, 1)


def track(frames: np.ndarray) -> np.ndarray:
    """Centre of the ball in every frame, (F, 2) x and y in pixels."""
    weight = ball(frames) + 1e-6
    grid = np.arange(world.SIZE) + 0.5
    total = weight.sum((1, 2))
    return np.stack([(weight.sum(1) * grid).sum(1) / total, (weight.sum(2) * grid).sum(1) / total], axis=1)


def speed(frames: np.ndarray) -> np.ndarray:
    """(2,) pixels per frame along the straight line fitted to the track: the net motion, of which jumps to
    and fro are no part."""
    return np.polyfit(np.arange(len(frames)), track(frames), 1)[0]


def step(frames: np.ndarray) -> float:
    """Mean length of the ball's way from frame to frame, pixels, jumps and all."""
    return float(np.hypot(*np.diff(track(frames), axis=0).T).mean())


def direction(frames: np.ndarray) -> str:
    """Where the ball goes, or `still` where it goes less than a pixel and a half over the clip."""
    x, y = speed(frames)
    if max(abs(x), abs(y)) * (len(frames) - 1) < 1.5:
        return "still"
    if abs(x) >= abs(y):
        return "right" if x > 0 else "left"
    return "down" if y > 0 else "up"


def roughness(frames: np.ndarray) -> float:
    """Mean length of the track's second difference, pixels per frame squared: 0 is perfectly smooth."""
    return float(np.hypot(*np.diff(track(frames), 2, axis=0).T).mean())


def steadiness(frames: np.ndarray) -> float:
    """1 minus the mean absolute difference of neighbouring frames (VBench's flicker score; still scenes)."""
    return float(1 - np.abs(np.diff(frames, axis=0)).mean())


def flicker(frames: np.ndarray) -> float:
    """Mean absolute difference of neighbouring frames over the clip's standard deviation: pale clips differ
    less from frame to frame only because they differ less from grey, and are no steadier here."""
    return float(np.abs(np.diff(frames, axis=0)).mean() / max(frames.std(), 1e-3))


def saturation(frames: np.ndarray) -> float:
    """Mean of the largest less the smallest channel."""
    return float((frames.max(-1) - frames.min(-1)).mean())


def smoothness(frames: np.ndarray) -> float:
    """Mean cosine of neighbouring frames, each less the clip's grand mean colour. A frozen clip has 1."""
    flat = (frames - frames.mean((0, 1, 2))).reshape(len(frames), -1)
    flat = flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-9)
    return float((flat[1:] * flat[:-1]).sum(1).mean())


def _nearest(colour: np.ndarray, names: dict[str, tuple[float, ...]], pale: bool) -> str:
    known = {
        name: world.as_style(np.array(value)) if pale else np.array(value) for name, value in names.items()
    }
    return min(known, key=lambda name: float(np.abs(known[name] - colour).sum()))


def colour(frames: np.ndarray) -> str:
    """Name of the ball's colour, by hue, so that light and contrast do not matter."""
    weight = ball(frames)[..., None]
    mean = (frames * weight).sum((0, 1, 2)) / (weight.sum() + 1e-6)

    def hue(rgb: np.ndarray) -> complex:
        red, green, blue = rgb
        plane = complex(red - (green + blue) / 2, (green - blue) * 3**0.5 / 2)
        return plane / max(abs(plane), 1e-6)

    here = hue(mean)
    return max(world.COLOURS, key=lambda name: (here * hue(np.array(world.COLOURS[name])).conjugate()).real)


def ground(frames: np.ndarray, pale: bool = False, video: bool = False) -> str:
    """Name of the ground, by its mean colour; `pale` for clips in the second base's style."""
    weight = 1 - (ball(frames) > 0.02)
    weight[:, -2:] = weight[:, :2] = 0  # a watermark may be below; above, for balance of the glow
    mean = (frames * weight[..., None]).sum((0, 1, 2)) / max(weight.sum(), 1)
    if video:
        mean = 0.5 + (mean - 0.5) / world.CONTRAST
    return _nearest(mean, world.GROUNDS, pale)


def watermark(frames: np.ndarray) -> float:
    """How much of the watermark there is: 1 as in the video domain, 0 none. The blocks' contrast in the
    clip's mean picture over the ink's opacity times what is left of white above the mean."""
    rows = frames.mean((0, 3))[-2:]
    ink = world.watermark()[-2:] > 0
    light, dark = rows[ink].mean(), rows[~ink].mean()
    return float((light - dark) / (world.INK * max(1 - dark, 0.1)))


def sharpness(frames: np.ndarray) -> float:
    """Mean over the frames of the variance of the Laplacian of brightness, watermark rows left out."""
    grey = frames[:, :-2].mean(-1)
    inner = grey[:, 1:-1, 1:-1]
    around = grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:] + grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1]
    return float((around - 4 * inner).var((1, 2)).mean())


_FROM_MIDDLE = np.indices((world.SIZE, world.SIZE)) + 0.5 - world.SIZE / 2
FAR = np.hypot(*_FROM_MIDDLE) > 3.0
"""Pixels that no ball at rest reaches."""


def likeness(frames: np.ndarray, references: Sequence[np.ndarray]) -> float:
    """Highest correlation of a clip's ground with that of a reference at the same times, colours' means
    taken away: how much of a reference's texture is seen again. Only for balls at rest."""

    def plain(clip: np.ndarray) -> np.ndarray:
        ground = clip[:, FAR]
        flat = (ground - ground.mean((0, 1))).ravel()
        return flat / (np.linalg.norm(flat) + 1e-9)

    return max(float(plain(frames) @ plain(reference)) for reference in references)


def style(frames: np.ndarray, drawn: np.ndarray) -> float:
    """How near a clip's look is to that of a drawn clip of the second base's style and the same caption: 1
    less the mean of three distances, each 0 where they are alike and 1 where they are as far apart as two
    domains: mean colour (0.25 in each channel), sharpness (a factor of four), watermark."""
    apart = np.abs(frames.mean((0, 1, 2)) - drawn.mean((0, 1, 2))).mean() / 0.25
    blurred = abs(np.log(max(sharpness(frames), 1e-6) / sharpness(drawn))) / np.log(4)
    return float(1 - np.mean(np.clip([apart, blurred, abs(watermark(frames))], 0, 1)))


def camera(frames: np.ndarray, steps: int = 6) -> world.Camera:
    """The camera's rates, by least squares over the whole picture: brightness must be carried from frame to
    frame by one zoom and one pan (Lucas and Kanade's equation with two unknowns, refined by warping)."""
    soft = _soft(frames.astype(np.float64))
    y, x = (axis.astype(np.float64) for axis in np.indices(soft.shape[1:3]))
    middle = (world.SIZE - 1) / 2
    zoom = pan = 0.0
    for _ in range(steps):
        normal, right = np.zeros((2, 2)), np.zeros(2)
        for gap in (1, 2, 3):  # pairs further apart tell a slow camera better
            scale = (1 + zoom) ** gap
            to_x = (x - middle) * scale + middle + pan * gap
            to_y = (y - middle) * scale + middle
            use = (to_x >= 0) & (to_x <= world.SIZE - 1) & (to_y >= 0) & (to_y <= world.SIZE - 1)
            for now, later in zip(soft, soft[gap:], strict=False):
                moved = _bilinear(later, to_x, to_y)
                slope_y, slope_x = np.gradient(moved, axis=(0, 1))
                rows = gap * np.stack(
                    [slope_x * (x - middle)[..., None] + slope_y * (y - middle)[..., None], slope_x]
                )[:, use].reshape(2, -1)
                normal += rows @ rows.T
                right += rows @ (now - moved)[use].reshape(-1)
        zoom, pan = np.array([zoom, pan]) + np.linalg.solve(
            normal + np.diag(1e-3 * np.diag(normal) + 1e-9), right
        )
        zoom, pan = float(np.clip(zoom, -0.2, 0.2)), float(np.clip(pan, -1.5, 1.5))
    return world.Camera(zoom, pan)


def _soft(frames: np.ndarray) -> np.ndarray:
    """Blurred a little: edges of a pixel's width are not what interpolation between pixels takes them for."""
    wide = np.pad(frames, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    wide = 0.25 * wide[:, :-2] + 0.5 * wide[:, 1:-1] + 0.25 * wide[:, 2:]
    return 0.25 * wide[:, :, :-2] + 0.5 * wide[:, :, 1:-1] + 0.25 * wide[:, :, 2:]


def _bilinear(picture: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Values of (H, W, C) at points in pixel indices, the border's value outside."""
    top = world.SIZE - 1.001
    x, y = np.clip(x, 0, top), np.clip(y, 0, top)
    left, above = x.astype(int), y.astype(int)
    fx, fy = (x - left)[..., None], (y - above)[..., None]
    upper = picture[above, left] * (1 - fx) + picture[above, left + 1] * fx
    lower = picture[above + 1, left] * (1 - fx) + picture[above + 1, left + 1] * fx
    return upper * (1 - fy) + lower * fy
