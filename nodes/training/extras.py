"""The packages that training needs and inference does not."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

NEEDED = ("accelerate", "peft", "tensorboard", "rich")
ROOT = Path(__file__).resolve().parents[2]


def require_extras() -> None:
    """Raises:
    ValueError: some are not installed; the sentence names the command.
    """
    needed = NEEDED if sys.version_info >= (3, 11) else (*NEEDED, "tomli")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"Training needs packages that ComfyUI does not bring ({', '.join(missing)}). Stop ComfyUI, run "
            f'"{sys.executable}" -m pip install -e "{ROOT}[train]" and start it again.'
        )
