"""Settings of clips, captions, made camera motion and the cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DIRECTIONS = (
    "zoom_in",
    "zoom_out",
    "pan_left",
    "pan_right",
    "pan_up",
    "pan_down",
    "roll_clockwise",
    "roll_anticlockwise",
)


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One place that training clips or images come from."""

    path: str
    """A folder (searched through, links followed, hidden ones left out; captions from `metadata.jsonl` or
    `metadata.csv`, or from a `.txt` or `.caption` beside each file), a `.jsonl` list, a `.csv` table, or a
    WebDataset `.tar` (`{0000..0012}` expands)."""
    caption: str = ""
    """One caption for everything here, in place of text files and tables."""
    media_root: str = ""
    """Folder that relative paths in a .jsonl or .csv start from. Empty: the list's own folder."""
    frame_folders: bool = False
    """Each sub-folder with images is one clip, its frames in order of name (2.png before 10.png) and
    already at `data.fps`."""
    repeats: int = 1
    """How often everything here is seen per epoch."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Clips, frames and captions."""

    sources: tuple[SourceConfig, ...] = ()
    """At least one."""
    resolutions: tuple[tuple[int, int], ...] = ((256, 256),)
    """(width, height) buckets in pixels; a file goes to the one nearest to its shape. Multiples of 8."""
    frames: int = 16
    """Frames per clip; stage 1 always takes single frames."""
    fps: float = 8.0
    """Frames per second of the grid that videos are resampled to. 0: every source frame, whatever its
    time."""
    stride: int = 1
    """A clip takes every stride-th frame of that grid."""
    short_clips: Literal["skip", "loop", "shorten", "pad"] = "skip"
    """Files with too few frames: leave out; play forward and backward; own bucket with fewer frames; or
    hold the last frame and leave the held ones out of the loss."""
    min_frames: int = 4
    """With `loop`, `shorten` and `pad`, files with fewer frames than this are left out: a picture, shown 16
    times, would teach standing still."""
    repeat_slow_video: bool = False
    """A video slower than `fps` would need repeated frames. False: it is left out and reported."""
    max_frames_per_file: int = 256
    """Only this many frames of a file's grid are used, from its start."""
    crop: Literal["center", "random"] = "center"
    """Where the bucket's shape is cut from a wider or taller picture; random is drawn once per file."""
    horizontal_flip: bool = False
    """Mirror half of the samples; left and right change places in their captions. Refused for camera
    motion."""
    background: str = "#ffffff"
    """Colour behind pictures with transparency."""
    missing_captions: Literal["refuse", "empty", "name"] = "refuse"
    """Files without a caption: error, empty prompt, or words of the file name."""
    caption_prefix: str = ""
    """Put before every caption, with a space between (a trigger word)."""


@dataclass(frozen=True, kw_only=True)
class CameraConfig:
    """Camera motion made by a moving crop, for MotionLoRAs (paper, section 4.3)."""

    direction: str = ""
    """One of zoom_in, zoom_out, pan_left, pan_right, pan_up, pan_down (where the camera goes),
    roll_clockwise, roll_anticlockwise (how the picture turns). Empty: none."""
    speed: float = 0.25
    """Over a whole clip: zoom, part of the frame's side lost or won; pan, part of the side passed; roll,
    quarter turns."""
    still: bool = False
    """Hold one source frame, so that the camera is the only motion."""
    clips_per_file: int = 4
    """Clips taken from each file, evenly over its length."""


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """Latents and text encodings on disk, so that training needs neither VAE nor text encoder."""

    folder: str = ""
    """Empty: `cache` in the run's folder."""
    mode: Literal["disk", "off"] = "disk"
    """off: decode and encode in every step, with VAE and text encoder loaded (slow; for data sets too large
    to cache). Only what each file holds is stored."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Of stored latents and text encodings."""
    shard_megabytes: int = 256
    """A shard is written at this size, after a minute, and when a run is stopped."""
