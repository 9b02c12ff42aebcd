"""Blending, merging, extracting and saving through the nodes: with real patchers and files."""

from dataclasses import replace

import comfy.lora
import folder_paths
import pytest
import torch
from animatediff_flipbook.motion_core.files.checkpoint import load_motion_module, motion_state_dict
from animatediff_flipbook.motion_core.files.lora import lora_targets, save_motion_lora
from animatediff_flipbook.motion_core.files.tensor_file import TensorFile
from animatediff_flipbook.motion_core.weights.blend import blend
from animatediff_flipbook.nodes.motion.apply import KEY, ApplyMotionModule
from animatediff_flipbook.nodes.motion.load import LoadMotionLora, LoadMotionModule
from animatediff_flipbook.nodes.tools.blend import BlendMotionModules
from animatediff_flipbook.nodes.tools.derived import weights_of_module
from animatediff_flipbook.nodes.tools.inspect import InspectMotionModule
from animatediff_flipbook.nodes.tools.merge_lora import ExtractMotionLora, MergeMotionLora
from animatediff_flipbook.nodes.tools.save import SaveMotionLora, SaveMotionModule
from animatediff_flipbook.tests.support_controls import write_image_module, write_pia
from safetensors.torch import load_file, save_file


def a_lora(module, model_folders, strength=0.8, **more):
    generator, layers = torch.Generator().manual_seed(3), {}
    for name, target in lora_targets(module.patcher.model).items():
        if ".to_" in name:
            out, into = target.shape
            down, up = torch.randn(2, into, generator=generator), torch.randn(out, 2, generator=generator)
            layers[name] = (down, 0.1 * up)
    save_motion_lora(model_folders["animatediff_motion_lora"] / "zoom.safetensors", layers)
    return LoadMotionLora.execute(motion_lora="zoom.safetensors", strength=strength, **more)[0]


def patched(patcher):
    """As ComfyUI computes them when it loads the model."""
    state = {key: value.clone() for key, value in patcher.model.state_dict().items()}
    for key, patches in patcher.patches.items():
        state[key] = comfy.lora.calculate_weight(patches, state[key], key)
    return state


def assert_same(got, wanted, atol=0.0):
    assert got.keys() == wanted.keys()
    for key, value in wanted.items():
        assert torch.allclose(got[key], value, atol=atol, rtol=0), key


def test_blend(motion_module):
    one, other = motion_module(seed=1), motion_module(seed=2)
    mixed = BlendMotionModules.execute(motion_module=one, other_module=other, weight=0.25)[0]
    first, second = (each.patcher.model.state_dict() for each in (one, other))
    wanted = {key: torch.lerp(first[key], second[key], 0.25) for key in first}
    assert_same(mixed.patcher.model.state_dict(), wanted, 1e-6)
    again = mixed.load_again()
    assert again is not mixed.patcher and again.model is not mixed.patcher.model
    assert_same(again.model.state_dict(), mixed.patcher.model.state_dict())


def test_what_is_made_of_several_names_the_licences_of_all(motion_module, model_folders):
    one, other = (
        replace(motion_module(seed=seed), metadata={"licence": licence, "frames": "16", "seed": str(seed)})
        for seed, licence in ((1, "CC0-1.0"), (2, "MIT"))
    )
    mixed = BlendMotionModules.execute(motion_module=one, other_module=other)[0].metadata
    lora, _ = ExtractMotionLora.execute(motion_module=one, tuned_module=other, rank=2)
    assert mixed["licence"] == lora[0].lora.metadata["licence"] == "CC0-1.0, MIT"
    assert mixed["frames"] == "16" and "seed" not in mixed
    again = MergeMotionLora.execute(motion_module=one, motion_lora=lora)[0].metadata
    assert again["licence"] == "CC0-1.0, MIT"


@pytest.mark.parametrize(("dtype", "strength"), [("float32", 0.8), ("float32", -0.5), ("float16", 1.0)])
def test_merged_is_what_patching_makes(tiny_model, motion_module, model_folders, dtype, strength):
    module = motion_module(dtype=getattr(torch, dtype))
    lora = a_lora(module, model_folders, strength=strength)
    merged = MergeMotionLora.execute(motion_module=module, motion_lora=lora)[0]
    applied = ApplyMotionModule.execute(model=tiny_model, motion_module=module, motion_lora=lora)[0]
    wanted = patched(applied.get_additional_models_with_key(KEY)[0])
    assert_same(merged.patcher.model.state_dict(), wanted, 1e-5)
    assert not torch.equal(next(iter(wanted.values())), torch.zeros(1))
    again = motion_module(dtype=getattr(torch, dtype))
    assert_same(module.patcher.model.state_dict(), again.patcher.model.state_dict())


def test_patches_of_a_module_count_also_while_other_patches_are_loaded(motion_module, model_folders):
    """The weights in memory may be another clone's at that moment."""
    import comfy.model_management

    module = motion_module()
    plain = weights_of_module(module)
    target = next(iter(module.patcher.model.state_dict()))
    value = module.patcher.model.state_dict()[target]
    clone = module.patcher.clone()
    clone.add_patches({target: ("diff", (torch.ones_like(value),))}, 0.5)
    comfy.model_management.load_models_gpu([clone])
    try:
        while_loaded = weights_of_module(module)
        own = weights_of_module(type(module)(module.name, module.config, clone, module.load_again))
    finally:
        clone.detach()
    assert_same(while_loaded.tensors, plain.tensors)
    assert torch.allclose(own.tensors[target], plain.tensors[target] + 0.5)


@pytest.mark.parametrize("write", [write_pia, write_image_module])
def test_parts_that_steer_by_a_picture_stay_with_their_module(tiny_model, model_folders, write):
    """Blended, merged, saved and read again: what the file held beside its modules is still there."""
    folder = model_folders["animatediff_models"]
    write(folder / "steered.ckpt", tiny_model.model.diffusion_model)
    module = LoadMotionModule.execute(motion_module="steered.ckpt")[0]
    before = weights_of_module(module).controls
    stored = TensorFile(folder / "steered.ckpt")
    assert before and before.keys() == {key for key in stored.shapes if "motion_modules" not in key}
    assert_same(before, dict(stored.read(before)))
    blended = BlendMotionModules.execute(motion_module=module, other_module=module, weight=0.5)[0]
    merged = MergeMotionLora.execute(motion_module=blended, motion_lora=a_lora(module, model_folders))[0]
    SaveMotionModule.execute(motion_module=merged, name="kept")
    again = LoadMotionModule.execute(motion_module="kept_00001_.safetensors")[0]
    for one in (blended, merged, again):
        assert_same(weights_of_module(one).controls, before, 1e-6)
        assert one.patcher.model.state_dict().keys() == module.patcher.model.state_dict().keys()
    report = InspectMotionModule.execute(motion_module=again).result[0]
    of_file = InspectMotionModule.execute(file="animatediff_models/kept_00001_.safetensors").result[0]
    assert "steered by a picture: " in report and of_file.startswith(report)


def test_of_two_modules_of_which_one_is_steered_by_a_picture_the_firsts_part_counts(
    tiny_model, motion_module, model_folders
):
    write_pia(model_folders["animatediff_models"] / "pia.ckpt", tiny_model.model.diffusion_model)
    pia, other = LoadMotionModule.execute(motion_module="pia.ckpt")[0], motion_module("v3")
    mixed = BlendMotionModules.execute(motion_module=pia, other_module=other, weight=0.5)[0]
    assert_same(weights_of_module(mixed).controls, weights_of_module(pia).controls)
    plain = BlendMotionModules.execute(motion_module=other, other_module=pia, weight=0.5)[0]
    assert weights_of_module(plain).controls == {}
    _, notes = blend(weights_of_module(other), weights_of_module(pia), 0.5)
    assert any("steers by a picture is the first's" in note for note in notes)


def test_strengths_that_change_cannot_be_merged(motion_module, model_folders):
    module = motion_module()
    lora = a_lora(module, model_folders, strength_values=[0.0, 1.0])
    with pytest.raises(ValueError, match="strength_values"):
        MergeMotionLora.execute(motion_module=module, motion_lora=lora)


def test_extracted_from_merged_is_the_lora(motion_module, model_folders):
    module = motion_module()
    merged = MergeMotionLora.execute(motion_module=module, motion_lora=a_lora(module, model_folders))[0]
    lora, error = ExtractMotionLora.execute(motion_module=module, tuned_module=merged, rank=2).result
    assert error < 1e-4
    back = MergeMotionLora.execute(motion_module=module, motion_lora=lora)[0]
    assert_same(back.patcher.model.state_dict(), merged.patcher.model.state_dict(), 1e-4)
    with pytest.raises(ValueError, match="do not differ"):
        ExtractMotionLora.execute(motion_module=module, tuned_module=module, rank=2)
    with pytest.raises(ValueError, match="layers is 'some', expected all or attention"):
        ExtractMotionLora.execute(motion_module=module, tuned_module=merged, layers="some")


@pytest.mark.parametrize("dtype", ["as it is", "float16"])
def test_saved_module_is_read_again(motion_module, model_folders, dtype):
    module = motion_module()
    for _ in range(2):
        SaveMotionModule.execute(
            motion_module=module, name="mine/m", dtype=dtype, licence="CC0", description="two\nlines"
        )
    files = sorted((model_folders["animatediff_models"] / "mine").iterdir())
    assert [path.name for path in files] == ["m_00001_.safetensors", "m_00002_.safetensors"]
    found = TensorFile(files[0])
    assert found.metadata["licence"] == "CC0" and found.metadata["description"] == "two\nlines"
    wanted = motion_state_dict(module.patcher.model)
    kind = torch.float16 if dtype == "float16" else torch.float32
    for key, value in motion_state_dict(load_motion_module(files[0])).items():
        assert key.endswith(".pe") or torch.equal(value, wanted[key].to(kind)), key
    again = LoadMotionModule.execute(motion_module="mine/m_00001_.safetensors")[0]
    assert again.config == module.config and again.metadata["licence"] == "CC0"


def test_diffusers_layout_is_a_folder_that_our_loader_reads_too(motion_module, model_folders):
    module = motion_module("v2")
    for _ in range(2):
        SaveMotionModule.execute(motion_module=module, name="d", layout="diffusers")
    folder = model_folders["animatediff_models"]
    assert {"d_00001_", "d_00002_"} <= {path.name for path in folder.iterdir()}
    again = LoadMotionModule.execute(motion_module="d_00002_/diffusion_pytorch_model.safetensors")[0]
    assert again.config == module.config
    assert_same(again.patcher.model.state_dict(), module.patcher.model.state_dict())
    with pytest.raises(ValueError, match="layout is 'x', expected one of original, diffusers"):
        SaveMotionModule.execute(motion_module=module, layout="x")


def test_what_diffusers_cannot_hold_leaves_nothing(tiny_model, model_folders):
    folder = model_folders["animatediff_models"]
    write_pia(folder / "pia.ckpt", tiny_model.model.diffusion_model)
    module = LoadMotionModule.execute(motion_module="pia.ckpt")[0]
    with pytest.raises(ValueError, match="diffusers' MotionAdapter cannot hold .* steered by a picture"):
        SaveMotionModule.execute(motion_module=module, name="d", layout="diffusers")
    assert [path.name for path in folder.iterdir()] == ["pia.ckpt"]


def test_saved_lora_is_read_again_without_its_strength(motion_module, model_folders, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "out"))
    lora = a_lora(motion_module(), model_folders, strength=0.3)
    SaveMotionLora.execute(motion_lora=lora, name="z", folder="output")
    SaveMotionLora.execute(motion_lora=lora, name="z", folder="models")
    assert (tmp_path / "out" / "z_00001_.safetensors").is_file()
    again = LoadMotionLora.execute(motion_lora="z_00001_.safetensors")[0]
    for name, layer in lora[0].lora.layers.items():
        other = again[0].lora.layers[name]
        assert torch.equal(other.up, layer.up) and torch.equal(other.down, layer.down)
    with pytest.raises(ValueError, match="2 MotionLoRAs"):
        SaveMotionLora.execute(motion_lora=(*lora, *lora), name="z")


LAYER = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.1.to_out.0"
OF_DIFFUSERS = "down_blocks.0.motion_modules.0.transformer_blocks.0.attn2.to_out.0"


@pytest.mark.parametrize("size", [1e-5, 300.0])
@pytest.mark.parametrize(
    ("stem", "down", "up", "words"),
    [
        (f"lora_unet_{LAYER.replace('.', '_')}", "lora_down", "lora_up", {}),
        (f"lora_unet_{OF_DIFFUSERS.replace('.', '_')}", "lora_down", "lora_up", {}),
        (f"unet.{OF_DIFFUSERS}", "lora_A", "lora_B", {"lora_adapter_metadata": '{"unet.lora_alpha": ALPHA}'}),
    ],
)
def test_a_lora_of_any_spelling_is_saved_as_released_at_its_own_scale(
    model_folders, stem, down, up, words, size
):
    """kohya's alpha of 1 at a high rank makes factors so small that fp16 would round them away; an alpha far
    above the rank makes them too large for it."""
    folder, generator = model_folders["animatediff_motion_lora"], torch.Generator().manual_seed(0)
    alpha = 1.0 if size < 1 else 16000.0
    first = (0.05 * torch.randn(16, 32, generator=generator)).half()
    second = (size * torch.randn(32, 16, generator=generator)).half()
    state = {f"{stem}.{down}.weight": first, f"{stem}.{up}.weight": second}
    words = {key: text.replace("ALPHA", str(alpha)) for key, text in words.items()}
    save_file(
        state if words else {**state, f"{stem}.alpha": torch.tensor(alpha)}, folder / "a.safetensors", words
    )
    SaveMotionLora.execute(motion_lora=LoadMotionLora.execute(motion_lora="a.safetensors")[0], name="b")
    saved = load_file(folder / "b_00001_.safetensors")
    released = LAYER.replace(".to_out.0", ".processor.to_out_lora")
    assert saved.keys() == {f"{released}.down.weight", f"{released}.up.weight"}
    wanted = alpha / 16 * second.double() @ first.double()
    product = saved[f"{released}.up.weight"].double() @ saved[f"{released}.down.weight"].double()
    assert float((product - wanted).norm() / wanted.norm()) < 1e-3
    (layer,) = LoadMotionLora.execute(motion_lora="b_00001_.safetensors")[0][0].lora.layers.values()
    assert layer.alpha is None and layer.up.dtype == torch.float16


@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_values_that_the_type_does_not_hold_are_refused_and_nothing_is_left(
    motion_module, model_folders, layout
):
    module, folder = motion_module(), model_folders["animatediff_models"]
    before = sorted(folder.rglob("*"))
    with torch.no_grad():
        next(w for name, w in module.patcher.model.named_parameters() if "proj_in.weight" in name)[0, 0] = 1e5
    with pytest.raises(ValueError, match=r"proj_in\.weight holds values up to 1e\+05, too large for float16"):
        SaveMotionModule.execute(motion_module=module, name="x", dtype="float16", layout=layout)
    assert sorted(folder.rglob("*")) == before


def test_what_a_saved_motion_lora_leaves_out_is_told(motion_module, model_folders, caplog):
    a_lora(motion_module(), model_folders)
    file = model_folders["animatediff_motion_lora"] / "zoom.safetensors"
    save_file({**load_file(file), "some.dora_scale": torch.ones(4)}, file)
    SaveMotionLora.execute(motion_lora=LoadMotionLora.execute(motion_lora=file.name)[0], name="plain")
    assert any("Wrote" in r.message and "some.dora_scale" in r.message for r in caplog.records)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "C:\\x", "..\\x", "", "  ", "a\nb", "a\0b"])
def test_names_that_leave_the_folder_are_refused(motion_module, model_folders, name):
    before = sorted(model_folders.base.rglob("*"))
    module = motion_module()
    with pytest.raises(ValueError, match="is none for a file"):
        SaveMotionModule.execute(motion_module=module, name=name)
    assert len(sorted(model_folders.base.rglob("*"))) == len(before) + 1  # the module that was loaded


@pytest.mark.parametrize("layout", ["original", "diffusers"])
@pytest.mark.parametrize("name", ["taken/x", "x" * 300])
def test_a_name_that_the_disk_refuses_is_one_sentence(motion_module, model_folders, name, layout):
    module, folder = motion_module(), model_folders["animatediff_models"]
    (folder / "taken").write_text("a file")
    with pytest.raises(OSError, match=r"cannot be written to .* Choose another name or folder"):
        SaveMotionModule.execute(motion_module=module, name=name, layout=layout)


def test_a_write_that_fails_leaves_nothing(motion_module, model_folders, monkeypatch):
    module = motion_module()

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr("animatediff_flipbook.motion_core.files.tensor_file.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        SaveMotionModule.execute(motion_module=module, name="broken")
    assert not list(model_folders["animatediff_models"].glob("*broken*"))
