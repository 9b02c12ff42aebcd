"""Models for the node tests: the tiny family with random weights, and motion modules for it as files."""

import comfy.sd
import comfy.utils
import pytest
import torch
from animatediff_flipbook.demo.tiny_family import build, model
from animatediff_flipbook.motion_core.files.checkpoint import save_motion_module
from animatediff_flipbook.nodes.motion.load import LoadMotionModule
from animatediff_flipbook.tests.support import motion_for


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    """A checkpoint that ComfyUI's ordinary loader takes. Its UNet speaks softly, so that samplers with an
    error bound (dpm_adaptive) end on random weights."""
    model.register()
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    networks = build.build_networks(seed=0)
    with torch.no_grad():
        networks.unet.out[2].weight.mul_(0.3)
    build.write_checkpoint(path, networks)
    return path


@pytest.fixture(scope="session")
def tiny_model(tiny_checkpoint):
    """MODEL of the checkpoint, as CheckpointLoaderSimple gives it. Shared: tests must leave it untouched."""
    return comfy.sd.load_checkpoint_guess_config(str(tiny_checkpoint), output_vae=False, output_clip=False)[0]


@pytest.fixture
def progress(monkeypatch):
    """``(value, total)`` of every movement of ComfyUI's progress bars, also where newer versions pass on
    only a few a second."""
    shown = []
    for pause in ("PROGRESS_THROTTLE_MIN_INTERVAL", "PROGRESS_THROTTLE_MIN_PERCENT"):
        if hasattr(comfy.utils, pause):
            monkeypatch.setattr(comfy.utils, pause, 0)
    monkeypatch.setattr(
        comfy.utils,
        "PROGRESS_BAR_HOOK",
        lambda value, total, preview, node_id=None: shown.append((value, total)),
    )
    return shown


@pytest.fixture
def motion_module(tiny_model, model_folders):
    """``motion_module("v3")``: a MOTION_MODULE with random weights, through a file and our node."""

    def load(generation="v3", seed=7, dtype=torch.float32, name=None, **options):
        motion = motion_for(
            tiny_model.model.diffusion_model, generation, seed=seed, dtype=dtype, fused_qkv=False, **options
        )
        name = name or f"{generation}_{seed}.safetensors"
        path = model_folders["animatediff_models"] / name
        if not path.exists():
            save_motion_module(path, motion)
        return LoadMotionModule.execute(motion_module=name)[0]

    return load
