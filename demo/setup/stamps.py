"""Stamps: what a step leaves when it is done, and the hash that says of what it was made."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path


def fingerprint(*parts: object) -> str:
    """A hash of everything a step depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def read_stamp(path: Path) -> dict:
    """What a step left when it finished; {} if it did not finish or the stamp itself is damaged."""
    try:
        stamp = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(path: Path, stamp: dict) -> None:
    """Written whole or not at all, and only after the step succeeded."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(stamp, indent=1), encoding="utf-8")
    os.replace(temporary, path)
