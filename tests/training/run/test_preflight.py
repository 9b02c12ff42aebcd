"""What can be known at the start is said before anything is encoded."""

import pytest
import torch
from animatediff_flipbook.training.run import parts
from animatediff_flipbook.training.run.train import train
from safetensors.torch import load_file, save_file


@pytest.fixture
def no_encoding(monkeypatch):
    monkeypatch.setattr(parts, "fill_cache", lambda *_: pytest.fail("encoding has begun"))


@pytest.mark.parametrize(
    ("stage", "setting", "error", "words"),
    [
        ("motion_module", "motion.file", FileNotFoundError, "motion.file: there is no file"),
        ("motion_module", "base.domain_adapter", FileNotFoundError, "base.domain_adapter: there is no file"),
        ("motion_lora", "lora.file", FileNotFoundError, "lora.file: there is no file"),
        ("motion_module", "base.checkpoint", FileNotFoundError, "base.checkpoint: there is no file"),
    ],
)
def test_a_missing_file(stage_settings, tmp_path, no_encoding, stage, setting, error, words):
    with pytest.raises(error, match=words):
        train(stage_settings(stage, tmp_path, f"{setting}={tmp_path}/nothing.safetensors"))


@pytest.mark.parametrize("setting", ["motion.file", "base.domain_adapter", "base.checkpoint"])
def test_a_damaged_file(stage_settings, tmp_path, no_encoding, checkpoint, setting):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(checkpoint.read_bytes()[:5000])
    with pytest.raises(ValueError, match=rf"{setting}: damaged.safetensors .*download it again"):
        train(stage_settings("motion_module", tmp_path, f"{setting}={damaged}"))


@pytest.mark.parametrize(
    ("stage", "setting", "words"),
    [
        ("motion_module", "base.checkpoint", "base.checkpoint: .* is no checkpoint. It is a motion module"),
        (
            "motion_module",
            "base.domain_adapter",
            "base.domain_adapter: .* is a motion module; expected a LoRA",
        ),
        ("motion_lora", "lora.file", "lora.file: .* is a motion module; expected a MotionLoRA"),
    ],
)
def test_a_file_of_another_kind(stage_settings, motion_file, tmp_path, no_encoding, stage, setting, words):
    with pytest.raises(ValueError, match=words):
        train(stage_settings(stage, tmp_path, f"{setting}={motion_file}"))


def test_a_checkpoint_as_motion_module(stage_settings, checkpoint, tmp_path, no_encoding):
    with pytest.raises(ValueError, match="motion.file: .* is a whole checkpoint; expected a motion module"):
        train(stage_settings("motion_module", tmp_path, f"motion.file={checkpoint}"))


@pytest.mark.parametrize("stage", ["motion_module", "motion_lora"])
def test_longer_clips_than_the_motion_module_has_positions_for(stage_settings, tmp_path, no_encoding, stage):
    said = (
        r"^The motion module got 33 frames in one clip \(data\.frames\), expected at most 32: .* 32 or less"
        + (".*motion.pe_length" if stage == "motion_module" else "")
    )
    with pytest.raises(ValueError, match=said):
        train(stage_settings(stage, tmp_path, "data.frames=33"))


def test_an_unknown_optimizer(stage_settings, tmp_path, no_encoding):
    with pytest.raises(ValueError, match="optimizer.name = 'AdamX'"):
        train(stage_settings("motion_module", tmp_path, "optimizer.name=AdamX"))


@pytest.mark.parametrize("setting", ["output", "cache.folder", "export.folder"])
def test_a_folder_that_cannot_be_made(stage_settings, tmp_path, no_encoding, setting):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match=rf"{setting}: .* cannot be written to"):
        train(stage_settings("motion_module", tmp_path / "run", f"{setting}={tmp_path}/file/x"))


def test_a_checkpoint_that_comfyui_does_not_know(stage_settings, checkpoint, tmp_path):
    other = tmp_path / "other.safetensors"
    save_file({f"layer.{key}": tensor for key, tensor in load_file(checkpoint).items()}, other)
    with pytest.raises(ValueError, match="base.checkpoint: ComfyUI cannot load .* Expected a whole SD1.5"):
        train(stage_settings("motion_module", tmp_path / "run", f"base.checkpoint={other}"))


def test_half_precision_without_a_gpu(stage_settings, tmp_path, no_encoding):
    with pytest.raises(ValueError, match="'fp16' needs a GPU in stage motion_module"):
        train(stage_settings("motion_module", tmp_path, "train.precision=fp16"))


def test_a_refused_run_leaves_the_next_one_free_to_choose(stage_settings, tmp_path):
    """accelerate keeps its precision for a process; here one run of each, the first refused."""
    with pytest.raises(FileNotFoundError):
        train(stage_settings("domain_adapter", tmp_path / "a", "lora.file=none", "train.precision=bf16"))
    assert torch.isfinite(
        torch.tensor(train(stage_settings("domain_adapter", tmp_path / "b", "train.steps=1")).loss)
    )
