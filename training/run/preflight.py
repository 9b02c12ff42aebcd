"""What can be known to be wrong before hours of encoding."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from ...motion_core.files.checkpoint import open_motion_module
from ...motion_core.files.lora import LoraFile, read_lora
from ...motion_core.files.recognise import KINDS, recognise
from ...motion_core.files.tensor_file import TensorFile
from ...motion_core.files.words import shown
from ...motion_core.module.config import GENERATIONS
from ...motion_core.module.model import MotionModel
from ..config import MotionConfig, RunConfig
from ..model.denoiser import require_positions
from ..model.loaded import Loaded
from .optimizing import find_optimizer


def check_files(config: RunConfig, loaded: Loaded | None = None) -> None:
    """Look at the files that the run starts from and at its optimizer's name; not at those in whose place
    ``loaded`` stands.

    Raises:
        FileNotFoundError, ValueError: a file is missing, damaged or of another kind; an unknown optimizer.
    """
    lora = "domain_adapter" if config.stage == "domain_adapter" else "motion_lora"
    for key, path, kinds in (
        ("base.checkpoint", config.base.checkpoint, None),
        ("base.domain_adapter", config.base.domain_adapter, ("domain_adapter",)),
        ("motion.file", config.motion.file, ("motion_module",)),
        ("lora.file", config.lora.file if config.stage != "motion_module" else "", (lora,)),
    ):
        if path and not (loaded and key in ("base.checkpoint", "motion.file")):
            _check_kind(key, Path(path), kinds)
            if key == "lora.file":
                _check_whole(key, read_lora(path))
    if config.stage != "domain_adapter":
        require_positions(config, _positions(config.motion, loaded.motion if loaded else None))
    find_optimizer(config.optimizer.name)


def _positions(settings: MotionConfig, given: MotionModel | None) -> int:
    """Rows of the position table that the motion module has, or will have."""
    if given is not None:
        return given.config.pe_length
    if settings.file:
        return open_motion_module(settings.file).config.pe_length
    return settings.pe_length or GENERATIONS[settings.generation].pe_length


def _check_whole(key: str, file: LoraFile) -> None:
    """A LoRA to start from goes into the exported file with all that it holds."""
    if file.ignored:
        raise ValueError(
            f"{key}: {file.name} holds {len(file.ignored)} tensors that are no factors of a LoRA, such as "
            f"{shown(file.ignored[0])}, and training would lose them. Start from a plain LoRA; the command "
            "`convert` writes the factors alone."
        )


def check_folders(config: RunConfig) -> None:
    """Look at the folders that the run writes to.

    Raises:
        OSError: one cannot be written to.
    """
    for key, folder in (
        ("output", config.output),
        ("cache.folder", config.cache_folder),
        ("export.folder", config.export.folder),
    ):
        if str(folder):
            check_writable(key, Path(folder))


def _check_kind(key: str, path: Path, kinds: tuple[str, ...] | None) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{key}: there is no file {path}.")
    if kinds is None and path.suffix != ".safetensors":
        return  # a pickle is read whole, and ComfyUI will do so anyway
    try:
        kind = recognise(TensorFile(path).shapes)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error
    if kinds is None and kind in ("motion_module", "motion_lora", "domain_adapter"):
        raise ValueError(f"{key}: {path.name} is no checkpoint. It is {KINDS[kind].partition(':')[0]}.")
    if kinds is not None and kind not in kinds:
        wanted = KINDS[kinds[0]].partition(":")[0]
        raise ValueError(f"{key}: {path.name} is {KINDS[kind].partition(':')[0]}; expected {wanted}.")


def check_writable(key: str, folder: Path) -> None:
    """By writing: what permissions say is not the whole truth.

    Raises:
        OSError: names the folder and the reason.
    """
    probe = folder / f".{secrets.token_hex(4)}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        os.unlink(probe)
    except OSError as error:
        raise OSError(f"{key}: {folder} cannot be written to ({error.strerror or error}).") from error
