"""MODEL, CLIP and VAE of a graph as the base of a training, and the host left as it was found."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import random
import sys
from collections.abc import Iterator
from typing import Any

import comfy.model_management
import numpy as np
import torch
from comfy.model_patcher import ModelPatcher

from ...motion_core.files.checkpoint import control_state_dict
from ..compat import ways_beside_weights
from ..types import LoadedMotionModule


def loaded_base(model: ModelPatcher, clip: Any, vae: Any, motion_module: LoadedMotionModule | None) -> Any:
    """What ComfyUI has loaded, as the trainer takes it (:class:`training.model.loaded.Loaded`). Frees the
    device, so that no patches are in the weights and training has the memory.

    Raises:
        ValueError: something on the MODEL or the motion module that training cannot take along.
    """
    from ...training.model.loaded import Loaded, fingerprint, patched

    _require_parts(clip, vae)
    _refuse_what_is_beside(model)
    motion, licence = None, ""
    if motion_module is not None:
        if motion_module.patcher.patches:
            raise ValueError(
                f"The motion module {motion_module.name} has patches on it, and training starts from plain "
                "weights. Save it first, or connect Load Motion Module (FlipbookLoadMotionModule)."
            )
        motion, licence = motion_module.patcher.model, motion_module.metadata.get("licence", "")
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()
    parts = [*patched(model), *patched(clip.patcher), clip.layer_idx, vae.first_stage_model.state_dict()]
    if motion is not None:
        parts += [repr(motion_module.config), motion.state_dict(), control_state_dict(motion)]
    pause = comfy.model_management.throw_exception_if_processing_interrupted
    return Loaded(model, clip, vae, motion, fingerprint(*parts, pause=pause), licence)


def _require_parts(clip: Any, vae: Any) -> None:
    """Loaders hand out nothing where a checkpoint has no such part, and a VAE without a model."""
    for name, there, part, loader in (
        ("clip", clip is not None, "text encoder", "Load CLIP"),
        ("vae", vae is not None and vae.first_stage_model is not None, "VAE", "Load VAE"),
    ):
        if not there:
            raise ValueError(
                f"{name}: there is no {part} in what is connected; the checkpoint has none. Connect {loader} "
                "with the one of the model's family."
            )


def _refuse_what_is_beside(model: ModelPatcher) -> None:
    """LoRAs and merges are weights, and the copy that is trained on has them; a function is not."""
    beside = ways_beside_weights(model)
    if beside:
        raise ValueError(
            f"Something on this MODEL works beside its weights ({', '.join(beside)}), and training sees the "
            "weights alone. Connect the MODEL from before that node; LoRAs, merges and Apply Domain Adapter "
            "may stay."
        )


def device_name() -> str:
    """The trainer's word for the device that ComfyUI computes on: it knows CUDA (with ROCm) and the CPU."""
    return "cuda" if comfy.model_management.get_torch_device().type == "cuda" else "cpu"


def other_device() -> str:
    """What to say where ComfyUI computes on a device that the trainer does not know; else nothing."""
    kind = comfy.model_management.get_torch_device().type
    if kind in ("cuda", "cpu"):
        return ""
    return f"ComfyUI computes on {kind}; the trainer knows CUDA, ROCm and the CPU: it trains on the CPU."


def precision() -> str:
    """Type of the frozen base while training."""
    if device_name() == "cpu":
        return "fp32"
    return "bf16" if comfy.model_management.should_use_bf16() else "fp16"


@contextlib.contextmanager
def training_mode() -> Iterator[None]:
    """Within, gradients can be had, although ComfyUI runs nodes in inference mode. What training sets for the
    whole process is put back: generators of random numbers, TF32, threads; and memory is given back."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    python, numpy_state, threads = random.getstate(), np.random.get_state(), torch.get_num_threads()
    switches = matmul.allow_tf32, cudnn.allow_tf32
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)
        torch.set_num_threads(threads)
        matmul.allow_tf32, cudnn.allow_tf32 = switches
        comfy.model_management.soft_empty_cache()
        _return_freed_pages()


def _return_freed_pages() -> None:
    """What a training has freed goes back to the system. glibc keeps it else, a tenth of the process and
    more; other C libraries do not have the call, and return memory by themselves."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        gc.collect()
        trim(0)
