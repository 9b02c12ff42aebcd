"""Everything that a command needs, one run of `run.py` at a time."""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from pathlib import Path

from ..base_directory import prepare_base
from . import places, venv
from .comfyui import existing_comfyui, fetch_comfyui, pinned_comfyui
from .environment import Environment
from .requirements import torch_choice
from .talk import Stop, say


def link_pack() -> Path:
    """The base directory of `python run.py comfyui`, with this repository as its only pack."""
    base = places.STATE / "base"
    try:
        prepare_base(base, {places.PACK_FOLDER: places.ROOT})
    except FileExistsError as error:
        raise Stop(str(error)) from error
    return base


@contextlib.contextmanager
def only_one():
    """Keep a second `run.py` waiting while the first one installs; the system drops the lock if we die."""
    places.STATE.mkdir(parents=True, exist_ok=True)
    with open(places.STATE / "setup.lock", "w", encoding="utf-8") as handle:
        if os.name == "nt":
            import msvcrt

            take, busy = lambda: msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1), OSError
        else:
            import fcntl

            take, busy = lambda: fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB), BlockingIOError
        waiting = False
        while True:
            try:
                take()
                break
            except busy:
                if not waiting:
                    say("==> Waiting for another run.py that is setting up")
                waiting = True
                time.sleep(0.5)
        yield


def prepare(options: argparse.Namespace, extras: bool) -> dict:
    """Everything a command needs: {"python", "comfyui", "base_directory", "pack", "gpu"}."""
    with only_one():
        say(f"AnimateDiff Flipbook in {places.ROOT}")
        version = venv.version()
        if version is None or version < venv.MINIMUM_PYTHON:
            venv.make()
        chosen = options.comfyui or os.environ.get("COMFYUI_PATH")
        comfyui = existing_comfyui(chosen) if chosen else fetch_comfyui()
        torch = torch_choice(
            options.torch or os.environ.get("FLIPBOOK_TORCH"),
            options.torch_index or os.environ.get("FLIPBOOK_TORCH_INDEX"),
        )
        layered = comfyui != pinned_comfyui().resolve()
        environment = Environment(comfyui, torch, extras, layered, hashes=not options.no_hashes)
        report = environment.ensure()
        base = link_pack()
    return {
        "python": str(environment.python),
        "comfyui": str(comfyui),
        "base_directory": str(base),
        "pack": str(base / "custom_nodes" / places.PACK_FOLDER),
        "gpu": report["gpu"],
    }
