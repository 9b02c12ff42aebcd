"""Inspect Motion Module: what it says of modules, LoRAs and files, and that a file's words stay words."""

import re
from dataclasses import replace

import comfy.utils
import pytest
import torch
from animatediff_flipbook.motion_core.files.lora import LoraFile, LoraLayer, lora_targets, save_motion_lora
from animatediff_flipbook.motion_core.weights import loss_curve
from animatediff_flipbook.motion_core.weights.inspect import lora_norms, metadata_lines, norms
from animatediff_flipbook.motion_core.weights.module_weights import weights_of
from animatediff_flipbook.nodes.motion.load import LoadMotionLora
from animatediff_flipbook.nodes.tools.inspect import InspectMotionModule
from safetensors.torch import save_file


def test_a_module_and_its_file_are_told_alike(motion_module):
    module = motion_module(name="mine.safetensors")
    report, picture = InspectMotionModule.execute(motion_module=module).result
    again, other = InspectMotionModule.execute(file="animatediff_models/mine.safetensors").result
    assert report == again and torch.equal(picture, other)
    assert "AnimateDiff v3" in report and "32 rows, sinusoids" in report and "num_heads: 8" in report
    assert picture.ndim == 4 and picture.std() > 0.05


def test_reading_a_file_moves_the_bar_and_stops_at_once(motion_module, monkeypatch):
    motion_module(name="mine.safetensors")
    told = []

    def update(bar, done, total=None, preview=None):
        told.append(done / (total or bar.total))
        if len(told) == stop:
            raise InterruptedError

    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", update)
    stop = 0
    InspectMotionModule.execute(file="animatediff_models/mine.safetensors")
    assert len(told) > 5 and told == sorted(told) and told[-1] == 1.0
    stop = len(told) + 1
    with pytest.raises(InterruptedError):
        InspectMotionModule.execute(file="animatediff_models/mine.safetensors")


def test_norms_are_those_of_the_weights(motion_module):
    module = motion_module()
    weights = weights_of("m", module.patcher.model)
    for one in norms(weights):
        key = f"{one.name}.temporal_transformer.proj_out.weight"
        assert one.parts["proj_out"] == pytest.approx(float(weights.tensors[key].square().mean().sqrt()))
    zeroed = {k: torch.zeros_like(v) if "proj_out" in k else v for k, v in weights.tensors.items()}
    assert norms(type(weights)("m", weights.config, zeroed))[0].parts["proj_out"] == 0.0


def test_lora_norms_are_those_of_the_products():
    generator = torch.Generator().manual_seed(0)
    up, down = torch.randn(8, 3, generator=generator), torch.randn(3, 5, generator=generator)
    lora = LoraFile("x", "motion_lora", {"a": LoraLayer(up, down), "b": LoraLayer(up, down, 6.0)})
    wanted = float((up @ down).norm())
    assert lora_norms(lora) == pytest.approx({"a": wanted, "b": 2 * wanted}, rel=1e-5)


def test_a_lora_and_words_that_are_no_words(motion_module, model_folders):
    layers = {
        name: (torch.ones(2, t.shape[1]), torch.ones(t.shape[0], 2))
        for name, t in lora_targets(motion_module().patcher.model).items()
        if ".to_" in name
    }
    words = {"note": "a\x1b[31mb\n" + "x" * 5000, **{f"k{n}": "v" for n in range(100)}}
    save_motion_lora(model_folders["animatediff_motion_lora"] / "z.safetensors", layers, words)
    lora = LoadMotionLora.execute(motion_lora="z.safetensors")[0]
    for options in ({"motion_lora": lora}, {"file": "animatediff_motion_lora/z.safetensors"}):
        report, _ = InspectMotionModule.execute(**options).result
        assert "MotionLoRA" in report and f"{len(layers)} layers of rank 2" in report
        assert "more" in report and "\x1b" not in report and max(map(len, report.splitlines())) < 300
    assert "\\x1b" in "\n".join(metadata_lines({"note": words["note"]}))


@pytest.mark.parametrize(
    ("before", "blocks"),
    [
        (
            "lora_unet_down_blocks_{}_motion_modules_0_transformer_blocks_0_attn1_",
            ["down_blocks.0", "down_blocks.1"],
        ),
        (
            "lora_unet_input_blocks_{}_1_transformer_blocks_0_attn1_",
            [f"lora_unet_input_blocks_{n}" for n in "01"],
        ),
    ],
)
def test_underscored_names_are_told_by_block_too(model_folders, before, blocks):
    state = {}
    for name in [
        before.format(block) + part for block in "01" for part in ("to_q", "to_k", "to_v", "to_out_0")
    ]:
        state |= {f"{name}.lora_down.weight": torch.ones(1, 4), f"{name}.lora_up.weight": torch.ones(4, 1)}
    save_file(state, model_folders["loras"] / "kohya.safetensors")
    report, picture = InspectMotionModule.execute(file="loras/kohya.safetensors").result
    assert [line.split(":")[0].strip() for line in report.splitlines()[3:5]] == blocks
    assert len(report.splitlines()) == 6 and picture.shape[1] == 4 * 14


def test_the_curve_of_a_training_is_drawn_and_told(motion_module):
    losses = [(step, 2.0 - step / 1000) for step in range(1, 1001)]
    module = motion_module(name="trained.safetensors")
    plain, without = InspectMotionModule.execute(motion_module=module).result
    trained = replace(module, metadata={**module.metadata, loss_curve.KEY: loss_curve.as_text(losses)})
    report, picture = InspectMotionModule.execute(motion_module=trained).result
    (line,) = [line for line in report.splitlines() if line.startswith("trained for 1000 steps")]
    assert [float(word) for word in re.findall(r"\d\.\d+", line)] == pytest.approx([1.9495, 1.0495], abs=1e-3)
    assert loss_curve.KEY not in report and picture.shape[1] > without.shape[1] + 200
    assert set(plain.splitlines()) < set(report.splitlines())


@pytest.mark.parametrize(
    "text",
    ["", "x", "{}", "[]", "[[1]]", "[[1, NaN]]", "[[2, 1], [1, 1]]", '[["a", 1]]', "[" * 9000, "9" * 30_000],
)
def test_a_curve_that_is_none_is_left_alone(text):
    assert loss_curve.of_metadata({loss_curve.KEY: text}) == []


def test_nothing_and_files_elsewhere_are_refused(model_folders):
    with pytest.raises(ValueError, match="nothing to inspect"):
        InspectMotionModule.execute()
    for file in ("../x.safetensors", "checkpoints/x.safetensors", "loras/none.safetensors", "x"):
        with pytest.raises((ValueError, FileNotFoundError)):
            InspectMotionModule.execute(file=file)
        assert InspectMotionModule.validate_inputs(file) is not True
