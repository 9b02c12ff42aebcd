"""The losses of a run so far, from its record."""

from __future__ import annotations

import json
import math
from pathlib import Path


def read_losses(folder: Path) -> list[tuple[int, float]]:
    """Step and loss of each step, in order; a line that a kill cut off is passed over."""
    path, found = folder / "metrics.jsonl", {}
    if not path.is_file():
        return []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            if math.isfinite(entry["loss"]):
                found[int(entry["step"])] = float(entry["loss"])
        except (ValueError, LookupError, TypeError):
            continue  # validation has lines of its own
    return sorted(found.items())
