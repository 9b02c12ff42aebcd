"""Graphs in files: JSON, and pictures into which ComfyUI has written them."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from .errors import GraphError

PICTURES = (".png", ".webp", ".jpg", ".jpeg", ".gif")
ENDINGS = (".json", *PICTURES)
MAX_BYTES = 256 * 2**20
EXIF_TEXTS = (0x010F, 0x0110, 0x010E, 0x9286)
"""Make, Model, ImageDescription, UserComment: they hold ``workflow:..`` and ``prompt:..``."""


def read_file(path: Path) -> dict:
    """The graph in a file; of a picture the workflow, or else the prompt.

    Raises:
        GraphError: there is none, or it cannot be read.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise GraphError(f"{path.name} cannot be read: {error.strerror or error}.") from error
    if size > MAX_BYTES:
        raise GraphError(f"{path.name} is larger than {MAX_BYTES // 2**20} MiB, which no graph is.")
    if path.suffix.lower() in PICTURES:
        return _from_picture(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise GraphError(f"{path.name} cannot be read as text: {error}.") from error
    return parse(text, path.name)


def parse(text: str, name: str) -> dict:
    """JSON into a graph.

    Raises:
        GraphError: it is no JSON, or no object.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GraphError(f"{name} is no valid JSON: {error}.") from error
    if not isinstance(document, dict):
        raise GraphError(f"{name} holds no graph: a JSON object is expected, not {type(document).__name__}.")
    return document


def _from_picture(path: Path) -> dict:
    from PIL import Image, UnidentifiedImageError  # ComfyUI installs it

    texts: dict[str, str] = {}
    try:
        with Image.open(path) as picture:
            texts |= {key.lower(): value for key, value in picture.info.items() if isinstance(value, str)}
            if hasattr(picture, "text"):
                texts |= {key.lower(): str(value) for key, value in picture.text.items()}
            exif = picture.getexif()
            for tag in EXIF_TEXTS:
                value = exif.get(tag) or exif.get_ifd(0x8769).get(tag)
                if isinstance(value, bytes):
                    value = value.decode("utf-8", errors="ignore")
                if isinstance(value, str):
                    key, colon, content = value.strip("\0 ").partition(":")
                    if colon and key.lower() in ("workflow", "prompt"):
                        texts.setdefault(key.lower(), content)
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise GraphError(f"{path.name} cannot be read as a picture: {error}.") from error
    for key in ("workflow", "prompt"):
        if key in texts:
            return parse(texts[key].strip("\0"), f"the {key} in {path.name}")
    raise GraphError(f"{path.name} holds no graph: it has no text named workflow or prompt.")


def write_json(path: Path, document: dict) -> None:
    """Write a graph; at any moment the path holds the old file or the new one, whole."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(document, file, ensure_ascii=False, indent=2)
            file.write("\n")
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
