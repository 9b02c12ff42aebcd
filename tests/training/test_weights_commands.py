"""merge, blend, extract and inspect on the command line."""

import pytest
import torch
from animatediff_flipbook.motion_core.files.checkpoint import save_motion_module
from animatediff_flipbook.motion_core.files.tensor_file import TensorFile
from animatediff_flipbook.motion_core.module.config import MotionModuleConfig
from animatediff_flipbook.motion_core.module.model import MotionModel
from animatediff_flipbook.tests.support import initialise
from animatediff_flipbook.training.__main__ import main
from safetensors.torch import load_file, save_file


@pytest.fixture
def modules(tmp_path):
    config = MotionModuleConfig.for_slots([("down_blocks.0.motion_modules.0", 32)])
    for seed in (1, 2):
        save_motion_module(tmp_path / f"{seed}.safetensors", initialise(MotionModel(config), seed))
    return tmp_path


def test_blend_extract_merge_and_inspect(modules, capsys):
    one, other, mixed, lora, back = (str(modules / f"{n}.safetensors") for n in ("1", "2", "m", "l", "b"))
    assert main(["blend", one, other, mixed, "--weight", "0.25"]) == 0
    a, b, m = (load_file(path) for path in (one, other, mixed))
    assert all(torch.allclose(m[key], torch.lerp(a[key], b[key], 0.25), atol=1e-6) for key in m)
    assert main(["extract", one, other, lora, "--rank", "256"]) == 0
    assert "0.0% of their difference missed" in capsys.readouterr().out
    assert main(["merge", one, lora, back]) == 0
    found = load_file(back)
    assert all(torch.allclose(found[key], b[key], atol=1e-4) for key in found if b[key].ndim == 2)
    assert main(["inspect", lora]) == 0 and main(["inspect", mixed]) == 0
    assert "MotionLoRA" in (text := capsys.readouterr().out) and "AnimateDiff v3" in text


def test_convert_to_diffusers_and_back(tmp_path, capsys):
    slots = [("down_blocks.0.motion_modules.0", 32)]
    slots += [(f"up_blocks.0.motion_modules.{number}", 32) for number in range(2)]
    model = initialise(MotionModel(MotionModuleConfig.for_slots(slots, "v1")), 1)
    one, folder, back = tmp_path / "one.safetensors", tmp_path / "adapter", tmp_path / "back.safetensors"
    save_motion_module(one, model)
    assert main(["convert", str(one), str(folder), "--layout", "diffusers"]) == 0
    weights = folder / "diffusion_pytorch_model.safetensors"
    assert (folder / "config.json").is_file() and weights.is_file()
    assert main(["convert", str(weights), str(back)]) == 0
    first, second = load_file(one), load_file(back)
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    for taken in (folder, one):
        assert main(["convert", str(back), str(taken), "--layout", "diffusers"]) == 1
        assert "diffusers' layout is a folder" in capsys.readouterr().err
    assert all(torch.equal(first[key], value) for key, value in load_file(one).items())


def test_what_is_left_out_is_told_and_words_stay(modules, capsys):
    one, other, lora = (str(modules / f"{name}.safetensors") for name in "12l")
    assert main(["extract", one, other, lora, "--rank", "1"]) == 0
    for name, extra in (("1", "step_embedding.weight"), ("l", "some.dora_scale")):
        path = modules / f"{name}.safetensors"
        save_file({**load_file(path), extra: torch.ones(2)}, path, {"licence": "CC0-1.0"})
    capsys.readouterr()
    merged, blended, module, factors = (str(modules / f"{name}.safetensors") for name in "mbnf")
    for command, told in (
        (["merge", one, lora, merged], "step_embedding.weight"),
        (["blend", one, other, blended], "step_embedding.weight"),
        (["extract", one, other, str(modules / "e.safetensors"), "--rank", "1"], "step_embedding.weight"),
        (["convert", one, module], "step_embedding.weight"),
        (["convert", lora, factors], "some.dora_scale"),
    ):
        assert main(command) == 0
        assert told in capsys.readouterr().out, command
    assert all(TensorFile(path).metadata["licence"] == "CC0-1.0" for path in (merged, module, factors))


def test_nothing_is_overwritten(modules, capsys):
    one, other = (str(modules / f"{n}.safetensors") for n in "12")
    before = (modules / "2.safetensors").read_bytes()
    assert main(["blend", one, one, other]) == 1
    assert "exists already" in capsys.readouterr().err and (modules / "2.safetensors").read_bytes() == before
