"""Model folders: those that AnimateDiff users already have."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

MOTION_MODULES = "animatediff_models"
MOTION_LORAS = "animatediff_motion_lora"
LORAS = "loras"
CONTROLNETS = "controlnet"
EXTENSIONS = {".safetensors", ".ckpt", ".pth", ".pt"}


def register_folders() -> None:
    """Make both folder ids known, keeping paths that extra_model_paths.yaml or another pack has added."""
    for folder in (MOTION_MODULES, MOTION_LORAS):
        ours = os.path.join(folder_paths.models_dir, folder)
        paths, extensions = folder_paths.folder_names_and_paths.get(folder, ([], set()))
        paths = [*paths, *([ours] if ours not in paths else [])]
        # An empty set would list every file there is, so it counts as no wish.
        folder_paths.folder_names_and_paths[folder] = (paths, set(extensions) | EXTENSIONS)


def choices(folder: str) -> list[str]:
    """File names for a drop-down list."""
    return folder_paths.get_filename_list(folder)


def full_path(folder: str, name: str) -> Path:
    """Path of a file that a user picked.

    Raises:
        FileNotFoundError: names the folders that were searched.
    """
    found = check(folder, name)
    if found is not True:
        raise FileNotFoundError(found)
    return Path(folder_paths.get_full_path(folder, name))


def check(folder: str, name: str | None) -> bool | str:
    """True, or a sentence for a file that is not there. A name from another node (None) is not known yet.

    For ``validate_inputs``: ComfyUI does not check the drop-down lists of nodes of this kind by itself.
    """
    if name is None or folder_paths.get_full_path(folder, name) is not None:
        return True
    searched = ", ".join(folder_paths.get_folder_paths(folder))
    name = name or "A file without a name"
    return f"{name} is in none of the folders for {folder} ({searched}). Put it there and refresh the page."


def fingerprint(folder: str, name: str) -> str:
    """Changes when the file does, so that a file written anew under its old name is loaded anew."""
    path = folder_paths.get_full_path(folder, name)
    if path is None:
        return name
    state = os.stat(path)
    return f"{path}:{state.st_size}:{state.st_mtime_ns}"
