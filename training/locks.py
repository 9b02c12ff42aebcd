"""A lock per folder that the system drops when its process dies, whatever ends it; and the temporary files
that the dead leave behind."""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO

log = logging.getLogger(__name__)

PROBE = r"\.[0-9a-f]{8}\.tmp"
"""Name of a file that only tries whether a folder can be written to."""

SECONDS_UNTIL_STALE = 3600.0
"""A temporary file that nobody has written to for as long is nobody's, where locks cannot tell."""


class Busy(OSError):
    """Another process holds the lock."""


def lock(path: Path, *, shared: bool = False) -> IO | None:
    """Take a lock and hold it until the file is closed or the process ends.

    Args:
        path: of the lock, made if it is not there.
        shared: with others that share it.

    Returns:
        The open file; None where the disk or the system has no such locks.

    Raises:
        Busy: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = path.open("a", encoding="utf-8")  # held beyond this function
    try:
        _take(handle, shared)
    except (BlockingIOError, PermissionError) as error:  # the latter is Windows' word
        handle.close()
        raise Busy(f"{path} is locked") from error
    except OSError as error:
        handle.close()
        log.warning("%s cannot be locked (%s): see to it that no other run uses this folder", path, error)
        return None
    return handle


if os.name == "nt":

    def _take(handle: IO, shared: bool) -> None:
        import msvcrt

        if shared:
            raise OSError("Windows has no shared locks")
        handle.seek(0)
        msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)

else:

    def _take(handle: IO, shared: bool) -> None:
        import fcntl

        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def sweep(folders: Iterable[Path], name: str, *, alone: bool) -> None:
    """Remove temporary files that killed processes have left.

    Args:
        folders: to look in, without what is below.
        name: what their names match as a whole, a regular expression.
        alone: whether no other process can be writing here; otherwise only old ones go.
    """
    for folder in folders:
        for path in folder.glob(".*") if folder.is_dir() else ():
            try:
                old = time.time() - path.stat().st_mtime > SECONDS_UNTIL_STALE
                if re.fullmatch(name, path.name) and (alone or old):
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            except OSError:
                continue  # somebody else was faster
