"""The file that leaves a run: the original key style with everything that a loader may want to know in its
metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ...motion_core.files.checkpoint import config_metadata, save_motion_module
from ...motion_core.files.lora import save_domain_adapter, save_motion_lora
from ...motion_core.module.config import base_of
from ...motion_core.module.unet import unet_slots
from ..config import RunConfig, to_dict
from ..config.read import PATHS
from ..model.denoiser import Denoiser

VERSION = "0.1.0"
"""Of the trainer, in every file it writes."""

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def metadata(config: RunConfig, denoiser: Denoiser, facts: dict[str, str]) -> dict[str, str]:
    """Everything about a run that a loader or a reader may want; all values are text, as safetensors wants
    it.

    Args:
        config: the run.
        denoiser: its model.
        facts: ``steps``, ``prediction``, ``data_fingerprint``, ``base_model_hash`` and the noise schedule.
    """
    if denoiser.motion is not None:
        layout = config_metadata(denoiser.motion.config)
    else:
        layout = {"base": base_of((slot.name, slot.channels) for slot in unet_slots(denoiser.base.unet))}
    camera = config.camera
    lora = {} if config.stage == "motion_module" else {
        "rank": str(config.lora.rank),
        "alpha": str(config.lora.alpha or config.lora.rank),
    }  # fmt: skip
    return {
        **layout,
        **facts,
        **lora,
        "format": config.stage,
        "stage": config.stage,
        "frames": str(config.frames),
        "fps": f"{config.data.fps:g}",
        "stride": str(config.data.stride),
        "resolution": " ".join(f"{width}x{height}" for width, height in config.data.resolutions),
        "adapter_scale_in_training": f"{config.base.domain_adapter_strength:g}"
        if config.base.domain_adapter
        else "0",
        "camera": f"{camera.direction} {camera.speed:g}" if camera.direction else "",
        "seed": str(config.seed),
        "licence": config.export.licence or denoiser.kept.licence,
        "trainer_version": VERSION,
        "modelspec.title": config.name,
        "modelspec.architecture": f"{layout['base']}/{config.stage}",
        "config": json.dumps(_without_folders(to_dict(config))),
    }


def write(path: Path, config: RunConfig, denoiser: Denoiser, facts: dict[str, str]) -> None:
    """Write what the run has trained; the scale of LoRA layers is folded in."""
    dtype = DTYPES[config.export.dtype]
    info = metadata(config, denoiser, facts)
    if config.stage == "motion_module":
        save_motion_module(path, denoiser.motion, info, dtype=dtype, controls=denoiser.kept.controls)
        return
    layers = {name: (down.to(dtype), up.to(dtype)) for name, (down, up) in denoiser.trained.layers().items()}
    save = save_domain_adapter if config.stage == "domain_adapter" else save_motion_lora
    save(path, layers, info)


def _without_folders(settings: Any) -> Any:
    """The same settings with the last part of every path only: files travel, and the folders of the machine
    that made them are nobody's business."""
    if isinstance(settings, list):
        return [_without_folders(item) for item in settings]
    if not isinstance(settings, dict):
        return settings
    result = {}
    for key, value in settings.items():
        if key in PATHS and isinstance(value, str | list):
            value = Path(value).name if isinstance(value, str) else [Path(item).name for item in value]
        result[key] = _without_folders(value)
    return result
