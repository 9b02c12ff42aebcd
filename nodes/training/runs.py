"""One training from a graph: its folder, the run, the file in the model folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image

from ..compat import logger, node_id, show_on_node
from .base import device_name, loaded_base, precision, training_mode
from .clips import sources
from .curve import draw_curve
from .extras import require_extras
from .settings import configuration
from .watch import GraphWatch

PLACE = "flipbook_training"
"""Folder in ComfyUI's output folder: states, logs, sample clips, encodings."""
NOT_THE_RUN = ("output", "name", "checkpoints", "samples", "validation", "export")
"""Settings that may change while a run stays the same one."""


@dataclass(frozen=True)
class Trained:
    """What a training leaves."""

    path: Path
    """The file in the model folder."""
    name: str
    """Its name there."""
    losses: list[float]
    """Of each step."""
    curve: torch.Tensor
    """Picture of the losses, (1, height, width, 3)."""
    shown: list[dict[str, str]]
    """Pictures for the node: the curve, and the newest sample clip."""


def train_in_graph(
    node: type[io.ComfyNode], stage: str, values: dict[str, Any], model_folder: str
) -> Trained:
    """Train, or go on with a run of the same inputs, or find that it is done.

    Args:
        node: that runs.
        stage: see :func:`configuration`.
        values: of its inputs, as of :func:`settings.given`.
        model_folder: ComfyUI's word for the folder that the file goes to.

    Raises:
        InterruptProcessingException: cancelled; what was done is saved, and the same inputs go on with it.
        ValueError, FileNotFoundError, OSError: what is asked for cannot work.
    """
    require_extras()
    from ...training.config import from_dict
    from ...training.run.losses import read_losses

    place = Path(folder_paths.get_output_directory()) / PLACE
    found, stamps = sources(
        values["folder"], values["clips"], values["captions"], values["fps"], place / "clips"
    )
    tree = configuration(stage, values, found, place, precision(), device_name())
    from_dict({**tree, "output": str(place)})  # whether it can be, before anything is unloaded
    loaded = loaded_base(values["model"], values["clip"], values["vae"], values.get("motion_module"))
    folder = place / f"{values['name']}-{_identity(tree, stamps, loaded.fingerprint)}"
    config = from_dict({**tree, "output": str(folder)})
    done = _finished(folder, config.train.steps, model_folder)
    if done is None:
        file = _run(node, config, loaded, folder)
        done = publish(file, Path(folder_paths.get_folder_paths(model_folder)[0]))
        record = {"steps": config.train.steps, "file": done.name, "bytes": done.stat().st_size}
        _write(folder / "result.json", json.dumps(record).encode())
    losses = read_losses(folder)
    image = draw_curve(losses, config.train.steps)
    image.save(folder / "loss.png")
    show_on_node(node, f"{done.name}: {config.train.steps} steps")
    pixels = torch.from_numpy(np.array(image)).float().div(255.0).unsqueeze(0)
    return Trained(done, done.name, [loss for _, loss in losses], pixels, _shown(folder))


def _identity(tree: dict[str, Any], stamps: list[str], base: str) -> str:
    """Names a run: the same inputs lead to the same folder, and so to its states. More steps do not make
    another run of it."""
    kept = {key: value for key, value in tree.items() if key not in NOT_THE_RUN}
    kept["train"] = {key: value for key, value in tree["train"].items() if key != "steps"}
    # Rises over a tenth of the steps at most, and must not make another run of a longer one.
    kept["optimizer"] = {k: v for k, v in tree["optimizer"].items() if k != "warmup_steps"}
    text = json.dumps([kept, stamps, base], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=5).hexdigest()


def _finished(folder: Path, steps: int, model_folder: str) -> Path | None:
    """The file of a run that has done these steps and still has it."""
    try:
        record = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        path = Path(folder_paths.get_folder_paths(model_folder)[0]) / Path(str(record["file"])).name
        same = record["steps"] == steps and path.stat().st_size == record["bytes"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return path if same else None


def _run(node: type[io.ComfyNode], config: Any, loaded: Any, folder: Path) -> Path:
    """The run itself; returns its exported file."""
    from ...training.run.stopping import Interrupted
    from ...training.run.train import train

    watch = GraphWatch(node_id(node), folder, config.train.steps)
    with training_mode(), watch.hearing_warnings():
        try:
            file = train(config, resume=True, loaded=loaded, watcher=watch).file
        except Interrupted:
            file = None
    if file is None and watch.wants_stop():
        logger.info("Training was cancelled; %s has what was done, and the same inputs go on", folder)
        comfy.model_management.interrupt_current_processing(False)  # heard; as ComfyUI's own raising does
        raise comfy.model_management.InterruptProcessingException
    if file is None:
        raise ValueError(
            f"train.stop_at: the run has stopped there. Raise it in settings to go on ({folder})."
        )
    return file


def publish(file: Path, folder: Path) -> Path:
    """Copy a file into a folder under its name, or under a further number where that is taken."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{file.stem}.{os.getpid()}.partial"
    try:
        shutil.copyfile(file, temporary)
        number = 1
        while True:
            final = folder / (file.name if number == 1 else f"{file.stem}_{number}{file.suffix}")
            try:
                _rename_unless_there(temporary, final)
                return final
            except FileExistsError:
                number += 1
    finally:
        temporary.unlink(missing_ok=True)


def _rename_unless_there(source: Path, target: Path) -> None:
    """Raises:
    FileExistsError: the target is there.
    """
    try:
        os.link(source, target)  # in one go, and never over a file
        return
    except FileExistsError:
        raise
    except OSError:  # no hard links on this disk
        if target.exists():
            raise FileExistsError(target) from None
        os.rename(source, target)


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def _shown(folder: Path) -> list[dict[str, str]]:
    """Pictures of a run, copied to where ComfyUI's page finds previews."""
    temp = Path(folder_paths.get_temp_directory())
    temp.mkdir(parents=True, exist_ok=True)
    clips = sorted((folder / "samples").glob("step-*.webp"))
    shown = []
    for file in [folder / "loss.png", *clips[-1:]]:
        name = f"{folder.name}-{file.name}"
        shutil.copyfile(file, temp / name)
        shown.append({"filename": name, "subfolder": "", "type": "temp"})
    return shown


def pixels_of(frames: list[Image.Image]) -> torch.Tensor:
    """Pictures of one size as an IMAGE, (F, height, width, 3)."""
    return torch.from_numpy(np.stack([np.array(frame) for frame in frames])).float().div(255.0)
