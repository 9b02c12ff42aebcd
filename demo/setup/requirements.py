"""What has to be installed: torch, what ComfyUI requires, our own extras, and the locks made for these."""

from __future__ import annotations

import re
from pathlib import Path

from . import places
from .stamps import fingerprint, read_stamp

TORCH = ("torch==2.14.1", "torchvision==0.29.1")  # a pair that belongs together
# Newer ComfyUI imports it always, if only to encode sound. Alone: its own torch would replace ours.
TORCHAUDIO = "torchaudio==2.11.0"


def requirement_names(lines: list[str]) -> list[str]:
    """Distribution names of requirement lines."""
    return [re.match(r"[\w.-]+", line)[0] for line in lines]


def comfyui_requirements(comfyui: Path) -> list[str]:
    """ComfyUI's own requirements without the torch family, plus `requests`, which it imports and forgets.

    torch and torchvision come before, as a pinned pair; torchaudio has a step of its own where it is needed.
    """
    lines = (comfyui / "requirements.txt").read_text(encoding="utf-8").splitlines()
    lines = [line.split("#")[0].strip() for line in lines]
    lines = [line for line in lines if line and not line.startswith("-")]
    dropped = ("torch", "torchvision", "torchaudio")
    return [line for line in lines if requirement_names([line])[0] not in dropped] + ["requests"]


def needs_torchaudio(comfyui: Path) -> bool:
    """Whether this ComfyUI does not start without torchaudio. Older ones only miss their audio nodes."""
    always = re.compile(r"^(?:import|from) torchaudio\b", re.MULTILINE)
    return any(
        always.search(file.read_text(encoding="utf-8", errors="replace"))
        for file in (comfyui / "comfy").rglob("*.py")
    )


def extra_requirements(project: str) -> list[str]:
    """The lines of pyproject.toml's extras; read as text, for tomllib is not in Python 3.10."""
    table = project.split("[project.optional-dependencies]")[1].split("\n[")[0]
    return re.findall(r'"([\w.-]+[^"]*)"', table)


def torch_choice(asked: str | None, index: str | None) -> dict:
    """Which torch to install: what is asked for now, else what was asked for before, else the pinned pair."""
    if asked or index:
        return {"requirements": (asked or " ".join(TORCH)).split(), "index": index or "", "chosen": True}
    before = read_stamp(places.VENV / "flipbook-torch.json").get("choice", {})
    if before.get("chosen"):
        return before
    return {"requirements": list(TORCH), "index": "", "chosen": False}


def lock_for(name: str, requirements: list[str]) -> Path | None:
    """The lock that was made for exactly these requirements, or None."""
    path = places.LOCKS / f"{name}.txt"
    try:
        with open(path, encoding="utf-8") as file:
            made_for = file.readline().split()[-1]
    except (OSError, IndexError):
        return None
    return path if made_for == fingerprint(requirements) else None
