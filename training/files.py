"""Files: which are there, which are safe to open, and writing JSON so that a reader sees the old file or the
new one, never a part (tensors: motion_core.files.tensor_file)."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import stat
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def is_regular(path: Path) -> bool:
    """A regular file, or a link to one. Whoever opens a pipe waits for ever, and devices have no end."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):  # not there, or a name that no file can have
        return False


def visible_in(folder: Path) -> list[Path]:
    """Everything visible below a folder, links to folders followed, in an order that no file system
    decides."""

    def say(error: OSError) -> None:
        log.warning("Left out: %s: %s", error.filename, error.strerror)

    found, seen = [], set()
    for place, folders, files in os.walk(folder, onerror=say, followlinks=True):
        real = os.path.realpath(place)
        # A link may lead back up, or to a folder that is here anyway.
        folders[:] = () if real in seen else sorted(name for name in folders if name[0] != ".")
        found += () if real in seen else (Path(place, name) for name in (*folders, *files) if name[0] != ".")
        seen.add(real)
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def read_json(path: Path) -> dict[str, Any]:
    """A file of what can be found out again: empty, with a warning, if it is damaged."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        log.warning("%s is damaged (%s); what it held is found out again", path, error)
        return {}


def write_json(path: Path, data: Any) -> None:
    """Write plain data; floats keep every bit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # On a disk that several machines share, two processes may have one number.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(data, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def file_hash(path: Path) -> str:
    """Of a file's content, read in parts."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(2**22):
            digest.update(chunk)
    return digest.hexdigest()
