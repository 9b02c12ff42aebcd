"""For tests of the set-up behind run.py: its folders elsewhere, and a ComfyUI that is only files."""

from __future__ import annotations

from pathlib import Path

import pytest
from animatediff_flipbook.demo.setup import places


def move_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the set-up work in a folder with a space in its name."""
    home = tmp_path / "my clone"
    monkeypatch.setattr(places, "STATE", home / ".flipbook")
    monkeypatch.setattr(places, "VENV", home / ".venv")
    monkeypatch.setattr(places, "LOCKS", home / "locks")
    for folder in (places.STATE / "logs", places.VENV):
        folder.mkdir(parents=True)
    for name in ("COMFYUI_PATH", "FLIPBOOK_TORCH", "FLIPBOOK_TORCH_INDEX"):
        monkeypatch.delenv(name, raising=False)


def fake_comfyui(folder: Path, version: str = "0.3.75") -> Path:
    """A folder that passes for a ComfyUI."""
    (folder / "comfy").mkdir(parents=True)
    (folder / "main.py").write_text("")
    (folder / "requirements.txt").write_text("torch\naiohttp>=3.11.8\n")
    (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    return folder
