"""Frames out of files: videos, animated pictures, single pictures, folders of frames, members of a tar.

What is done about the odd cases:

- *variable frame rate*: frames are chosen by their time stamps, never by counting;
- *too slow for the wanted rate*: refused, because frames would repeat silently (`data.repeat_slow_video`
  allows it);
- *rotated phone videos and pictures*: turned upright by the file's rotation mark;
- *transparency*: laid over `data.background`;
- *16-bit greys*: scaled to 8 bits; greys without a known range (32 bits, floats) are refused;
- *folders of frames*: have no times and count as being at the wanted rate;
- *pictures of more than* :data:`MOST_PIXELS`: refused before their memory is taken;
- *covers and thumbnails beside sound*: no clips;
- *damaged files*: :class:`Unreadable` with the reason; the caller reports each once and goes on without.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from PIL import Image, ImageColor, ImageOps

from ..files import is_regular

log = logging.getLogger(__name__)

VIDEO_ENDINGS = {
    ".mp4",
    ".mov",
    ".mkv",
    ".webm",
    ".avi",
    ".m4v",
    ".mpg",
    ".mpeg",
    ".wmv",
    ".flv",
    ".ts",
    ".y4m",
}
PICTURE_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"}
ANIMATED_FORMATS = {"GIF", "WEBP", "PNG"}
"""In others several pictures are pages: a photo's preview or second view (MPO), scans (TIFF)."""
MEDIA_ENDINGS = VIDEO_ENDINGS | PICTURE_ENDINGS

STILLS = Disposition.attached_pic | Disposition.timed_thumbnails
"""Picture streams that are no film."""

ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Codec -> decoder that gives its transparency too; FFmpeg's own leave it out."""

MOST_PIXELS = 2**26
"""Of one picture, 8192 x 8192: three bytes for each while it is decoded, and no bucket needs more."""

REPEATS_TOLERATED = 0.02
"""Part of the grid that may show a frame twice, so that 29.97 serves a wish for 30."""


class Unreadable(Exception):
    """A file that cannot be used, with the reason as text."""

    passing: bool = False
    """Whether the machine had an error (no memory, too many open files), and the file may be fine."""

    @classmethod
    def by(cls, error: BaseException) -> Unreadable:
        """From what a decoder raised."""
        unreadable = cls(f"{type(error).__name__}: {error}")
        # What decoders say of a file's content carries no number of the operating system.
        unreadable.passing = isinstance(error, MemoryError) or (
            isinstance(error, OSError) and error.errno is not None
        )
        return unreadable


@dataclass(frozen=True)
class TimedFrame:
    """One picture and when it appears."""

    time: float
    """Seconds from the first frame."""
    image: Image.Image
    """RGB, upright."""


def timed_frames(source: Path | bytes, name: str, background: str) -> Iterator[TimedFrame]:
    """All frames of a file in order.

    Args:
        source: a file, a file's bytes, or a folder of frames, which have no times and are numbered 0, 1, 2:
            take every one of them, for they count as being at the wanted rate.
        name: file name, for its ending.
        background: colour behind transparency, ``#rrggbb``.

    Raises:
        Unreadable: not a picture or video, or damaged from the start.
    """
    if isinstance(source, Path) and source.is_dir():
        yield from _folder(source, background)
    elif isinstance(source, Path) and source.exists() and not is_regular(source):
        raise Unreadable("it is no regular file")
    elif Path(name).suffix.lower() in PICTURE_ENDINGS:
        yield from _pictures(source, name, background)
    else:
        yield from _video(source, name, background)


def _opaque(image: Image.Image, background: str) -> Image.Image:
    """RGB, transparency laid over the background.

    Raises:
        Unreadable: its greys have no known range.
    """
    if image.mode.startswith("I;16"):  # Pillow's own conversion cuts off above 255
        return Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise Unreadable(f"its pixels are of mode {image.mode}, expected 8 or 16 bits; save it with 8")
    # One colour of a PNG may stand for transparency; animations leave numbers of palettes there.
    if image.mode == "RGB" and not isinstance(image.info.get("transparency"), tuple):
        return image
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        below = Image.new("RGBA", image.size, (*ImageColor.getrgb(background), 255))
        return Image.alpha_composite(below, image).convert("RGB")
    return image.convert("RGB")


def frame_files(folder: Path) -> list[Path]:
    """The pictures of a folder of frames, in order of their names; numbers in these by their value."""

    def order(path: Path) -> tuple[list, str]:
        parts = re.split(r"(\d+)", path.name)
        return [int(part) if number % 2 else part for number, part in enumerate(parts)], path.name

    found = (p for p in folder.iterdir() if p.suffix.lower() in PICTURE_ENDINGS and p.name[0] != ".")
    return sorted(filter(is_regular, found), key=order)


def _folder(folder: Path, background: str) -> Iterator[TimedFrame]:
    files = frame_files(folder)
    if not files:
        raise Unreadable("the folder holds no pictures")
    for index, file in enumerate(files):
        for frame in _pictures(file, file.name, background):
            yield TimedFrame(float(index), frame.image)
            break


def _pictures(source: Path | bytes, name: str, background: str) -> Iterator[TimedFrame]:
    """A picture, or an animation's frames with their own durations."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            time = 0.0
            moves = image.format in ANIMATED_FORMATS
            for index in range(getattr(image, "n_frames", 1) if moves else 1):
                image.seek(index)
                _refuse_large(image.width, image.height)
                image.load()  # the duration of a WEBP's frame is only right once the frame is loaded
                upright = ImageOps.exif_transpose(image)
                yield TimedFrame(time, _opaque(upright, background).copy())
                time += (image.info.get("duration") or 100) / 1000
    except Unreadable:
        raise
    except Exception as error:  # of damaged files, Pillow raises nearly anything
        raise Unreadable.by(error) from error


def _refuse_large(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise Unreadable(f"its pictures of {width} x {height} are larger than {MOST_PIXELS} pixels")


def _video(source: Path | bytes, name: str, background: str) -> Iterator[TimedFrame]:
    """Frames of a video's first picture stream, by presentation time."""
    file = io.BytesIO(source) if isinstance(source, bytes) else str(source)
    # FFmpeg's own, for sizes that only a frame tells; it counts edges too.
    limit = {"max_pixels": str(2 * MOST_PIXELS)}
    stream, width, height = None, 0, 0
    try:
        with av.open(file, options=limit) as container:
            if not container.streams.video:
                raise Unreadable("no picture stream")
            stream = next((s for s in container.streams.video if not s.disposition & STILLS), None)
            if stream is None:
                raise Unreadable("it holds sound with a cover picture, no video")
            if stream.codec_context is None:
                raise Unreadable("no decoder for its picture stream")
            width, height = stream.codec_context.width, stream.codec_context.height
            _refuse_large(width, height)
            stream.codec_context.options = limit
            stream.thread_type = "AUTO"
            rate = float(stream.average_rate or stream.guessed_rate or 0)
            start = None
            for index, frame in enumerate(_decoded(container, stream, name)):
                _refuse_large(frame.width, frame.height)
                if frame.time is None and not rate:
                    raise Unreadable("neither time stamps nor a frame rate")
                time = index / rate if frame.time is None else frame.time
                start = time if start is None else start
                yield TimedFrame(max(time - start, 0.0), _upright(frame, background))
    except (av.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, av.FFmpegError) and stream is not None and not width * height:
            reason = f"it is damaged, or its pictures are larger than {MOST_PIXELS} pixels"
            raise Unreadable(reason) from error
        raise Unreadable.by(error) from error


def _decoded(container: Any, stream: Any, name: str) -> Iterator[av.VideoFrame]:
    """Frames with their transparency, if the stream has any."""
    decoder = ALPHA_DECODERS.get(stream.codec_context.name)
    if decoder is None or stream.metadata.get("alpha_mode") != "1":
        return container.decode(stream)
    if decoder not in av.codecs_available:
        log.warning("%s: its transparency is lost, this PyAV has no %s", name, decoder)
        return container.decode(stream)
    context = av.CodecContext.create(decoder, "r")
    context.options = stream.codec_context.options
    return (frame for packet in container.demux(stream) for frame in context.decode(packet))


def _upright(frame: av.VideoFrame, background: str) -> Image.Image:
    has_alpha = any(component.is_alpha for component in frame.format.components)
    image = frame.to_image() if not has_alpha else Image.fromarray(frame.to_ndarray(format="rgba"), "RGBA")
    image = _opaque(image, background)
    turns = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}
    angle = int(round(frame.rotation or 0)) % 360
    return image.transpose(turns[angle]) if angle in turns else image


def on_grid(
    frames: Iterator[TimedFrame], fps: float, most: int, allow_repeats: bool
) -> Iterator[Image.Image]:
    """Resample to a regular grid: at each grid time the frame that is then on screen.

    Args:
        frames: in order of time.
        fps: grid rate, frames per second; 0 takes every frame.
        most: stop after this many, at least 1.
        allow_repeats: whether a frame may serve two grid times.

    Raises:
        Unreadable: at the end, if the source was slower than the grid and repeats are not allowed.
    """
    given = repeats = 0
    current: TimedFrame | None = None
    # A frame that appears within a tenth of a grid step counts as there: time stamps are rounded, and 29.97
    # frames per
    # second would fall behind a grid of 30 at once.
    grace = 0.1 / fps if fps else 0.0
    for frame in frames:
        if not fps:
            yield frame.image
            given += 1
        elif current is not None:
            served = 0
            while given < most and given / fps < frame.time - grace:
                yield current.image
                given, served = given + 1, served + 1
            repeats += max(served - 1, 0)
        current = frame
        if given >= most:
            break
    # The last frame's duration is not known: it serves the grid time it stands at, if there is one.
    if fps and current is not None and given < most and given / fps <= current.time + grace:
        yield current.image
        given += 1
    if repeats > REPEATS_TOLERATED * given and not allow_repeats:
        raise Unreadable(
            f"{repeats} of {given} frames would repeat at data.fps = {fps:g}; lower it, or set "
            "data.repeat_slow_video = true"
        )


def to_array(image: Image.Image) -> np.ndarray:
    """(height, width, 3) uint8."""
    return np.asarray(image.convert("RGB"))
