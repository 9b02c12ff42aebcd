"""A small captioned world, drawn by formula: one coloured shape that moves over a textured ground.

Why: a model family that trains from nothing in hours on two CPU cores needs data that is free, endless,
exactly captioned and exactly measurable. Every picture is a function of (seed, index): nothing is stored.

Two domains, as in AnimateDiff's training (arXiv 2307.04725, section 4.1): the *image* domain is crisp and
clean, the *video* domain shows the same scenes as stock footage: blurred, flat, compressed, watermarked.

Shapes: F frames, H = W = 128 pixels, RGB in the last axis, float32 in 0..1. x grows rightwards, y downwards.
"""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

SIZE = 128
FRAMES = 16
FPS = 8
COLOURS = {
    "red": (0.90, 0.10, 0.10),
    "yellow": (0.95, 0.85, 0.10),
    "green": (0.10, 0.75, 0.15),
    "cyan": (0.10, 0.80, 0.85),
    "blue": (0.12, 0.20, 0.92),
    "magenta": (0.90, 0.15, 0.80),
}
SHAPES = ("circle", "square", "triangle", "cross")
TEXTURES = ("checkered", "striped", "dotted", "cloudy")
DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
MOTIONS = (*(f"moving {name}" for name in DIRECTIONS), "growing", "shrinking", "still")
DOMAINS = ("image", "video")

PERIOD = 32.0  # pixels: the textures repeat after four latent pixels
BLUR = 1.5  # standard deviation in pixels, video domain
CONTRAST = 0.8
JPEG_QUALITY = 30
WATERMARK_ALPHA = 0.35
_GLYPHS = {  # three dots wide: strokes of 6 pixels outlive an autoencoder that halves the picture three times
    "S": ("###", "#..", "###", "..#", "###"),
    "T": ("###", ".#.", ".#.", ".#.", ".#."),
    "O": ("###", "#.#", "#.#", "#.#", "###"),
    "C": ("###", "#..", "#..", "#..", "###"),
    "K": ("#.#", "#.#", "##.", "#.#", "#.#"),
}
_STROKE = 6  # pixels of a glyph's dot
SHADE = 0.6  # how much darker a shape is where its movement comes from
GLOW = 0.18  # how much brighter the ground is where the movement goes to, and darker where it comes from
LAMP = (0.42, 0.86)  # brightness of the ground far from the lamp, and what is added under it
LAMP_SIZE = (56.0, 40.0)  # standard deviations of the lamp's light across and down, pixels
LAMP_HEIGHT = 14.0  # of the lamp above the middle of the world, pixels
RELIEF = 0.25  # how much darker a shape's border is than its middle, in lamplight
SHADOW = (0.5, 0.4)  # how dark the ground is beside a shape in lamplight, and how far this reaches, in radii
CAMERA_RATES = {"zoom": 0.022, "pan": 2.2, "roll": 1.5}  # the fastest of each that a training clip has
RADIUS = (21.0, 30.0)  # least and greatest of the shapes, pixels
TRAVEL = (50.0, 62.0)  # least and greatest way of a moving shape over the clip, pixels
MOVED_STILLS = 0.5  # share of the stills that a camera sees which has moved


@dataclass(frozen=True)
class Camera:
    """A camera that moves at a constant rate from the first frame on."""

    zoom: float = 0.0
    """Growth of the picture per frame: 0.02 is 2 %, positive zooms in."""
    pan_x: float = 0.0
    """Movement of the picture's content, pixels per frame; negative when the camera pans right."""
    pan_y: float = 0.0
    """The same downwards."""
    roll: float = 0.0
    """Turn of the picture's content about the middle, degrees per frame; positive is clockwise as seen."""

    @property
    def rests(self) -> bool:
        """Whether nothing of it moves."""
        return not (self.zoom or self.pan_x or self.pan_y or self.roll)


def any_camera(rng: np.random.Generator) -> Camera:
    """A camera of one kind, direction and rate drawn at random: what real footage is full of."""
    kind = str(rng.choice(list(CAMERA_RATES)))
    rate = CAMERA_RATES[kind]
    if kind == "pan":
        return Camera(pan_x=rng.uniform(-rate, rate), pan_y=rng.uniform(-rate, rate))
    return Camera(**{kind: rng.uniform(-rate, rate)})


@dataclass(frozen=True)
class Scene:
    """All that a clip shows."""

    colour: str
    shape: str
    motion: str
    texture: str
    centre: tuple[float, float]
    """Of the shape half-way through the clip, pixels."""
    radius: float
    """Of the shape half-way through the clip, pixels."""
    travel: float
    """Way of a moving shape over the clip, pixels."""
    growth: float
    """Last radius over first radius of a growing shape; its inverse for a shrinking one."""
    tones: tuple[tuple[float, float, float], tuple[float, float, float]]
    """The two muted colours of the ground."""
    waves: tuple[tuple[float, float, float], ...]
    """Phases of the texture, pixels; for a cloudy ground (x, y, phase) of its waves."""

    @property
    def caption(self) -> str:
        """`a red circle moving left on a striped background`."""
        return f"a {self.colour} {self.shape} {self.motion} on a {self.texture} background"


def scene(seed: int, index: int, motion: str | None = None) -> Scene:
    """The scene of this number. `motion` replaces the one drawn, everything else stays."""
    rng = np.random.default_rng([seed, index])
    colour, shape, texture = (str(rng.choice(list(names))) for names in (COLOURS, SHAPES, TEXTURES))
    drawn = str(rng.choice(MOTIONS))
    motion = motion or drawn
    if motion not in MOTIONS:
        raise ValueError(f"The world has no motion {motion!r}. Pick one of {', '.join(MOTIONS)}.")
    radius = rng.uniform(*RADIUS)
    travel = rng.uniform(*TRAVEL)
    reach = SIZE / 2 - radius - 2  # how far from the middle a whole shape may stand
    across, along = rng.uniform(-reach, reach), rng.uniform(-reach, reach)
    if motion.startswith("moving"):
        along *= max(reach - travel / 2, 6.0) / reach  # keep the whole way in the picture
    horizontal = motion in ("moving left", "moving right")
    offset = (along, across) if horizontal else (across, along)
    middle, contrast = rng.uniform(0.42, 0.54), rng.uniform(0.12, 0.20)
    tint = rng.uniform(-0.03, 0.03, 3)
    tones = tuple(tuple(np.clip(middle + sign * contrast + tint, 0, 1)) for sign in (-1.0, 1.0))
    if texture == "cloudy":
        angles, lengths = rng.uniform(0, 2 * np.pi, 5), rng.uniform(40.0, 90.0, 5)
        phases = rng.uniform(0, 2 * np.pi, 5)
        speeds = 2 * np.pi / lengths
        waves = tuple(zip(speeds * np.cos(angles), speeds * np.sin(angles), phases, strict=True))
    else:
        waves = ((*rng.uniform(0, PERIOD, 2), 0.0),)
    return Scene(
        colour=colour,
        shape=shape,
        motion=motion,
        texture=texture,
        centre=(SIZE / 2 + offset[0], SIZE / 2 + offset[1]),
        radius=float(radius),
        travel=float(travel),
        growth=float(rng.uniform(1.9, 2.4)),
        tones=tones,
        waves=waves,
    )


def _edge(distance: np.ndarray, width: float | np.ndarray = 1.0) -> np.ndarray:
    """Coverage 0..1 of pixels at a signed distance in pixels (negative inside), anti-aliased over `width`."""
    return np.clip(0.5 - distance / width, 0.0, 1.0)


def _ground(content: Scene, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Share 0..1 of the second tone at world points."""
    if content.texture == "cloudy":
        total = sum(np.sin(kx * x + ky * y + phase) for kx, ky, phase in content.waves)
        return np.clip(0.5 + 0.28 * total, 0.0, 1.0)
    px, py, _ = content.waves[0]
    x, y = x + px, y + py
    half = PERIOD / 2
    if content.texture == "striped":
        diagonal = (x + y) * 0.5**0.5
        return _edge(np.abs((diagonal % PERIOD) - half) - half / 2, 1.5)
    if content.texture == "dotted":
        dx, dy = (x % PERIOD) - half, (y % PERIOD) - half
        return _edge(np.hypot(dx, dy) - 0.31 * PERIOD, 1.5)
    across = half / 2 - np.abs((x % PERIOD) - half)  # signed distances to the cell borders
    down = half / 2 - np.abs((y % PERIOD) - half)
    return 0.5 + 0.5 * np.clip(across / 0.75, -1, 1) * np.clip(down / 0.75, -1, 1)


def distance(shape: str, x: np.ndarray, y: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Signed distance of points from a shape about the origin, pixels. Areas are alike, centroids at 0."""
    if shape == "circle":
        return np.hypot(x, y) - radius
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.88 * radius
    if shape == "triangle":
        inner = 0.72 * radius  # inscribed circle of an equilateral triangle, point up
        return np.maximum(y - inner, np.abs(x) * 3**0.5 / 2 - y / 2 - inner)
    arm, length = 0.38 * radius, 1.08 * radius
    ax, ay = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(ax - length, ay - arm), np.maximum(ay - length, ax - arm))


def render(content: Scene, times: np.ndarray | None = None, camera: Camera | None = None) -> np.ndarray:
    """Draw a clip in the image domain.

    times: (F,) moments in 0..1 of the clip, default 16 even steps. camera: rates are per 15th of the clip.
    Returns (F, 128, 128, 3) float32 in 0..1.
    """
    if times is None:
        times = np.linspace(0.0, 1.0, FRAMES)
    camera = camera or Camera()
    t = np.asarray(times, np.float32)[:, None, None]
    frame = t * (FRAMES - 1)
    scale = (1.0 + camera.zoom) ** frame
    grid = np.arange(SIZE, dtype=np.float32) + 0.5
    middle = SIZE / 2
    # world points seen by the pixels: undo the pan, then zoom and roll about the middle of the picture
    x = (grid[None, None, :] - middle - camera.pan_x * frame) / scale
    y = (grid[None, :, None] - middle - camera.pan_y * frame) / scale
    cosine, sine = np.cos(np.radians(camera.roll * frame)), np.sin(np.radians(camera.roll * frame))
    x, y = x * cosine + y * sine + middle, y * cosine - x * sine + middle

    centre_x, centre_y, radius = _whereabouts(content, t)

    ground = _ground(content, x[:1], y[:1]) if camera.rests else _ground(content, x, y)
    tone_a, tone_b = (np.asarray(tone, np.float32) for tone in content.tones)
    glow = GLOW * _towards(content.motion, x - middle, y - middle, middle)[..., None]
    tones = tone_a + (tone_b - tone_a) * ground[..., None]
    lit = tones * _lamp(x - middle, y - middle)[..., None]
    picture = np.clip(lit + glow, 0.0, 1.0)
    x, y = x - centre_x, y - centre_y
    depth = -distance(content.shape, x, y, radius)
    cover = _edge(-depth * scale)[..., None]
    light = 1 - SHADE * (0.5 - 0.5 * _towards(content.motion, x, y, radius))
    relief, shadow = _form(depth, radius)
    paint = np.asarray(COLOURS[content.colour], np.float32) * (light * relief)[..., None]
    return (picture * shadow[..., None] * (1 - cover) + paint * cover).astype(np.float32)


def _whereabouts(content: Scene, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre and radius of the shape in the world, pixels."""
    dx, dy = DIRECTIONS[content.motion.split()[-1]] if content.motion.startswith("moving") else (0.0, 0.0)
    along = content.travel * (times - 0.5)
    power = {"growing": 1.0, "shrinking": -1.0}.get(content.motion, 0.0)
    radius = content.radius * content.growth ** (power * (times - 0.5))
    return content.centre[0] + dx * along, content.centre[1] + dy * along, radius


def _lamp(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Brightness of the ground at points about the middle of the world: one lamp, a little above the middle.

    Why: where noise hides everything, a denoiser shows the mean of all it might be, and the mean of grounds
    with their stripes anywhere is a flat grey, in which no camera can be seen to move. The lamp is in every
    picture: its light grows when the camera zooms in, goes aside in a pan and, being neither round nor
    in the middle, turns in a roll.
    """
    far, more = LAMP
    return far + more * np.exp(-0.5 * ((x / LAMP_SIZE[0]) ** 2 + ((y + LAMP_HEIGHT) / LAMP_SIZE[1]) ** 2))


def _form(depth: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Brightness of a shape with relief, and of the ground in its shadow; depth of points inside, pixels.

    Why: a circle and a square of one size differ in a few pixels of their border, which is next to nothing in
    a mean square error, and so the words are learnt last of all. With relief and shadow they differ widely.
    """
    dark, reach = SHADOW
    relief = 1 - RELIEF * (1 - np.clip(depth / (0.6 * radius), 0, 1))
    return relief, 1 - dark * np.exp(-np.clip(-depth, 0, None) / (reach * radius))


def _towards(motion: str, x: np.ndarray, y: np.ndarray, radius: np.ndarray | float) -> np.ndarray:
    """How far points about a centre lie in the direction of a movement: -1 behind, 1 in front, 0 for *still*.

    Why: on photographs a car has a front and a road ahead. An image model learns what a word of motion means
    only from stills in which it shows, and the motion module, which sees no text, reads it in the image
    model's features. So shapes are lit from where they go, and the ground too, because a word that decides
    the picture as a whole is learnt in a fraction of the time of one that decides a detail.
    """
    if motion == "still":
        return np.zeros_like(x)
    if motion in ("growing", "shrinking"):
        outward = 2 * np.hypot(x, y) / radius - 1
        towards = outward if motion == "growing" else -outward
    else:
        dx, dy = DIRECTIONS[motion.split()[-1]]
        towards = (x * dx + y * dy) / radius
    return np.clip(towards, -1, 1)


def watermark() -> np.ndarray:
    """The watermark's letters, (128, 128) float32: 1 where there is ink."""
    word = [
        np.array([[dot == "#" for dot in row] for row in glyph], np.float32) for glyph in _GLYPHS.values()
    ]
    gap = np.zeros((5, 1), np.float32)
    line = np.concatenate([part for glyph in word for part in (glyph, gap)][:-1], axis=1)
    ink = np.kron(line, np.ones((_STROKE, _STROKE), np.float32))
    page = np.zeros((SIZE, SIZE), np.float32)
    top, left = SIZE - ink.shape[0] - 6, (SIZE - ink.shape[1]) // 2
    page[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return page


def as_video(frames: np.ndarray) -> np.ndarray:
    """Image-domain frames (F, 128, 128, 3) as the video domain has them: blur, contrast, watermark, JPEG."""
    ink = WATERMARK_ALPHA * watermark()[..., None]
    result = np.empty_like(frames)
    for number, frame in enumerate(frames):
        picture = Image.fromarray(np.round(frame * 255).astype(np.uint8))
        soft = np.asarray(picture.filter(ImageFilter.GaussianBlur(BLUR)), np.float32) / 255
        soft = 0.5 + CONTRAST * (soft - 0.5)
        marked = soft * (1 - ink) + ink
        buffer = io.BytesIO()
        Image.fromarray(np.round(marked * 255).astype(np.uint8)).save(buffer, "JPEG", quality=JPEG_QUALITY)
        result[number] = np.asarray(Image.open(buffer), np.float32) / 255
    return result


def clip(
    seed: int,
    index: int,
    domain: str = "image",
    motion: str | None = None,
    camera: Camera | None = None,
) -> tuple[np.ndarray, str]:
    """The clip of this number: frames (16, 128, 128, 3) float32 in 0..1, and its caption."""
    content = scene(seed, index, motion)
    return _in_domain(render(content, camera=camera), domain), content.caption


def still(seed: int, index: int, domain: str = "image") -> tuple[np.ndarray, str]:
    """One frame of the clip of this number, at a moment of its own: (128, 128, 3) float32; and its caption.

    The moment is another for every number, so stills show shapes at every stage of their way; a part
    of them is seen by a camera that has moved.
    """
    content, moment, camera = still_view(seed, index)
    return _in_domain(render(content, np.array([moment]), camera), domain)[0], content.caption


def still_view(seed: int, index: int) -> tuple[Scene, float, Camera]:
    """What the still of this number shows: scene, moment 0..1, camera."""
    content = scene(seed, index)
    rng = np.random.default_rng([seed, index, 1])
    moment = float(rng.uniform(0.0, 1.0))
    moved = rng.random() < MOVED_STILLS
    return content, moment, any_camera(rng) if moved else Camera()


def _in_domain(frames: np.ndarray, domain: str) -> np.ndarray:
    if domain not in DOMAINS:
        raise ValueError(f"The world has no domain {domain!r}. Pick one of {', '.join(DOMAINS)}.")
    return as_video(frames) if domain == "video" else frames
