"""Training runs in processes of their own, started as users start them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from animatediff_flipbook.training.config import RunConfig, to_dict

ROOT = Path(__file__).resolve().parent.parent

SCRIPT = """
import importlib.util, json, sys
sys.path[:] = [p for p in sys.path if p]
sys.path.insert(0, {comfyui!r})
spec = importlib.util.spec_from_file_location(
    "animatediff_flipbook", {root!r} + "/__init__.py", submodule_search_locations=[{root!r}]
)
sys.modules["animatediff_flipbook"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from animatediff_flipbook.training.config import from_dict
from animatediff_flipbook.training.run.train import train
train(from_dict(json.load(open({config!r}))), resume={resume})
"""


def start_training(
    config: RunConfig, folder: Path, *, resume: bool = False, launcher: Sequence[str] = ()
) -> subprocess.Popen:
    """Start a run in a fresh process, its words in ``folder/process.log``.

    Not forked from here: a child of a process that has used its threads may wait for them for ever.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings, script = folder / "process.json", folder / "process.py"
    settings.write_text(json.dumps(to_dict(config)))
    script.write_text(
        SCRIPT.format(comfyui=config.base.comfyui, root=str(ROOT), config=str(settings), resume=resume)
    )
    with open(folder / "process.log", "wb") as log:
        return subprocess.Popen(
            [sys.executable, *launcher, str(script)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
