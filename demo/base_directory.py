"""A ComfyUI base directory of our own: packs linked into custom_nodes, model files shown under models.

Links and not copies, so that the linked folder is the repository itself. A wrong link is replaced; a real
file or folder in its place is never deleted. Standard library only: `run.py` uses this before
anything is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path


def link_folder(target: Path, place: Path) -> bool:
    """Make `place` a link to the folder `target`: a symbolic link, on Windows a junction (needs no rights).

    A link that points elsewhere or nowhere and an empty folder are replaced; a right link is left alone.
    Returns True if a link was made. Raises FileNotFoundError if `target` is no folder and FileExistsError if
    `place` is a real file or folder, which may be somebody's work and is never deleted.
    """
    target = Path(target).resolve()
    if not target.is_dir():
        raise FileNotFoundError(f"{target} is not a folder, so it cannot be linked to {place}.")
    if _is_link(place):
        if place.resolve() == target:
            return False
        _remove_link(place)
    elif place.is_dir() and not any(place.iterdir()):
        place.rmdir()
    elif place.exists():
        raise FileExistsError(
            f"{place} is a real folder or file; a link to {target} belongs there. Move it away and run again."
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    if os.name == "nt":
        command = ["cmd", "/c", "mklink", "/J", str(place), str(target)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise OSError(f"could not link {place} to {target}: {(done.stderr or done.stdout).strip()}")
    else:
        place.symlink_to(target, target_is_directory=True)
    return True


def link_file(source: Path, place: Path) -> bool:
    """Make the model file `source` visible at `place`: a symbolic link, else a hard link, else a copy.

    A link to another file is replaced, and so is an older copy. Returns True if anything changed.
    Raises FileNotFoundError if `source` is missing.
    """
    source = Path(source).resolve()
    if not source.is_file():
        raise FileNotFoundError(f"{source} is not a file, so it cannot be linked to {place}.")
    if place.exists() and place.samefile(source):
        return False
    if not place.is_symlink() and place.is_file():
        ours, theirs = place.stat(), source.stat()
        if ours.st_size == theirs.st_size and ours.st_mtime >= theirs.st_mtime:
            return False
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    for make in (
        os.symlink,
        os.link,
        shutil.copy2,
    ):  # Windows: symbolic links need rights, hard links one disk
        try:
            make(source, place)
        except (OSError, NotImplementedError):
            if make is shutil.copy2:
                raise
        else:
            break
    return True


def prepare_base(
    base: Path,
    packs: Mapping[str, Path] | None = None,
    models: Mapping[str, Iterable[Path]] | None = None,
) -> Path:
    """Lay out a ComfyUI base directory: `custom_nodes/<name>` for packs, `models/<folder>/<file>` for models.

    packs: folder name in `custom_nodes` -> folder of the pack, e.g. {"animatediff-flipbook": repository}.
    models: folder name in `models` (checkpoints, animatediff_models, animatediff_motion_lora, loras, ...) ->
        files to show there under their own names. Links in these folders whose file is gone are removed.
    Returns `base`, resolved. Raises what `link_folder` and `link_file` raise.
    """
    base = Path(base).resolve()
    for folder in ("custom_nodes", "models", "input", "output", "temp", "user"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    for name, pack in (packs or {}).items():
        link_folder(pack, base / "custom_nodes" / name)
    for folder, files in (models or {}).items():
        place = base / "models" / folder
        place.mkdir(parents=True, exist_ok=True)
        for entry in place.iterdir():
            if entry.is_symlink() and not entry.exists():
                entry.unlink()
        for file in files:
            link_file(file, place / Path(file).name)
    return base


def _is_link(place: Path) -> bool:
    """Whether `place` is a symbolic link or a Windows junction, also one whose target is gone."""
    if place.is_symlink():
        return True
    if os.name != "nt":
        return False
    try:
        attributes = os.lstat(place).st_file_attributes
    except FileNotFoundError:
        return False
    return bool(attributes & 0x400)  # FILE_ATTRIBUTE_REPARSE_POINT: os.path.isjunction is 3.12+


def _remove_link(place: Path) -> None:
    """Remove the link and never what it points to."""
    try:
        place.unlink()
    except (PermissionError, IsADirectoryError):  # a junction is removed like an empty folder
        place.rmdir()
