"""Clips of the world as files: a folder of videos with captions beside them, as the trainer takes them."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from . import world


def write_video(path: Path, frames: np.ndarray, fps: int = world.FPS) -> None:
    """Write frames (F, H, W, 3) in 0..1 as a nearly lossless mp4 (H.264, no chroma subsampling)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=Fraction(fps), options={"crf": "6", "preset": "veryfast"}
        )
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv444p"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.round(frame * 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def write_clips(
    folder: Path,
    seed: int,
    count: int,
    domain: str = "video",
    motions: tuple[str, ...] | None = None,
    camera: world.Camera | str | None = None,
    first: int = 0,
) -> None:
    """Fill a folder with clips 000000.mp4 ... and captions 000000.txt ...; clips that are there stay.

    motions: taken in turn instead of the drawn ones. camera: one for all, or "any" for another in each.
    first: number of the first scene.
    A caption is written after its clip, so that a clip without one is half-done work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        text = folder / f"{index:06d}.txt"
        if text.exists():
            continue
        random = np.random.default_rng([seed, first + index, 2])
        mover = world.any_camera(random) if camera == "any" else camera
        motion = motions[index % len(motions)] if motions else None
        frames, caption = world.clip(seed, first + index, domain, motion, mover)
        write_video(folder / f"{index:06d}.mp4", frames)
        text.write_text(caption + "\n", encoding="utf-8")
