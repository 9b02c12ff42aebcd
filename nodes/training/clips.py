"""What is trained on, from a graph: a folder, or clips that other nodes hand over, with their captions."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import numpy as np
import torch
from comfy_api.latest import Input, InputImpl
from PIL import Image


def find_folder(text: str) -> Path:
    """A folder by its absolute path or by its name in ComfyUI's input folder.

    Raises:
        ValueError: it is not there, or a relative path that leaves the input folder.
    """
    given = Path(text.strip()).expanduser()
    root = Path(folder_paths.get_input_directory()).resolve()
    # By its name: what the user has linked into the input folder is in it.
    named = Path(os.path.normpath(root / given))
    path = named.resolve()
    if not given.is_absolute() and root not in (named, *named.parents):
        raise ValueError(f"folder = {text!r} leads out of ComfyUI's input folder. Write its whole path.")
    if not path.exists():
        raise ValueError(
            f"folder: there is nothing at {path}. Put the clips into a folder in {root} and write its name, "
            "or write a whole path."
        )
    return path


def stamp(path: Path) -> str:
    """Changes when a file in a folder does that training looks at, or comes, or goes; cheap, since no file is
    read."""
    from ...training.files import visible_in

    digest = hashlib.blake2b(digest_size=16)
    found = [path] if path.is_file() else sorted(p for p in visible_in(path) if p.is_file())
    for file in found:
        state = file.stat()
        digest.update(f"{file}\0{state.st_size}\0{state.st_mtime_ns}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def caption_of_each(captions: Sequence[str], count: int) -> list[str]:
    """Captions for clips that come without files.

    Args:
        captions: a caption per clip, or a single text: one for all, or a line per clip.
        count: of clips.

    Raises:
        ValueError: neither one nor as many as there are clips.
    """
    texts = [text.strip() for text in captions]
    if len(texts) == 1 and count != 1:
        texts = [line.strip() for line in texts[0].splitlines() if line.strip()] or [""]
    if len(texts) == 1:
        return texts * count
    if len(texts) != count:
        raise ValueError(
            f"captions: {len(texts)} captions for {count} clips. Give one for all, or one per clip."
        )
    return texts


def sources(
    folder: str, clips: Sequence[Any], captions: Sequence[str], fps: float, place: Path
) -> tuple[list[dict[str, Any]], list[str]]:
    """What the trainer calls `data.sources`, and stamps of all that they hold.

    Args:
        folder: see :func:`find_folder`; empty: none.
        clips: IMAGE batches (frames at ``fps``) and VIDEOs.
        captions: see :func:`caption_of_each`; of a folder, one for all its files or none.
        fps: frames per second that training sees.
        place: folder for the frames of clips that lie in no file.

    Raises:
        ValueError: nothing to train on, or captions that do not fit.
    """
    found, stamps = [], []
    if folder.strip():
        path = find_folder(folder)
        caption = _caption_of_folder(captions) if not clips else ""
        found.append({"path": str(path), "caption": caption})
        stamps.append(stamp(path))
    for clip, caption in zip(clips, caption_of_each(captions, len(clips)) if clips else (), strict=True):
        path, is_frames = _as_file(clip, fps, place)
        found.append({"path": str(path), "caption": caption, "frame_folders": is_frames})
        stamps.append(path.name if is_frames else stamp(path))
    if not found:
        raise ValueError("There is nothing to train on: write the name of a folder, or connect clips.")
    return found, stamps


def _caption_of_folder(captions: Sequence[str]) -> str:
    """One for all of a folder's files: several would have to be told apart, and its files have no numbers.

    Raises:
        ValueError: there are several.
    """
    lines = [line.strip() for text in captions for line in text.splitlines() if line.strip()]
    if len(lines) > 1:
        raise ValueError(
            f"captions: {len(lines)} captions for a folder. With a folder alone, give one line for all its "
            "files, or leave captions empty and write a .txt beside each file."
        )
    return " ".join(lines)


def _as_file(clip: Any, fps: float, place: Path) -> tuple[Path, bool]:
    """Where a clip lies, and whether as frames."""
    if isinstance(clip, torch.Tensor):
        return _write_frames(clip, place), True
    if not isinstance(clip, Input.Video):
        raise ValueError(f"clips got a {type(clip).__name__}, expected IMAGE batches or VIDEOs.")
    file = _file_of(clip)
    if file is not None:
        return file, False
    parts = clip.get_components()
    return _write_frames(parts.images[_grid(len(parts.images), parts.frame_rate, fps)], place), True


def _file_of(video: Input.Video) -> Path | None:
    """The file that holds a VIDEO as training reads it; None where it lies in memory or is a part of one."""
    from ...training.data.video import MEDIA_ENDINGS

    if type(video).get_stream_source is Input.Video.get_stream_source:
        return None  # it has none, and would be encoded to one
    source = video.get_stream_source()
    if not isinstance(source, str) or Path(source).suffix.lower() not in MEDIA_ENDINGS:
        return None
    return None if _is_cut(video, source) else Path(source)


def _is_cut(video: Input.Video, source: str) -> bool:
    """Whether a VIDEO is a part of its file; older ones always are the whole."""
    window = getattr(video, "get_active_trim_window", None)
    if window is not None:
        return tuple(window()) != (0.0, 0.0)
    # Some can be cut and do not tell where.
    return hasattr(video, "as_trimmed") and (
        video.get_duration() != InputImpl.VideoFromFile(source).get_duration()
    )


def _grid(count: int, rate: Fraction | float, fps: float) -> list[int]:
    """The frames that are on screen at the times of a grid.

    Raises:
        ValueError: slower than the grid, so that frames would repeat.
    """
    from ...training.data.video import REPEATS_TOLERATED

    rate = float(rate)
    if not fps:
        return list(range(count))
    if rate < fps * (1 - REPEATS_TOLERATED):
        raise ValueError(
            f"clips: a VIDEO has {rate:g} frames per second, fewer than fps = {fps:g}. Lower fps to it."
        )
    chosen = [int(number * rate / fps + 0.1) for number in range(int(count * fps / rate) + 1)]
    return [index for index in chosen if index < count]


def _write_frames(images: torch.Tensor, place: Path) -> Path:
    """Frames (F, height, width, 3), 0..1, as PNG in a folder whose name is their content.

    Raises:
        ValueError: not of this shape.
    """
    if images.ndim != 4 or images.shape[-1] < 3 or not len(images):
        raise ValueError(
            f"clips got a tensor of the shape {tuple(images.shape)}, expected IMAGE batches: frames, height, "
            "width, 3 channels."
        )
    pixels = (images[..., :3].detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    content = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=12)
    content.update(repr(pixels.shape).encode())
    final = place / content.hexdigest()
    if final.is_dir():
        return final
    temporary = place / f".{final.name}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        (temporary / "frames").mkdir(parents=True)
        bar = comfy.utils.ProgressBar(len(pixels))
        for number, frame in enumerate(pixels):
            comfy.model_management.throw_exception_if_processing_interrupted()
            Image.fromarray(frame, "RGB").save(temporary / "frames" / f"{number:05d}.png", compress_level=1)
            bar.update_absolute(number + 1)
        os.replace(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final
