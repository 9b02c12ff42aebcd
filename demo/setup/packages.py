"""pip, by locks where there is one, and its troubles as sentences."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from . import places, venv
from .processes import run_logged
from .requirements import TORCH
from .talk import Stop, say

# What pip says -> what to tell a person. Looked for in this order.
PIP_TROUBLE = (
    (
        r"DO NOT MATCH THE HASHES",
        "A package that was downloaded is not the one that it should be; nothing of it was installed. Check "
        "the package index that pip uses (pip config list). If you trust one that serves other builds, run "
        "again with --no-hashes.",
    ),
    (
        r"No space left on device|Errno 28|not enough space",
        "The disk is full: about 9 GB are needed. Free some and run the same command again.",
    ),
    (
        r"Permission denied|Errno 13|Read-only file system|Access is denied",
        f"{places.ROOT} cannot be written to. Clone the repository to a folder of your own and run again "
        "there.",
    ),
    (
        r"NewConnectionError|ConnectTimeout|Temporary failure in name resolution|getaddrinfo failed|"
        r"Network is unreachable|Connection refused|ProxyError|Max retries exceeded|ReadTimeout|timed out",
        "No connection to the package index. Check the network (and HTTPS_PROXY or pip's index settings), "
        "then run the same command again; what is already there is kept.",
    ),
    (
        r"No matching distribution found for (torch|torchvision)\b",
        f"There is no build of {' '.join(TORCH)} for Python {sys.version_info[0]}.{sys.version_info[1]} on "
        "this system. Use another Python (3.10 to 3.13 are safe), or name another pair: "
        '--torch "torch==X torchvision==Y".',
    ),
    (
        r"No matching distribution found for (\S+)",
        "The package index does not offer {} for this Python and system. Check pip's index settings "
        "(pip config list), or take another version of ComfyUI.",
    ),
)

# What pip says where a lock has nothing for this Python and system.
LOCK_MISSES = r"No matching distribution found|Could not find a version|subprocess-exited-with-error"


def pip(name: str, *arguments: str, folder: Path | None = None) -> None:
    """Run pip of `.venv` or a layer. Raises Stop for causes we can name, CalledProcessError for others."""
    log = places.STATE / "logs" / f"pip-{name}.log"
    command = [str(venv.python(folder)), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    try:
        run_logged([*command, *arguments], log)
    except subprocess.CalledProcessError:
        text = log.read_text(encoding="utf-8", errors="replace")
        for pattern, sentence in PIP_TROUBLE:
            found = re.search(pattern, text)
            if found:
                sentence = sentence.replace("{}", (found.groups() or ("",))[0])
                raise Stop(f"{sentence}\npip's own words are in {log}") from None
        raise


def pip_by_lock(name: str, lock: Path | None, *arguments: str, folder: Path) -> None:
    """Install what a lock names, checked by its hashes; without them where it has nothing for this system.

    A lock names the dependencies too: pip need not look for any, and so cannot take one that has no hash.
    """
    if lock is not None:
        log = places.STATE / "logs" / f"pip-{name}.log"
        try:
            pip(name, "install", "--no-deps", "--require-hashes", "-r", str(lock), folder=folder)
            return
        except (Stop, subprocess.CalledProcessError):
            text = log.read_text(encoding="utf-8", errors="replace")
            if not re.search(LOCK_MISSES, text):
                raise
            missing = re.search(r"No matching distribution found for (\S+)", text)
            what = missing[1] if missing else "a package"
            say(f"    locks/{lock.name} has no file of {what} for this system; installing without hashes")
    pip(name, *arguments, folder=folder)
