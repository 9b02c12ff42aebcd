"""From files to tracks: the frames that training may use, as pixels or as stored latents.

A *track* is a run of frames at the grid's rate (`data.fps`) in a bucket's size. Without camera motion a
file gives one track, of which training draws windows; with it, a file gives several clips that are already
`data.frames` long.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..config import RunConfig
from .framing import Size, camera_view, crop_place, pick_bucket, render, whole_view
from .media import MediaFile
from .video import Unreadable, on_grid, timed_frames


@dataclass(frozen=True)
class Track:
    """A run of frames of one file."""

    key: str
    """Names it in the store: content, bucket, clip, mirrored or not."""
    file: MediaFile
    """Where it comes from."""
    caption: str
    """What is said of it; left and right exchanged if mirrored."""
    num_frames: int
    """Frames on the grid."""
    bucket: Size
    """(width, height) in pixels."""
    stride: int
    """Every which frame of it makes a clip: `data.stride`, or 1 where a camera move has taken care of it."""
    mirror: str = ""
    """Key of the mirrored track, if there is one."""
    mirror_caption: str = ""
    """Its caption."""


class Decoded(NamedTuple):
    """A file's frames."""

    tracks: list[tuple[str, Size, np.ndarray]]
    """``(key, bucket, frames)`` each, frames (N, height, width, 3) uint8."""
    cut: bool
    """Whether the file goes on after `data.max_frames_per_file`."""


def tracks_of_file(
    file: MediaFile, content_hash: str, config: RunConfig, pause: Callable[[], None] | None = None
) -> Decoded:
    """Decode a file into its tracks. ``pause`` is called at every frame and may end it.

    Raises:
        Unreadable: nothing usable in it, with the reason.
    """
    data, camera = config.data, config.camera
    try:
        content = file.content()
    except OSError as error:
        raise Unreadable.by(error) from error
    on_the_grid = on_grid(
        timed_frames(content, file.member or file.path.name, data.background),
        # A folder of frames has no times: it is taken to be at the wanted rate.
        0.0 if file.path.is_dir() else data.fps,
        data.max_frames_per_file + 1,
        data.repeat_slow_video,
    )
    beyond: list[Image.Image] = []
    frames = _pausing(_first(on_the_grid, data.max_frames_per_file, beyond), pause)
    if camera.direction:
        tracks = _camera_tracks(frames, content_hash, config)
    else:
        bucket, view, rendered = None, None, []
        for image in frames:
            if bucket is None:
                bucket = pick_bucket(image.size, data.resolutions)
                size = image.size
                view = whole_view(size, bucket, crop_place(data.crop, content_hash))
            if image.size != size:
                raise Unreadable(f"its picture size changes from {size} to {image.size}")
            rendered.append(render(image, view, bucket))
        if not rendered:
            raise Unreadable("it holds no frames")
        tracks = [(f"{content_hash}.0", bucket, np.stack(rendered))]
    if data.horizontal_flip:
        tracks += [(f"{key}.mirror", bucket, pixels[:, :, ::-1]) for key, bucket, pixels in tracks]
    return Decoded(tracks, bool(beyond))


def _pausing(frames: Iterator[Image.Image], pause: Callable[[], None] | None) -> Iterator[Image.Image]:
    for frame in frames:
        if pause is not None:
            pause()
        yield frame


def _first(frames: Iterator[Image.Image], most: int, beyond: list[Image.Image]) -> Iterator[Image.Image]:
    """The first frames; what comes after them goes to ``beyond``. Read to its end, where a grid is judged."""
    for number, frame in enumerate(frames):
        if number < most:
            yield frame
        else:
            beyond.append(frame)


def _camera_tracks(frames, content_hash: str, config: RunConfig) -> list[tuple[str, Size, np.ndarray]]:
    """Clips with a made camera move, evenly over the file."""
    data, camera = config.data, config.camera
    images: list[Image.Image] = []
    bucket = None
    for image in frames:
        if bucket is None:
            bucket = pick_bucket(image.size, data.resolutions)
        images.append(_bounded(image, bucket))
    if not images:
        raise Unreadable("it holds no frames")
    still = camera.still or len(images) == 1
    span = 1 if still else (data.frames - 1) * data.stride + 1
    if len(images) < span:
        raise Unreadable(
            f"its {frames_at(len(images), data.fps)} are fewer than the {span} of a clip; lower data.frames, "
            "raise data.fps, or set camera.still = true, which needs one"
        )
    starts = sorted({round(s) for s in np.linspace(0, len(images) - span, camera.clips_per_file)})
    tracks = []
    for number, start in enumerate(starts):
        rendered = []
        for index in range(data.frames):
            image = images[start if still else start + index * data.stride]
            whole = whole_view(image.size, bucket, crop_place(data.crop, f"{content_hash}.{number}"))
            progress = index / max(data.frames - 1, 1)
            view = camera_view(whole, image.size, camera.direction, camera.speed, progress)
            rendered.append(render(image, view, bucket))
        tracks.append((f"{content_hash}.{number}", bucket, np.stack(rendered)))
    return tracks


def frames_at(count: int, fps: float) -> str:
    """A number of frames on the grid in words, with the time they take."""
    return f"{count} frames at data.fps = {fps:g} ({count / fps:.1f} s)" if fps else f"{count} frames"


def _bounded(image: Image.Image, bucket: Size) -> Image.Image:
    """At most four times the bucket's size: many large frames are held at once for camera moves."""
    factor = 4 * max(bucket[0] / image.width, bucket[1] / image.height)
    return (
        image
        if factor >= 1
        else image.resize(
            (round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS
        )
    )


def mirrored_caption(text: str) -> str:
    """Left and right change places, as words and in leftward, leftmost and the like, never inside others."""

    def swapped(match: re.Match) -> str:
        word = match[0]
        other = "right" if word.lower() == "left" else "left"
        return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other

    return re.sub(r"\b(?:left|right)(?=(?:wards?|most)?\b)", swapped, text, flags=re.IGNORECASE)
