"""One training from a graph: its folder, the run, the file in the model folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import comfy.model_management
import folder_paths
import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image

from ..compat import logger, node_id, show_on_node
from .base import device_name, loaded_base, other_device, precision, training_mode
from .clips import sources, stamp
from .curve import draw_curve
from .extras import require_extras
from .settings import configuration, default_warmup
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


@contextlib.contextmanager
def full_disk_in_words() -> Iterator[None]:
    """Say what a full disk means for a training.

    Raises:
        OSError: as raised within; of a full disk with what to do.
    """
    try:
        yield
    except OSError as error:
        codes = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
        if error.errno not in codes and os.strerror(errno.ENOSPC) not in str(error):
            raise
        raise OSError(
            f"The disk is full ({error}). What the training had saved before is whole: make room, for "
            f"example in {PLACE} of the output folder, and the same inputs go on from there."
        ) from error


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
    from ...training.files import file_hash
    from ...training.run.losses import read_losses
    from ...training.run.preflight import check_writable

    place = Path(folder_paths.get_output_directory()) / PLACE
    target = Path(folder_paths.get_folder_paths(model_folder)[0])
    check_writable("ComfyUI's output folder", place)
    check_writable(f"ComfyUI's folder for {model_folder}", target)  # not found out when all is trained
    found, stamps = sources(
        values["folder"], values["clips"], values["captions"], values["fps"], place / "clips"
    )
    tree = configuration(stage, values, found, place, precision(), device_name())
    from_dict({**tree, "output": str(place)})  # whether it can be, before anything is unloaded
    stamps += _files_of_settings(tree)
    show_on_node(node, "Looking at the models")
    loaded = loaded_base(values["model"], values["clip"], values["vae"], values.get("motion_module"))
    folder = place / f"{values['name']}-{_identity(tree, stamps, loaded.fingerprint, values['steps'])}"
    config = from_dict({**tree, "output": str(folder)})
    steps, warnings = config.train.steps, []
    made = {"steps": steps, "export": tree.get("export", {})}
    done = _finished(folder, made, target)
    if done is None:
        file, watch = _run(node, config, loaded, folder)
        done, warnings = publish(file, target), watch.warnings
        _remember(folder, {"made": made, "file": done.name, "hash": file_hash(done)})
        if watch.wants_stop():  # when nothing was left to stop: the file stays, the graph ends here
            _end_prompt()
    losses = [(step, loss) for step, loss in read_losses(folder) if step <= steps]
    image = draw_curve(losses, steps)
    image.save(folder / "loss.png")
    show_on_node(node, "\n".join([f"{done.name}: {steps} steps", *warnings]))
    pixels = torch.from_numpy(np.array(image)).float().div(255.0).unsqueeze(0)
    return Trained(done, done.name, [loss for _, loss in losses], pixels, _shown(folder))


def _files_of_settings(tree: dict[str, Any]) -> list[str]:
    """Stamps of the files that the text of further settings names: another file is another run."""
    named = (tree["base"].get("domain_adapter"), tree.get("lora", {}).get("file"))
    return [stamp(Path(name)) for name in named if isinstance(name, str) and Path(name).is_file()]


def _identity(tree: dict[str, Any], stamps: list[str], base: str, steps: int) -> str:
    """Names a run: the same inputs lead to the same folder, and so to its states. More steps do not make
    another run of it, nor does where it pauses."""
    kept = {key: value for key, value in tree.items() if key not in NOT_THE_RUN}
    kept["train"] = {key: value for key, value in tree["train"].items() if key not in ("steps", "stop_at")}
    # The node's own rises over a tenth of the steps at most, and must not make another run of a longer one.
    if tree["optimizer"]["warmup_steps"] == default_warmup(steps):
        kept["optimizer"] = {k: v for k, v in tree["optimizer"].items() if k != "warmup_steps"}
    if tree.get("validation", {}).get("fraction"):  # these clips are not trained on
        kept["held_out"] = tree["validation"]["fraction"]
    text = json.dumps([kept, stamps, base], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=5).hexdigest()


def _records(folder: Path) -> list[dict[str, Any]]:
    """What a run has left so far: after how many steps, in which form, under which name."""
    try:
        found = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    return [record for record in found if isinstance(record, dict)] if isinstance(found, list) else []


def _finished(folder: Path, made: dict[str, Any], target: Path) -> Path | None:
    """The file that a run has made so, if it is still there and no other has taken its name."""
    from ...training.files import file_hash

    for record in _records(folder):
        path = target / Path(str(record.get("file"))).name
        if record.get("made") == made and path.is_file() and file_hash(path) == record.get("hash"):
            return path
    return None


def _remember(folder: Path, record: dict[str, Any]) -> None:
    kept = [other for other in _records(folder) if other.get("made") != record["made"]]
    _write(folder / "result.json", json.dumps([*kept, record]).encode())


def _run(node: type[io.ComfyNode], config: Any, loaded: Any, folder: Path) -> tuple[Path, GraphWatch]:
    """The run itself; returns its exported file, and who has looked on."""
    from ...training.run.stopping import Interrupted
    from ...training.run.train import train

    watch = GraphWatch(node_id(node), folder, config.train.steps)
    if other_device():
        logger.warning("%s", other_device())
        watch.warnings.append(other_device())
    with training_mode(), watch.hearing_warnings():
        try:
            file = train(config, resume=True, loaded=loaded, watcher=watch).file
        except Interrupted:
            file = None
    if file is None and watch.wants_stop():
        logger.info("Training was cancelled; %s has what was done, and the same inputs go on", folder)
        _end_prompt()
    if file is None:
        raise ValueError(
            f"train.stop_at: the run has stopped there. Raise it in settings to go on ({folder})."
        )
    return file, watch


def _end_prompt() -> NoReturn:
    comfy.model_management.interrupt_current_processing(False)  # heard; as ComfyUI's own raising does
    raise comfy.model_management.InterruptProcessingException


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
