"""`.venv`, and layers over it: environments that have its packages and in front of them their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from . import places
from .processes import last_line, run_logged
from .talk import Stop, step

MINIMUM_PYTHON = (3, 10)


def python(folder: Path | None = None) -> Path:
    """The interpreter of `.venv`, or of a layer over it."""
    return (folder or places.VENV) / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def version(folder: Path | None = None) -> tuple[int, int] | None:
    """Version of the interpreter in `.venv` or a layer, None if it does not run or has no pip."""
    code = "import sys, pip; print(*sys.version_info[:2])"
    try:
        done = subprocess.run(
            [str(python(folder)), "-I", "-c", code],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        major, minor = done.stdout.split()
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return int(major), int(minor)


def make() -> None:
    """Make `.venv` anew from the Python that runs this file."""
    if Path(sys.prefix).resolve() == places.VENV.resolve():
        raise Stop(
            f"{places.VENV} is damaged and cannot replace itself. Start run.py with the system's own Python."
        )
    with step(f"Making .venv with Python {sys.version_info[0]}.{sys.version_info[1]}"):
        if places.VENV.is_symlink() or places.VENV.is_file():
            places.VENV.unlink()
        log = places.STATE / "logs" / "venv.log"
        try:
            run_logged([sys.executable, "-m", "venv", "--clear", str(places.VENV)], log)
        except subprocess.CalledProcessError as error:
            raise Stop(
                f"Python could not make {places.VENV}: {last_line(log)}\n"
                "On Debian and Ubuntu, `sudo apt install python3-venv` brings the missing part."
            ) from error


def make_layer(layer: Path) -> None:
    """Make an environment that has the packages of `.venv`, and in front of them its own."""
    with step("Making an environment for this ComfyUI's requirements"):
        log = places.STATE / "logs" / "layer.log"
        try:
            run_logged([str(python()), "-m", "venv", "--clear", str(layer)], log)
        except subprocess.CalledProcessError as error:
            raise Stop(f"Python could not make {layer}: {last_line(log)}") from error
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        found = [
            subprocess.run([str(python(f)), "-I", "-c", code], capture_output=True, text=True, check=True)
            for f in (places.VENV, layer)
        ]
        below, own = (Path(done.stdout.strip()) for done in found)
        # addsitedir and not the bare path: it also reads the .pth files there, such as our own package's.
        (own / "flipbook-below.pth").write_text(
            f"import site; site.addsitedir({str(below)!r})\n", encoding="utf-8"
        )
