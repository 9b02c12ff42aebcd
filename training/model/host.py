"""ComfyUI from outside of it: made importable, its loaders asked for a checkpoint."""

from __future__ import annotations

import importlib.util
import os
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError

from ..config import BaseConfig


def enter_comfyui(config: BaseConfig) -> None:
    """Make ``comfy`` importable: its folder first on the path, the CPU chosen where there is no GPU.

    Raises:
        FileNotFoundError: no ComfyUI at the configured place.
    """
    if "comfy" in sys.modules:
        return
    folder = Path(config.comfyui or os.environ.get("COMFYUI_PATH", ""))
    if not (config.comfyui or os.environ.get("COMFYUI_PATH")) or not (folder / "comfy").is_dir():
        raise FileNotFoundError(
            f"No ComfyUI at {str(folder)!r}. Set base.comfyui in the configuration or the environment "
            "variable "
            "COMFYUI_PATH to ComfyUI's folder (the one with main.py)."
        )
    sys.path.insert(0, str(folder.resolve()))
    # ComfyUI's nodes.py later puts comfy/ in front, whose utils.py would hide this package from custom nodes.
    import utils.extra_config  # noqa: F401
    from comfy.cli_args import args

    if config.device == "cpu" or not torch.cuda.is_available():
        args.cpu = True


def load_custom_nodes(paths: tuple[str, ...]) -> None:
    """Run custom node packs by path, as ComfyUI does at its start, so that they register their models.

    Raises:
        FileNotFoundError: no such pack.
    """
    for path in map(Path, paths):
        entry = path / "__init__.py" if path.is_dir() else path
        if not entry.is_file():
            raise FileNotFoundError(f"base.custom_nodes: there is no custom node pack at {path}.")
        name = str(path.resolve()).replace(".", "_x_")
        if name in sys.modules:
            continue
        folders = [str(path)] if path.is_dir() else None
        spec = importlib.util.spec_from_file_location(name, entry, submodule_search_locations=folders)
        module: ModuleType = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)


def layers(dtype: torch.dtype) -> Any:
    """ComfyUI's layers that cast weights to the type of what comes in, whatever autocast made of it before;
    plain ones where all is fp32."""
    import comfy.ops

    return comfy.ops.disable_weight_init if dtype == torch.float32 else comfy.ops.manual_cast


def load_checkpoint(config: BaseConfig, dtype: torch.dtype, encoders: bool, vae: bool) -> tuple:
    """MODEL, CLIP and VAE of the configured checkpoint.

    Raises:
        FileNotFoundError, ValueError: as of :class:`BaseModel`.
    """
    if not Path(config.checkpoint).is_file():
        raise FileNotFoundError(f"base.checkpoint: there is no file {config.checkpoint}.")
    enter_comfyui(config)
    load_custom_nodes(config.custom_nodes)
    import comfy.sd

    try:
        return comfy.sd.load_checkpoint_guess_config(
            config.checkpoint,
            output_model=True,
            output_clip=encoders,
            output_vae=vae,
            model_options={"dtype": dtype, "custom_operations": layers(dtype)},
        )[:3]
    except torch.cuda.OutOfMemoryError:
        raise
    except (SafetensorError, RuntimeError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"base.checkpoint: ComfyUI cannot load {config.checkpoint} ({reason}). Expected a whole "
            "SD1.5 or SDXL checkpoint, as Load Checkpoint takes it."
        ) from error
