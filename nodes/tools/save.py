"""Save Motion Module and Save MotionLoRA: whole files, under names that are not taken."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

import folder_paths
import torch
from comfy_api.latest import io

from ...motion_core.files.checkpoint import save_motion_module
from ...motion_core.files.lora import left_out, plain_factors, save_motion_lora
from ...motion_core.files.motion_adapter import save_motion_adapter
from ...motion_core.files.words import shown
from ...motion_core.weights.module_weights import model_of
from .. import paths
from ..checks import check_inputs
from ..compat import logger, make_schema, show_on_node
from ..motion.load import chosen_loras
from ..types import CATEGORY, LoadedMotionModule, MotionLora, MotionModule
from .derived import require_module, weights_of_module

DTYPES = {
    "as it is": None,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
}
LAYOUTS = {"original": (save_motion_module, ".safetensors"), "diffusers": (save_motion_adapter, "")}
"""What writes it, and the ending of its file; diffusers' is a folder."""
OF_THE_FILE = ("format", "rank", "alpha")
"""Metadata that the writer knows better than a file before."""


class SaveMotionModule(io.ComfyNode):
    """Writes a motion module."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlipbookSaveMotionModule",
            display_name="Save Motion Module",
            category=f"{CATEGORY}/tools",
            description=(
                "Writes a motion module as .safetensors in the original layout or in diffusers', with what "
                "loaders want to know in its metadata. Never overwrites: names are numbered."
            ),
            search_aliases=["export motion module", "convert motion module"],
            inputs=[
                MotionModule.Input("motion_module", tooltip="What is to be saved, with its patches in it."),
                *_inputs("motion_module", "the folder of motion modules"),
                io.Combo.Input(
                    "layout",
                    options=list(LAYOUTS),
                    default="original",
                    optional=True,
                    tooltip=(
                        "original: one file that all nodes read. diffusers: a folder that its MotionAdapter "
                        "reads, and Load Motion Module too."
                    ),
                ),
            ],
            outputs=[],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        motion_module: LoadedMotionModule,
        name: str = "motion_module",
        dtype: str = "as it is",
        folder: str = "models",
        licence: str = "",
        description: str = "",
        layout: str = "original",
    ) -> io.NodeOutput:
        check_inputs(cls, locals())
        if layout not in LAYOUTS:
            raise ValueError(f"layout is {shown(layout, 40)!r}, expected one of {', '.join(LAYOUTS)}.")
        module = require_module("motion_module", motion_module)
        words = _words(module.metadata, licence, description)
        kind = _dtype(dtype)
        model = model_of(weights_of_module(module))
        save, ending = LAYOUTS[layout]
        path = _written(
            paths.MOTION_MODULES,
            folder,
            name,
            lambda path: save(path, model, words, dtype=kind),
            ending,
        )
        return _told(cls, path)


class SaveMotionLora(io.ComfyNode):
    """Writes a MotionLoRA."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlipbookSaveMotionLora",
            display_name="Save MotionLoRA",
            category=f"{CATEGORY}/tools",
            description=(
                "Writes a MotionLoRA as .safetensors in the original's spelling. Its alpha is folded in, its "
                "strength is not. Never overwrites: names are numbered."
            ),
            search_aliases=["export motion lora", "convert motion lora"],
            inputs=[
                MotionLora.Input(
                    "motion_lora", tooltip="One MotionLoRA; chained ones have to be saved singly."
                ),
                *_inputs("motion_lora", "the folder of MotionLoRAs"),
            ],
            outputs=[],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        motion_lora: object,
        name: str = "motion_lora",
        dtype: str = "as it is",
        folder: str = "models",
        licence: str = "",
        description: str = "",
    ) -> io.NodeOutput:
        check_inputs(cls, locals())
        loras = chosen_loras(motion_lora)
        if len(loras) != 1:
            raise ValueError(f"{len(loras)} MotionLoRAs arrived; a file holds one. Save each by itself.")
        lora = loras[0].lora
        layers = plain_factors(lora, _dtype(dtype))
        words = _words(lora.metadata, licence, description)
        path = _written(paths.MOTION_LORAS, folder, name, lambda path: save_motion_lora(path, layers, words))
        return _told(cls, path, left_out(lora.ignored))


def _inputs(name: str, place: str) -> list[io.Input]:
    return [
        io.String.Input(
            "name",
            default=name,
            tooltip="File name without ending, also with a folder before it; a number is put behind.",
        ),
        io.Combo.Input(
            "dtype",
            options=list(DTYPES),
            default="as it is",
            optional=True,
            tooltip="Type of the weights in the file. float16 halves what float32 takes.",
        ),
        io.Combo.Input(
            "folder",
            options=["models", "output"],
            default="models",
            optional=True,
            tooltip=f"models: {place}. output: ComfyUI's output folder.",
        ),
        io.String.Input(
            "licence",
            default="",
            optional=True,
            tooltip="For the metadata; empty keeps what the file had.",
        ),
        io.String.Input(
            "description",
            default="",
            multiline=True,
            optional=True,
            tooltip="Words for the metadata: what it does, what it was made of.",
        ),
    ]


def _dtype(name: str) -> torch.dtype | None:
    if name not in DTYPES:
        raise ValueError(f"dtype is {shown(name, 40)!r}, expected one of {', '.join(DTYPES)}.")
    return DTYPES[name]


def _words(kept: Mapping[str, str], licence: str, description: str) -> dict[str, str]:
    words = {key: value for key, value in kept.items() if key not in OF_THE_FILE}
    if licence:
        words["licence"] = licence
    if description:
        words["description"] = description
    return words


def _written(
    models: str, folder: str, name: str, write: Callable[[Path], None], ending: str = ".safetensors"
) -> Path:
    """Write to a name that is not taken; returns where. Without an ending it is a folder.

    Raises:
        ValueError: a name that leaves the folder, or is none.
        OSError: the folder cannot be written to, or the name is no file's there.
    """
    if folder not in ("models", "output"):
        raise ValueError(f"folder is {shown(folder, 40)!r}, expected models or output.")
    parts = (*PurePosixPath(name).parts, *PureWindowsPath(name).parts)
    absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor
    if not name.strip() or not name.isprintable() or absolute or ".." in parts:
        raise ValueError(
            f"The name {shown(name, 60)!r} is none for a file in the folder. Give a name such as "
            "`my_module`, or `folder/my_module`."
        )
    base = (
        folder_paths.get_output_directory()
        if folder == "output"
        else folder_paths.get_folder_paths(models)[0]
    )
    base = os.path.abspath(base)
    try:
        place, stem, counter, *_ = folder_paths.get_save_image_path(name, base)
        Path(place).mkdir(parents=True, exist_ok=True)
        while True:
            path = Path(place) / f"{stem}_{counter:05}_{ending}"
            try:
                # The name is ours from here on, whoever else is counting.
                path.open("x").close() if ending else path.mkdir()
                break
            except FileExistsError:
                counter += 1
    except OSError as error:
        raise OSError(
            f"{shown(name, 60)} cannot be written to {base} ({error.strerror}). Choose another name or "
            "folder."
        ) from error
    try:
        write(path)
    except BaseException:
        path.unlink(missing_ok=True) if ending else shutil.rmtree(path, ignore_errors=True)
        raise
    return path


def _told(node: type[io.ComfyNode], path: Path, more: str = "") -> io.NodeOutput:
    logger.log(logging.WARNING if more else logging.INFO, "Wrote %s%s", path, more)
    show_on_node(node, f"Wrote {path.name}{more}")
    return io.NodeOutput(ui={"text": (path.name,)})
