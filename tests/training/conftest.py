"""A run that costs seconds: the tiny family with random weights, 64x64 pixels (8x8 latents), 4 frames."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from animatediff_flipbook.tests.support_clips import moving_square, write_mp4
from animatediff_flipbook.training import config as configuration
from animatediff_flipbook.training.run.train import train

ROOT = Path(__file__).resolve().parents[2]
WORDS = ("left", "right", "up", "down")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tiny tensors: threads cost more than they give, and numbers stay the same on every machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def numbered_frames():
    """``numbered_frames(n)``: frames whose grey level tells their number, 8 levels apart."""

    def make(num_frames: int, width: int = 64, height: int = 64) -> np.ndarray:
        levels = (np.arange(num_frames) * 8 % 256).astype(np.uint8)
        return np.broadcast_to(levels[:, None, None, None], (num_frames, height, width, 3)).copy()

    return make


@pytest.fixture(scope="session")
def write_video():
    """:func:`write_mp4`."""
    return write_mp4


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    """Six captioned videos of 8 frames."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(6):
        write_mp4(folder / f"clip{number}.mp4", moving_square(number))
        (folder / f"clip{number}.txt").write_text(f"a red square {WORDS[number % 4]}")
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A random checkpoint of the tiny family."""
    from animatediff_flipbook.demo.tiny_family.build import write_random_checkpoint

    path = tmp_path_factory.mktemp("base") / "tiny.safetensors"
    write_random_checkpoint(path, seed=0)
    return path


@pytest.fixture(scope="session")
def settings(clips, checkpoint, tmp_path_factory):
    """``settings(output, "key=value", ...)`` -> a run's configuration; encodings are shared by the
    session."""
    cache = tmp_path_factory.mktemp("cache")

    def make(output: Path | str, *overrides: str, stage: str = "motion_module") -> configuration.RunConfig:
        tree = {
            "stage": stage,
            "name": "result",
            "output": str(output),
            "seed": 7,
            "base": {
                "checkpoint": str(checkpoint),
                "custom_nodes": [str(ROOT / "demo" / "tiny_family")],
                "comfyui": os.environ.get("COMFYUI_PATH", str(ROOT / ".flipbook" / "comfyui-0.3.75")),
                "device": "cpu",
            },
            "data": {
                "sources": [{"path": str(clips)}],
                "resolutions": [[64, 64]],
                "frames": 4,
                "fps": 8,
                "missing_captions": "empty",
            },  # fmt: skip
            "cache": {"folder": str(cache)},
            "lora": {"rank": 4},
            "optimizer": {"lr": 1e-3},
            "train": {"steps": 3, "batch_size": 2},
            "export": {"dtype": "float32"},
        }
        for override in overrides:
            configuration.override(tree, override)
        return configuration.from_dict(tree)

    return make


@pytest.fixture(scope="session")
def motion_file(settings, tmp_path_factory) -> Path:
    """A motion module after three steps, for stage 3 to stand on."""
    return train(settings(tmp_path_factory.mktemp("stage2"))).file


@pytest.fixture(scope="session")
def stage_settings(settings, motion_file):
    """``stage_settings(stage, output, ...)`` for each of the three stages."""

    def make(stage: str, output: Path | str, *overrides: str) -> configuration.RunConfig:
        more = (f"motion.file={motion_file}",) if stage == "motion_lora" else ()
        return settings(output, *more, *overrides, stage=stage)

    return make
