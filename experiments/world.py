"""A captioned world of 8 x 8 pixels: a coloured ball that moves over a tinted, wavy ground.

Why so small: the paper's claims are about which part of the method learns what, and here a whole chain of
trainings (image model, adapter, motion module, MotionLoRA) takes minutes on one CPU core, so that three seeds
and a dozen ablations are affordable. Everything is drawn by formula, so captions are exact, data are endless
and every measure in `probes.py` can be checked against the truth.

Two domains, as in AnimateDiff's training (arXiv 2307.04725, section 4.1): *image* is crisp and clean, *video*
shows the same scenes as stock footage: blurred, flat and watermarked. A third one, *style*, is what a second,
personalised base is trained on: the same scenes in pale colours, the ball as a ring.

Shapes: clips (F, 8, 8, 3) float32 in 0..1; x grows rightwards, y downwards; distances in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SIZE = 8
FRAMES = 8
COLOURS = {
    "red": (0.92, 0.08, 0.08),
    "yellow": (0.92, 0.85, 0.05),
    "green": (0.08, 0.80, 0.10),
    "cyan": (0.05, 0.82, 0.88),
    "blue": (0.10, 0.15, 0.95),
    "magenta": (0.90, 0.10, 0.82),
}
GROUNDS = {
    "night": (0.20, 0.22, 0.30),
    "rose": (0.58, 0.42, 0.44),
    "moss": (0.34, 0.46, 0.34),
    "sand": (0.66, 0.62, 0.50),
}
DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
MOTIONS = (*(f"moving {name}" for name in DIRECTIONS), "still")
DOMAINS = ("image", "video", "style")

WAVE = 0.13
"""How much the ground's brightness varies."""
GLOW = 0.2
"""How much brighter the ground is where a movement goes, and darker where it comes from. On photographs a car
has a front and a road ahead; an image model learns what a word of motion means only from stills in which it
shows, and the motion module, which sees no text, reads it in the image model's features."""
CONTRAST = 0.75
INK = 0.45
"""Opacity of the watermark."""


@dataclass(frozen=True)
class Camera:
    """A camera that moves at a constant rate from the first frame on."""

    zoom: float = 0.0
    """Growth of the picture per frame: 0.02 is 2 %, positive zooms in."""
    pan: float = 0.0
    """Movement of the picture's content to the right, pixels per frame."""


@dataclass(frozen=True)
class Scene:
    """All that a clip shows."""

    colour: str
    motion: str
    ground: str
    centre: tuple[float, float]
    """Of the ball half-way through the clip."""
    radius: float
    travel: float
    """Way of a moving ball over the clip."""
    waves: tuple[tuple[float, float, float], ...]
    """(x, y, phase) of the ground's waves, radians per pixel."""

    @property
    def caption(self) -> str:
        """`a red ball moving left on night ground`."""
        return f"a {self.colour} ball {self.motion} on {self.ground} ground"


def scene(seed: int, index: int, motion: str | None = None) -> Scene:
    """The scene of this number. `motion` replaces the one drawn, everything else stays."""
    rng = np.random.default_rng([seed, index])
    colour, ground = (str(rng.choice(list(names))) for names in (COLOURS, GROUNDS))
    drawn = str(rng.choice(MOTIONS))
    motion = motion or drawn
    radius, travel = rng.uniform(1.3, 1.7), rng.uniform(3.6, 4.4)
    # Paths lead through the middle: what a module must learn is where in it a frame stands, and the ground.
    across, along = rng.uniform(-0.8, 0.8), rng.uniform(-0.25, 0.25)
    offset = (along, across) if motion in ("moving left", "moving right") else (across, along)
    angles, lengths, phases = rng.uniform(0, 2 * np.pi, 3), rng.uniform(4.5, 8.0, 3), rng.uniform(0, 6.28, 3)
    speeds = 2 * np.pi / lengths
    waves = zip(speeds * np.cos(angles), speeds * np.sin(angles), phases, strict=True)
    return Scene(
        *(colour, motion, ground, (SIZE / 2 + offset[0], SIZE / 2 + offset[1])),
        *(float(radius), float(travel), tuple(waves)),
    )


def render(content: Scene, domain: str = "image", camera: Camera | None = None, frames: int = FRAMES):
    """Draw a clip, (frames, 8, 8, 3) float32 in 0..1.

    Raises:
        ValueError: there is no such domain.
    """
    if domain not in DOMAINS:
        raise ValueError(f"The world has no domain {domain!r}. Pick one of {', '.join(DOMAINS)}.")
    camera = camera or Camera()
    frame = np.arange(frames, dtype=np.float32)[:, None, None]
    scale = (1.0 + camera.zoom) ** frame
    middle, grid = SIZE / 2, np.arange(SIZE, dtype=np.float32) + 0.5
    # world points seen by the pixels: undo the pan, then the zoom about the middle of the picture
    x = (grid[None, None, :] - middle - camera.pan * frame) / scale + middle
    y = (grid[None, :, None] - middle) / scale + middle
    x, y = np.broadcast_arrays(x, y)

    total = sum(np.sin(kx * x + ky * y + phase) for kx, ky, phase in content.waves) / 1.7
    dx, dy = DIRECTIONS.get(content.motion.split()[-1], (0.0, 0.0))
    glow = GLOW * ((x - middle) * dx + (y - middle) * dy) / middle
    ground = np.array(GROUNDS[content.ground]) + (WAVE * total + glow)[..., None]
    part = frame / max(frames - 1, 1) - 0.5
    x = x - content.centre[0] - dx * content.travel * part
    y = y - content.centre[1] - dy * content.travel * part
    distance = (np.hypot(x, y) - content.radius) * scale
    cover = np.clip(0.5 - distance, 0, 1)
    if domain == "style":
        cover = cover * np.clip(0.35 + np.hypot(x, y) / content.radius, 0, 1)
    light = 1 - 0.25 * (1 - np.clip((x * dx + y * dy) / content.radius, -1, 1)) * bool(dx or dy)
    paint = np.array(COLOURS[content.colour]) * light[..., None]
    picture = np.clip(ground * (1 - cover[..., None]) + paint * cover[..., None], 0, 1).astype(np.float32)
    return {"image": lambda p: p, "video": as_video, "style": as_style}[domain](picture)


def watermark() -> np.ndarray:
    """Where the video domain has ink, (8, 8) float32: two blocks at the bottom."""
    ink = np.zeros((SIZE, SIZE), np.float32)
    ink[-2:, 0:2] = ink[-2:, 4:6] = 1.0
    return ink


def as_video(frames: np.ndarray) -> np.ndarray:
    """Image-domain frames as the video domain has them: blur, flat contrast, watermark."""
    wide = np.pad(frames, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    wide = 0.25 * wide[:, :-2] + 0.5 * wide[:, 1:-1] + 0.25 * wide[:, 2:]
    soft = 0.25 * wide[:, :, :-2] + 0.5 * wide[:, :, 1:-1] + 0.25 * wide[:, :, 2:]
    soft = 0.5 + CONTRAST * (soft - 0.5)
    ink = INK * watermark()[..., None]
    return (soft * (1 - ink) + ink).astype(np.float32)


def as_style(frames: np.ndarray) -> np.ndarray:
    """Image-domain frames in the second base's style: pale, on bright paper."""
    return (0.45 + 0.55 * frames).astype(np.float32)


def still(seed: int, index: int, domain: str = "image") -> tuple[np.ndarray, str]:
    """One frame of a scene at a moment of its own, (8, 8, 3), and its caption."""
    content = scene(seed, index)
    moment = int(np.random.default_rng([seed, index, 1]).integers(FRAMES))
    return render(content, domain)[moment], content.caption


def words() -> list[str]:
    """Every word of every caption."""
    return sorted({"a", "ball", "on", "ground", "moving", "still", *COLOURS, *GROUNDS, *DIRECTIONS})
