"""Real files of small clips."""

from pathlib import Path

import av
import numpy as np
from PIL import Image


def write_mp4(path: Path, frames: np.ndarray, fps: int = 8, codec: str = "mpeg4") -> None:
    """``frames`` (F, height, width, 3) uint8. Browsers show codec libx264, and mpeg4 they do not."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        for frame in frames:
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24"))
            )
        container.mux(stream.encode())


def moving_square(seed: int, num_frames: int = 8, size: int = 64) -> np.ndarray:
    """A square on a flat ground, moving to the right: (F, size, size, 3) uint8."""
    rng = np.random.default_rng(seed)
    frames = np.empty((num_frames, size, size, 3), np.uint8)
    frames[:] = rng.integers(0, 120, 3)
    colour, top = rng.integers(120, 255, 3), int(rng.integers(0, size - 16))
    for index in range(num_frames):
        left = 2 + index * (size - 20) // num_frames
        frames[index, top : top + 16, left : left + 16] = colour
    return frames


def fill(folder: Path) -> Path:
    """Three videos and three animated pictures of 8 frames at 8 per second, with captions."""
    folder.mkdir(parents=True)
    for number in range(6):
        frames = moving_square(number)
        if number % 2:
            write_mp4(folder / f"clip{number}.mp4", frames)
        else:
            first, *others = map(Image.fromarray, frames)
            where = folder / f"clip{number}.webp"
            first.save(where, save_all=True, append_images=others, duration=125, lossless=True)
        (folder / f"clip{number}.txt").write_text(f"a red square {number}")
    return folder
