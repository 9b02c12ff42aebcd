"""merge, blend, extract and inspect on the command line."""

import re

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
    for command in (["inspect", str(folder)], ["convert", str(folder), str(tmp_path / "x.safetensors")]):
        assert main(command) == 1
        assert f"{folder} is a folder. Name the file" in capsys.readouterr().err
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


def test_what_is_made_of_two_files_has_what_both_say_and_the_licences_of_both(modules, capsys):
    one, other, lora, *made = (str(modules / f"{name}.safetensors") for name in "12lmbe")
    assert main(["extract", one, other, lora, "--rank", "1"]) == 0
    for path, words in (
        (one, {"licence": "CC0-1.0", "base_model_hash": "abc", "seed": "1"}),
        (other, {"licence": "MIT", "base_model_hash": "abc", "seed": "2"}),
        (lora, {"licence": "CC-BY-NC-4.0", "seed": "3"}),
    ):
        save_file(load_file(path), path, words)
    commands = ["merge", one, lora], ["blend", one, other], ["extract", one, other]
    for command, path in zip(commands, made, strict=True):
        assert main([*command, path]) == 0, capsys.readouterr().err
    merged, blended, extracted = (TensorFile(path).metadata for path in made)
    assert merged["licence"] == "CC0-1.0, CC-BY-NC-4.0" and merged["seed"] == "1"
    assert blended["licence"] == extracted["licence"] == "CC0-1.0, MIT"
    assert blended["base_model_hash"] == "abc" and "seed" not in blended


def test_nothing_is_overwritten(modules, capsys):
    one, other = (str(modules / f"{n}.safetensors") for n in "12")
    before = (modules / "2.safetensors").read_bytes()
    assert main(["blend", one, one, other]) == 1
    assert "exists already" in capsys.readouterr().err and (modules / "2.safetensors").read_bytes() == before


def test_a_domain_adapter_in_kohyas_spelling_is_converted_to_one_that_load_lora_reads(tmp_path):
    stem, path = (
        "lora_unet_up_blocks_1_attentions_0_transformer_blocks_0_attn2_to_out_0",
        tmp_path / "k.safetensors",
    )
    down, up = torch.randn(4, 8), torch.randn(8, 4)
    factors = {
        f"{stem}.lora_down.weight": down,
        f"{stem}.lora_up.weight": up,
        f"{stem}.alpha": torch.tensor(1.0),
    }
    save_file(factors, path)
    assert main(["convert", str(path), str(tmp_path / "out.safetensors")]) == 0
    released = "up_blocks.1.attentions.0.transformer_blocks.0.attn2.processor.to_out_lora"
    found = load_file(tmp_path / "out.safetensors")
    assert found.keys() == {f"{released}.down.weight", f"{released}.up.weight"}
    product = found[f"{released}.up.weight"] @ found[f"{released}.down.weight"]
    torch.testing.assert_close(product, 0.25 * up @ down)


@pytest.mark.parametrize(
    "stem", ["lora_unet_input_blocks_1_1_to_q", "input_blocks.1.1.attn1.to_q", "lora_te_x_to_q"]
)
def test_names_that_no_other_program_would_read_are_not_written(tmp_path, capsys, stem):
    path = tmp_path / "k.safetensors"
    save_file(
        {f"{stem}.lora_down.weight": torch.ones(1, 4), f"{stem}.lora_up.weight": torch.ones(4, 1)}, path
    )
    assert main(["convert", str(path), str(tmp_path / "out.safetensors")]) == 1
    assert f"Cannot write a LoRA of {stem}" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("command", ["convert", "merge"])
def test_nothing_else_is_replaced_and_no_strength_is_no_number(modules, capsys, command):
    one, other, lora = (str(modules / f"{n}.safetensors") for n in "12l")
    before = (modules / "2.safetensors").read_bytes()
    if command == "convert":
        assert main(["convert", one, other]) == 1 and "exists already" in capsys.readouterr().err
    else:
        assert main(["extract", one, other, lora, "--rank", "1"]) == 0
        assert main(["merge", one, lora, str(modules / "n.safetensors"), "--strength", "nan"]) == 1
        assert "strength" in capsys.readouterr().err and not (modules / "n.safetensors").exists()
    assert (modules / "2.safetensors").read_bytes() == before


def test_a_file_in_8_bit_is_told_as_such(modules, capsys):
    path = modules / "1.safetensors"
    save_file({key: value.to(torch.float8_e4m3fn) for key, value in load_file(path).items()}, path)
    assert main(["inspect", str(path)]) == 0
    assert "million weights in float8_e4m3fn" in capsys.readouterr().out


def test_what_a_ckpt_does_not_say_is_told(tmp_path, capsys):
    slots = [("down_blocks.0.motion_modules.0", 32)]
    for name, options in (("odd", {"num_heads": 4, "unet_groupnorm": "joint"}), ("usual", {})):
        config = MotionModuleConfig.for_slots(slots, "v3", **options)
        save_motion_module(tmp_path / f"{name}.safetensors", initialise(MotionModel(config), 1))
    odd, usual = str(tmp_path / "odd.safetensors"), str(tmp_path / "usual.safetensors")
    for number, command in enumerate((["convert", odd], ["blend", odd, odd])):
        assert main([*command, str(tmp_path / f"{number}.ckpt")]) == 0
        told = capsys.readouterr().out
        assert "num_heads (4, not 8)" in told and "unet_groupnorm (joint, not per_frame)" in told
    for target in ("x.ckpt", "x.safetensors"):
        assert main(["convert", usual, str(tmp_path / target)]) == 0
        assert "metadata" not in capsys.readouterr().out


@pytest.mark.parametrize("command", ["blend", "extract", "merge"])
def test_long_work_says_how_far_it_is(modules, monkeypatch, caplog, command):
    files = [str(modules / f"{name}.safetensors") for name in "12l"]
    if command == "merge":
        assert main(["extract", *files, "--rank", "1"]) == 0
        files = [files[0], files[2], str(modules / "m.safetensors")]
    caplog.clear()
    monkeypatch.setattr("animatediff_flipbook.training.weights_commands.SECONDS_BETWEEN_LINES", 0.0)
    assert main([command, *files]) == 0
    told = [
        found.groups() for found in (re.search(r"(\d+) of (\d+)", line) for line in caplog.messages) if found
    ]
    assert len(told) > 5 and told[-1][0] == told[-1][1]
    caplog.clear()
    monkeypatch.setattr("animatediff_flipbook.training.weights_commands.SECONDS_BETWEEN_LINES", 1000.0)
    assert main([command, *files[:2], str(modules / "again.safetensors")]) == 0
    assert not any(" of " in line for line in caplog.messages)
