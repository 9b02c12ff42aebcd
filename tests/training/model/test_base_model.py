"""Base models that cannot be trained on are refused with the reason, before anything is computed."""

import comfy.sd
import pytest
import torch
from animatediff_flipbook.training.model.base_model import BaseModel
from safetensors.torch import load_file, save_file


def load(settings, tmp_path, *overrides: str) -> BaseModel:
    base = settings(tmp_path, *overrides).base
    return BaseModel(base, torch.device("cpu"), encoders=False)


def test_an_inpainting_model(settings, checkpoint, tmp_path):
    tensors = load_file(checkpoint)
    name = next(key for key in tensors if key.endswith("input_blocks.0.0.weight"))
    weight = tensors[name]
    tensors[name] = torch.cat([weight, weight.new_zeros(len(weight), 5, 3, 3)], dim=1)
    save_file(tensors, tmp_path / "inpainting.safetensors")
    with pytest.raises(ValueError, match="9 channels, expected 4"):
        load(settings, tmp_path, f"base.checkpoint={tmp_path / 'inpainting.safetensors'}")


def test_a_model_whose_schedule_ends_in_pure_noise(settings, tmp_path, monkeypatch):
    load_as_ever = comfy.sd.load_checkpoint_guess_config

    def load_with_zero_snr(*args, **kwargs):
        found = load_as_ever(*args, **kwargs)
        found[0].model.model_sampling.zsnr = True
        return found

    load(settings, tmp_path)
    monkeypatch.setattr(comfy.sd, "load_checkpoint_guess_config", load_with_zero_snr)
    with pytest.raises(ValueError, match="zero terminal SNR"):
        load(settings, tmp_path)


def test_parentheses_of_captions_are_no_weights(settings, tmp_path):
    base = settings(tmp_path).base
    model = BaseModel(base, torch.device("cpu"), encoders=True, unet=False)
    encoded = [model.encode_text(f"a (red:{number}) circle")[0] for number in ("1.0", "9.0")]
    assert torch.equal(*encoded), "numbers are unknown words of the small vocabulary, both alike"
    assert not torch.equal(encoded[0], model.encode_text("a (blue:1.0) circle")[0])
