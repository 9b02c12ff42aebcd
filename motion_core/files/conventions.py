"""What a motion module file's tensors do not say: its metadata's word, or what is known of the release."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from ..module.config import GENERATIONS, GROUPNORM_MODES, ModuleShape, MotionModuleConfig, base_of
from ..schedule.beta_schedules import BetaSchedule
from .control_parts import IMAGE_ENCODER, PIA_INPUT
from .recognise import recognise
from .side_files import finite_number, json_file, whole_number
from .tensor_file import TensorFile
from .words import shown

MAX_PE_LENGTH = 4096
"""Frames for which a file's metadata may ask position tables."""
MOST = 4096
"""Attention heads and norm groups."""


def configure(
    source: TensorFile,
    shapes: tuple[tuple[str, ModuleShape], ...],
    has_positions: bool,
    others: list[str],
    parts: list[str],
    notes: list[str],
) -> MotionModuleConfig:
    """Conventions: the file's metadata where it has them, else what is known of the release it looks like."""
    metadata = source.metadata
    generation = metadata.get("version", "")
    if generation not in GENERATIONS:
        generation = _guess_generation(source, shapes, has_positions, parts, notes)
    known = GENERATIONS[generation]
    if not has_positions:
        length = whole_number(metadata.get("pe_length", known.pe_length), "pe_length", MAX_PE_LENGTH)
        shapes = tuple((name, replace(shape, pe_length=length)) for name, shape in shapes)
        notes.append(
            f"The file has no position tables; the standard ones for up to {length} frames are used."
        )
    if others and generation != "pia" and recognise(source.shapes) != "sparsectrl":
        notes.append(
            f"{len(others)} tensors that belong to no motion module were left out, such as "
            f"{shown(others[0])}."
        )
    schedule = known.beta_schedule
    if "beta_schedule" in metadata:
        schedule = BetaSchedule(
            metadata["beta_schedule"],
            _number(metadata, "beta_start", schedule.start),
            _number(metadata, "beta_end", schedule.end),
        )
    heads, groups = _heads_and_groups(source, notes)
    return MotionModuleConfig(
        modules=shapes,
        generation=generation,
        num_heads=heads,
        norm_groups=groups,
        unet_groupnorm=_mode(source, "unet_groupnorm", known.unet_groupnorm),
        module_groupnorm=_mode(source, "module_groupnorm", known.module_groupnorm),
        beta_schedule=schedule,
    )


def _guess_generation(
    source: TensorFile,
    shapes: tuple[tuple[str, ModuleShape], ...],
    has_positions: bool,
    parts: list[str],
    notes: list[str],
) -> str:
    """The release a file without our metadata looks like."""
    if recognise(source.shapes) == "sparsectrl":
        return "v3"
    if any("temporal_attentions" in key for key in source.shapes):
        return "hotshotxl"
    if PIA_INPUT in parts:
        return "pia"
    if IMAGE_ENCODER in parts:
        return "animatelcm_i2v"
    mid_block = any(name.startswith("mid_block.") for name, _ in shapes)
    levels = {name.split(".")[1]: shape.channels for name, shape in shapes if name.startswith("down_blocks.")}
    widths = [levels[level] for level in sorted(levels)]
    # SDXL's UNet has three levels, each twice as wide as the one before; SD1.5's has four.
    if len(widths) == 3 and widths[2] == 2 * widths[1] == 4 * widths[0] and not mid_block:
        if base_of((name, shape.channels) for name, shape in shapes) != "sdxl":
            notes.append(
                "Taken for a relative of AnimateDiff's SDXL beta, because it has three levels, each twice as "
                "wide as the one before, and no middle block."
            )
        return "sdxl"
    if not has_positions:
        guess = "animatelcm" if mid_block else "v1"
        why = (
            "AnimateLCM is published so"
            if mid_block
            else "the original trainer writes such files, in v1 mode"
        )
        notes.append(
            "Without position tables or metadata the file does not say what it is; taken for "
            f"{GENERATIONS[guess].title} ({why}). Set `groupnorm` if it was trained otherwise."
        )
        return guess
    if mid_block:
        _tell_of_lightning(source, notes)
        return "v2"
    return "v1" if min(shape.pe_length for _, shape in shapes) <= 24 else "v3"


def _tell_of_lightning(source: TensorFile, notes: list[str]) -> None:
    """AnimateDiff-Lightning (Lin and Yang 2024) is a distilled v2; its name says to how many steps."""
    steps = re.search(r"lightning\D*(\d+)\s*-?_?step", source.name, re.IGNORECASE)
    if steps is None:
        return
    notes.append(
        f"AnimateDiff-Lightning for {shown(steps[1], 4)} steps, by its name: sample in so many steps, with "
        "euler, the scheduler sgm_uniform or simple, and CFG 1."
    )


def _number(metadata: Mapping[str, str], name: str, default: float) -> float:
    try:
        return finite_number(float(metadata.get(name, default)), name)
    except ValueError:
        raise ValueError(f"{name} is {shown(metadata[name], 40)!r}, expected a number") from None


def _mode(source: TensorFile, switch: str, default: str) -> str:
    mode = source.metadata.get(switch, default)
    if mode not in GROUPNORM_MODES:
        raise ValueError(f"{switch} is {shown(mode, 40)!r}, expected one of {', '.join(GROUPNORM_MODES)}")
    return mode


def _heads_and_groups(source: TensorFile, notes: list[str]) -> tuple[int, int]:
    """Attention heads and norm groups: metadata, a diffusers config beside the file, or 8 and 32."""
    heads, groups = 8, 32
    beside = source.path.parent / "config.json"
    config = {}
    if beside.is_file():
        try:
            config = json_file(beside)
        except ValueError as error:  # a folder may hold another program's
            notes.append(f"{error} Until then it says nothing about this module.")
    if config.get("_class_name") == "MotionAdapter":
        heads = whole_number(config.get("motion_num_attention_heads", heads), "its config.json's heads", MOST)
        groups = whole_number(config.get("motion_norm_num_groups", groups), "its config.json's groups", MOST)
    return (
        whole_number(source.metadata.get("num_heads", heads), "num_heads", MOST),
        whole_number(source.metadata.get("norm_groups", groups), "norm_groups", MOST),
    )
