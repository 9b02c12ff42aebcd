"""What a clip of the tiny world shows, measured by geometry: no network that could have learned our mistakes.

The shape is the only saturated thing in a picture, so its colour finds it; its track gives the direction.
The camera is found by least squares on the ground: between neighbouring frames the brightness must be carried
along by one zoom, one roll and one pan (Lucas and Kanade's equation with four unknowns, refined by warping,
with weights that fall where a pair of frames does not agree with it).

Shapes: clips (F, H, W, 3) float in 0..1; x grows to the right, y downwards.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from . import world


@dataclass(frozen=True)
class Track:
    """The shape over a clip."""

    centres: np.ndarray
    """(F, 2) x and y in pixels; NaN where no shape is seen."""
    areas: np.ndarray
    """(F,) square pixels."""

    @property
    def travel(self) -> np.ndarray:
        """(2,) way from first to last frame along the fitted straight line, pixels; zeros without a shape."""
        seen = np.isfinite(self.centres[:, 0])
        if seen.sum() < 2:
            return np.zeros(2)
        times = np.arange(len(self.centres))[seen]
        slopes = np.polyfit(times, self.centres[seen], 1)[0]
        return slopes * (len(self.centres) - 1)

    @property
    def growth(self) -> float:
        """Last size over first size (side lengths, not areas) along the fitted line of its logarithm."""
        seen = self.areas > 0
        if seen.sum() < 2:
            return 1.0
        times = np.arange(len(self.areas))[seen]
        slope = np.polyfit(times, 0.5 * np.log(self.areas[seen]), 1)[0]
        return float(np.exp(slope * (len(self.areas) - 1)))

    @property
    def roughness(self) -> float:
        """Mean length of the centre's second difference, pixels per frame squared: 0 is perfectly smooth."""
        bends = np.diff(self.centres, 2, axis=0)
        lengths = np.hypot(*bends[np.isfinite(bends[:, 0])].T)
        return float(lengths.mean()) if len(lengths) else float("nan")


def shape_mask(frames: np.ndarray) -> np.ndarray:
    """Where the coloured shape is, (F, H, W) bool: saturation above a third of the frame's own highest (a lit
    shape's dark side has two fifths of its bright side's)."""
    saturation = frames.max(-1) - frames.min(-1)
    highest = np.quantile(saturation.reshape(len(frames), -1), 0.985, axis=1)[:, None, None]
    return (saturation > 0.33 * highest) & (saturation > 0.2)


def track(frames: np.ndarray) -> Track:
    """Centre and area of the shape in every frame."""
    mask = shape_mask(frames)
    areas = mask.sum((1, 2)).astype(float)
    height, width = mask.shape[1:]
    with np.errstate(invalid="ignore"):
        x = (mask * (np.arange(width) + 0.5)).sum((1, 2)) / areas
        y = (mask * (np.arange(height)[:, None] + 0.5)).sum((1, 2)) / areas
    return Track(np.stack([x, y], axis=1), areas)


def direction(frames: np.ndarray) -> str:
    """The one of left, right, up, down that the shape's way is closest to: chance is 25 %."""
    x, y = track(frames).travel
    if abs(x) >= abs(y):
        return "right" if x > 0 else "left"
    return "down" if y > 0 else "up"


def motion(frames: np.ndarray) -> str:
    """The caption's motion words for what the shape does. Below an eighth of the picture it does not move."""
    found = track(frames)
    if np.abs(found.travel).max() > frames.shape[2] / 8:
        return f"moving {direction(frames)}"
    if found.growth > 1.35:
        return "growing"
    return "shrinking" if found.growth < 1 / 1.35 else "still"


def colour(frames: np.ndarray) -> str | None:
    """Name of the shape's colour over the clip, by hue; None where nothing is coloured."""
    mask = shape_mask(frames)
    if not mask.any():
        return None
    mean = frames[mask].mean(0)

    def hue(rgb: np.ndarray) -> complex:
        """Direction in the plane of colour differences."""
        red, green, blue = rgb
        plane = complex(red - (green + blue) / 2, (green - blue) * 3**0.5 / 2)
        return plane / max(abs(plane), 1e-6)

    here = hue(mean)
    return max(world.COLOURS, key=lambda name: (here * hue(np.array(world.COLOURS[name])).conjugate()).real)


def objects(frame: np.ndarray) -> int:
    """How many coloured things a frame (H, W, 3) shows: connected areas, crumbs below a tenth of the largest
    left out. 0 where nothing is coloured."""
    parts, count = ndimage.label(shape_mask(frame[None])[0])
    areas = np.bincount(parts.ravel())[1 : count + 1]
    return int((areas >= 0.1 * areas.max()).sum()) if count else 0


def shape_of_clip(frames: np.ndarray) -> str | None:
    """Name of the shape that most of five frames over the clip show; None where none shows one."""
    moments = np.linspace(0, len(frames) - 1, 5).round().astype(int)
    names = [name for name in (shape(frames[moment]) for moment in moments) if name]
    return max(dict.fromkeys(names), key=names.count) if names else None


def shape(frame: np.ndarray) -> str | None:
    """Name of the shape in one frame (H, W, 3): the drawn one of same area and place that overlaps most."""
    mask = ndimage.binary_fill_holes(shape_mask(frame[None])[0])
    if mask.sum() < 40:
        return None
    y, x = (axis.astype(np.float32) + 0.5 for axis in np.indices(mask.shape))
    centre_x, centre_y = x[mask].mean(), y[mask].mean()
    overlaps = {}
    for name in world.SHAPES:
        unit = (world.distance(name, x - 64, y - 64, np.float32(30)) < 0).sum()
        radius = np.float32(30 * (mask.sum() / unit) ** 0.5)
        drawn = world.distance(name, x - centre_x, y - centre_y, radius) < 0
        overlaps[name] = (drawn & mask).sum() / (drawn | mask).sum()
    return max(overlaps, key=overlaps.get)


def _gauss(pictures: np.ndarray, sigma: float) -> np.ndarray:
    """Blur (..., H, W) with mirrored borders."""
    reach = int(3 * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).astype(pictures.dtype)
    for _ in range(2):  # along the last axis, then along the other one
        pad = [(0, 0)] * (pictures.ndim - 1) + [(reach, reach)]
        wide = np.pad(pictures, pad, mode="reflect")
        size = pictures.shape[-1]
        pictures = sum(weight * wide[..., i : i + size] for i, weight in enumerate(kernel)).swapaxes(-1, -2)
    return pictures


def _bilinear(picture: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Values of (H, W) at points (pixel indices), the border's value outside."""
    height, width = picture.shape
    x, y = np.clip(x, 0, width - 1.001), np.clip(y, 0, height - 1.001)
    left, top = x.astype(int), y.astype(int)
    fx, fy = x - left, y - top
    upper = picture[top, left] * (1 - fx) + picture[top, left + 1] * fx
    lower = picture[top + 1, left] * (1 - fx) + picture[top + 1, left + 1] * fx
    return upper * (1 - fy) + lower * fy


def camera(frames: np.ndarray, steps: int = 4) -> world.Camera:
    """Mean camera movement per frame, from the ground alone.

    The shape, with a margin for its shadow, is left out in both frames of a pair. Returns zoom (growth per
    frame, positive zooms in), the pan of the picture's content in pixels per frame and its roll in degrees
    per frame.
    """
    # half size is enough after the blur and four times faster
    grey = _gauss(frames.mean(-1), 2.0)[:, ::2, ::2]
    shapes = (_gauss(shape_mask(frames).astype(np.float32), 6.0) > 0.02)[:, ::2, ::2]
    height, width = grey.shape[1:]
    y, x = (axis.astype(np.float64) for axis in np.indices((height, width)))
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    border = 2
    # zoom, roll in radians, pan x, pan y: one for the whole clip, so that all pairs share their evidence
    movement = np.zeros(4)
    for _ in range(steps):
        normal, right = np.zeros((4, 4)), np.zeros(4)
        zoom, roll, pan_x, pan_y = movement
        for now, following, mask_now, mask_next in zip(grey, grey[1:], shapes, shapes[1:], strict=False):
            to_x = x + zoom * (x - middle_x) - roll * (y - middle_y) + pan_x
            to_y = y + zoom * (y - middle_y) + roll * (x - middle_x) + pan_y
            moved = _bilinear(following, to_x, to_y)
            inside = (
                (to_x > border) & (to_x < width - 1 - border) & (to_y > border) & (to_y < height - 1 - border)
            )
            use = inside & ~mask_now & ~mask_next
            slope_y, slope_x = np.gradient(moved)
            outward = slope_x * (x - middle_x) + slope_y * (y - middle_y)
            around = slope_y * (x - middle_x) - slope_x * (y - middle_y)
            rows = np.stack([outward, around, slope_x, slope_y])[:, use]
            error = (now - moved)[use]
            # what no camera explains, such as a shadow that goes with its shape, counts little (Cauchy)
            weighted = rows / (1 + (error / (3 * np.median(np.abs(error)) + 1e-6)) ** 2)
            normal += weighted @ rows.T
            right += weighted @ error
        # a little of the diagonal keeps a striped ground, which tells nothing along its stripes, solvable
        movement += np.linalg.solve(normal + np.diag(1e-3 * np.diag(normal) + 1e-9), right)
    zoom, roll, pan_x, pan_y = (float(part) for part in movement)
    return world.Camera(zoom, 2 * pan_x, 2 * pan_y, float(np.degrees(roll)))


def _high_pass(picture: np.ndarray) -> np.ndarray:
    return picture - _gauss(picture, 5.0)


def watermark(frames: np.ndarray) -> float:
    """How much of the watermark is seen, -1..1: normalised correlation with its letters, both high-passed, in
    the mean picture of the clip (what does not move stays, what moves fades)."""
    ink = world.watermark()
    rows, columns = np.nonzero(ink)
    box = (slice(rows.min() - 3, rows.max() + 4), slice(columns.min() - 3, columns.max() + 4))
    seen, template = (_high_pass(picture)[box] for picture in (frames.mean((0, 3)), ink))
    seen, template = seen - seen.mean(), template - template.mean()
    return float((seen * template).sum() / (np.linalg.norm(seen) * np.linalg.norm(template) + 1e-9))


def sharpness(frames: np.ndarray) -> float:
    """Mean over the frames of the variance of the Laplacian of brightness (0..1), above the watermark, whose
    letters are sharper than all else."""
    grey = frames.mean(-1)[:, : np.nonzero(world.watermark())[0].min() - 2]
    laplacian = (
        grey[:, 1:-1, :-2]
        + grey[:, 1:-1, 2:]
        + grey[:, :-2, 1:-1]
        + grey[:, 2:, 1:-1]
        - 4 * grey[:, 1:-1, 1:-1]
    )
    return float(laplacian.var((1, 2)).mean())


def steadiness(frames: np.ndarray) -> float:
    """1 minus the mean absolute difference of neighbouring frames (VBench's flicker score; still scenes)."""
    return float(1 - np.abs(np.diff(frames, axis=0)).mean())


def closure(frames: np.ndarray) -> float:
    """Mean absolute difference of last and first frame over the median one of neighbours: 1 or less is a loop
    without a visible seam."""
    steps = np.abs(np.roll(frames, -1, axis=0) - frames).mean((1, 2, 3))
    return float(steps[-1] / max(np.median(steps[:-1]), 1e-9))
