"""What the file that a run starts from holds beside what is trained: kept in the exported file, or told."""

import logging

import pytest
import torch
from animatediff_flipbook.demo.tiny_family.build import build_networks
from animatediff_flipbook.motion_core.files.checkpoint import (
    load_motion_module,
    motion_state_dict,
    open_motion_module,
)
from animatediff_flipbook.motion_core.files.lora import save_domain_adapter, save_motion_lora
from animatediff_flipbook.motion_core.files.tensor_file import TensorFile
from animatediff_flipbook.tests.support import motion_for
from animatediff_flipbook.tests.support_controls import write_image_module, write_pia
from animatediff_flipbook.training.run import parts
from animatediff_flipbook.training.run.train import train
from safetensors.torch import load_file, save_file


@pytest.fixture(scope="module")
def unet():
    return build_networks().unet


def trained(config, caplog):
    with caplog.at_level(logging.WARNING):
        return train(config).file


@pytest.mark.parametrize(("write", "what"), [(write_pia, "PIA"), (write_image_module, "AnimateLCM-I2V")])
def test_parts_that_steer_by_a_picture_stay_as_they_are(unet, stage_settings, tmp_path, caplog, write, what):
    start = write(tmp_path / "steered.ckpt", unet)
    names = [key for key in TensorFile(start).shapes if "motion_modules" not in key]
    settings = (f"motion.file={start}", "train.steps=1")
    file = trained(stage_settings("motion_module", tmp_path / "run", *settings), caplog)
    before, after = (dict(TensorFile(path).read(names)) for path in (start, file))
    assert names and all(torch.equal(after[name], before[name]) for name in names)
    first, last = (motion_state_dict(load_motion_module(path)) for path in (start, file))
    assert any(not torch.equal(first[name], last[name]) for name in first)
    opened = open_motion_module(file)
    assert opened.config == open_motion_module(start).config and opened.control_keys
    assert any(what in r.message and "not trained" in r.message for r in caplog.records)
    assert not any("connect" in r.message for r in caplog.records), "there is no node here"


def test_a_part_that_is_incomplete_is_refused(unet, stage_settings, tmp_path):
    start = write_image_module(tmp_path / "steered.ckpt", unet)
    state = torch.load(start, weights_only=True)
    del state[[name for name in state if name.startswith("img_encoder.")][-1]]
    torch.save(state, start)
    with pytest.raises(ValueError, match=r"steered\.ckpt cannot be used"):
        train(stage_settings("motion_module", tmp_path / "run", f"motion.file={start}"))


def test_the_start_s_licence_stays_and_tensors_that_do_not_are_told(unet, stage_settings, tmp_path, caplog):
    start = tmp_path / "start.safetensors"
    state = motion_state_dict(motion_for(unet, "v3", fused_qkv=False))
    save_file({**state, "step_embedding.weight": torch.ones(2)}, start, {"licence": "CC-BY-NC-4.0"})
    settings = (f"motion.file={start}", "train.steps=1")
    file = trained(stage_settings("motion_module", tmp_path / "run", *settings), caplog)
    assert TensorFile(file).metadata["licence"] == "CC-BY-NC-4.0"
    assert any("start.safetensors" in r.message and "step_embedding" in r.message for r in caplog.records)


@pytest.mark.parametrize("stage", ["domain_adapter", "motion_lora"])
def test_a_lora_with_tensors_that_training_would_lose_is_refused(
    stage_settings, tmp_path, monkeypatch, stage
):
    monkeypatch.setattr(parts, "fill_cache", lambda *_: pytest.fail("encoding has begun"))
    start = tmp_path / "dora.safetensors"
    place = "attentions.0" if stage == "domain_adapter" else "motion_modules.0.temporal_transformer"
    layer = f"down_blocks.0.{place}.transformer_blocks.0.attn1.to_q"
    save = save_domain_adapter if stage == "domain_adapter" else save_motion_lora
    save(start, {layer: (torch.ones(4, 32), torch.ones(32, 4))})
    save_file({**load_file(start), f"{layer}.dora_scale": torch.ones(4)}, start)
    with pytest.raises(ValueError, match=r"lora\.file: dora\.safetensors .*dora_scale"):
        train(stage_settings(stage, tmp_path / "run", f"lora.file={start}"))


def test_of_adapters_the_licence_stays_and_what_is_ignored_is_told(stage_settings, tmp_path, caplog):
    settings = ("train.steps=1", "export.licence=CC0-1.0")
    first = train(stage_settings("domain_adapter", tmp_path / "first", *settings)).file
    assert TensorFile(first).metadata["licence"] == "CC0-1.0"
    settings = (f"lora.file={first}", "train.steps=1")
    second = train(stage_settings("domain_adapter", tmp_path / "second", *settings)).file
    assert TensorFile(second).metadata["licence"] == "CC0-1.0"
    adapter = tmp_path / "adapter.safetensors"
    save_file({**load_file(second), "more.dora_scale": torch.ones(4)}, adapter)
    settings = (f"base.domain_adapter={adapter}", "train.steps=1")
    trained(stage_settings("motion_module", tmp_path / "third", *settings), caplog)
    assert any("adapter.safetensors" in r.message and "dora_scale" in r.message for r in caplog.records)
