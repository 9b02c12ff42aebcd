"""Motion module files: every layout of the field gives the same model, and what is written reads back."""

import json
from collections import Counter
from dataclasses import replace

import pytest
import torch
from animatediff_flipbook.motion_core.control.image_encoder import ImageEncoder
from animatediff_flipbook.motion_core.files.checkpoint import (
    load_motion_module,
    motion_state_dict,
    open_motion_module,
    save_motion_module,
)
from animatediff_flipbook.motion_core.files.control_parts import load_control_parts
from animatediff_flipbook.motion_core.module.config import ModuleShape, MotionModuleConfig
from animatediff_flipbook.motion_core.module.layers import MotionCall, sinusoidal_positions
from animatediff_flipbook.motion_core.module.model import MotionModel
from animatediff_flipbook.motion_core.schedule.beta_schedules import LINEAR, SQRT_LINEAR, BetaSchedule
from animatediff_flipbook.tests.support import initialise
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

SLOTS = [
    ("down_blocks.0.motion_modules.0", 32),
    ("down_blocks.1.motion_modules.0", 64),
    ("mid_block.motion_modules.0", 64),
    ("up_blocks.0.motion_modules.0", 64),
    ("up_blocks.0.motion_modules.1", 64),
    ("up_blocks.1.motion_modules.0", 32),
]


def make(generation="v3", **options):
    config = MotionModuleConfig.for_slots(SLOTS, generation, **options)
    return initialise(MotionModel(config, fused_qkv=False)).requires_grad_(False).eval()


def original(model):
    """The released layout, written down here from the published table of keys, not by the code under test."""
    state = {key: value.clone() for key, value in model.state_dict().items()}
    for name, shape in model.config.modules:
        for block in range(shape.num_blocks):
            for i in range(shape.num_attentions):
                path = f"{name}.temporal_transformer.transformer_blocks.{block}.attention_blocks.{i}"
                state[f"{path}.pos_encoder.pe"] = sinusoidal_positions(shape.pe_length, shape.inner)
    return state


def without_positions(state):
    return {key: value for key, value in state.items() if "pos_encoder" not in key}


def as_diffusers(state):
    names = {
        ".temporal_transformer.": ".",
        ".attention_blocks.0.": ".attn1.",
        ".attention_blocks.1.": ".attn2.",
        ".norms.0.": ".norm1.",
        ".norms.1.": ".norm2.",
        ".ff_norm.": ".norm3.",
    }
    result = {}
    for key, value in state.items():
        for old, new in names.items():
            key = key.replace(old, new)
        if "pos_encoder" in key:
            key = key.replace("attn1.pos_encoder", "pos_embed").replace("attn2.pos_encoder", "pos_embed")
        result[key] = value
    return result


def as_hotshot(state):
    return {
        key.replace("motion_modules", "temporal_attentions")
        .replace(".temporal_transformer.", ".")
        .replace("pos_encoder.pe", "pos_encoder.positional_encoding"): value
        for key, value in state.items()
        if not key.startswith("mid_block")
    }


def write(path, content, metadata=None):
    if path.suffix == ".safetensors":
        save_file({k: v.contiguous() for k, v in content.items()}, path, metadata=metadata)
    else:
        torch.save(content, path)
    return path


def assert_same_model(got, wanted, exact=True):
    mine, theirs = got.state_dict(), wanted.state_dict()
    assert mine.keys() == theirs.keys()
    for key, value in theirs.items():
        same = torch.equal(mine[key].float(), value.float())
        assert same if exact else torch.allclose(mine[key].float(), value.float(), atol=1e-3), key
    for (name, a), (_, b) in zip(got.named_buffers(), wanted.named_buffers(), strict=True):
        assert torch.equal(a, b), name


def load(path, **options):
    return load_motion_module(path, **{"fused_qkv": False, **options})


class TestLayouts:
    @pytest.mark.parametrize("suffix", [".safetensors", ".ckpt", ".pth"])
    @pytest.mark.parametrize("generation", ["v1", "v2", "v3"])
    def test_original(self, tmp_path, suffix, generation):
        model = make(generation)
        path = write(tmp_path / f"mm{suffix}", original(model))
        file = open_motion_module(path)
        assert file.config == model.config
        assert file.num_values == sum(p.numel() for p in model.parameters())
        assert_same_model(load(path), model)

    def test_nested_in_a_ckpt(self, tmp_path):
        model = make()
        content = {"state_dict": original(model), "animatediff_config": {"unet": 3}, "epoch": 2}
        assert_same_model(load(write(tmp_path / "mm.ckpt", content)), model)

    def test_full_training_checkpoint(self, tmp_path):
        """The public trainer's: DDP prefix, the whole UNet, no position tables; trained as v1."""
        model = make("v1")
        state = {f"module.{key}": value for key, value in without_positions(original(model)).items()}
        state |= {
            f"module.{key}": torch.ones(3) for key in ("conv_in.weight", "down_blocks.0.resnets.0.norm1.bias")
        }
        path = write(tmp_path / "checkpoint.ckpt", {"epoch": 1, "global_step": 9, "state_dict": state})
        file = open_motion_module(path)
        assert file.config.generation == "v1"
        notes = " ".join(file.notes)
        assert "2 tensors" in notes
        assert "groupnorm" in notes, "what was guessed must be said"
        assert_same_model(load(path), model)

    def test_diffusers_motion_adapter(self, tmp_path):
        model = make()
        path = write(tmp_path / "diffusion_pytorch_model.safetensors", as_diffusers(original(model)))
        with safe_open(path, "pt") as file:
            assert len(list(file.keys())) == 27 * len(model.config.modules)
        assert open_motion_module(path).config == model.config
        assert_same_model(load(path), model)

    def test_diffusers_config_beside_the_file_tells_the_heads(self, tmp_path):
        model = make(num_heads=4)
        path = write(tmp_path / "diffusion_pytorch_model.safetensors", as_diffusers(original(model)))
        config = {
            "_class_name": "MotionAdapter",
            "motion_num_attention_heads": 4,
            "motion_norm_num_groups": 32,
        }
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert open_motion_module(path).config.num_heads == 4
        (tmp_path / "config.json").write_text(json.dumps({**config, "_class_name": "UNet2DConditionModel"}))
        assert open_motion_module(path).config.num_heads == 8
        for text in ("", "[", "[]", "null", "[" * 5000, " " * (2**20 + 1)):
            (tmp_path / "config.json").write_text(text)
            file = open_motion_module(path)
            assert file.config.num_heads == 8
            assert sum("config.json" in note for note in file.notes) == 1

    @pytest.mark.parametrize(
        "heads", ["true", "null", "[4]", "{}", "Infinity", "NaN", "8.9", '"x"', "0", "9" * 400]
    )
    def test_a_diffusers_config_with_other_heads_than_a_number_is_refused(self, tmp_path, heads):
        path = write(tmp_path / "diffusion_pytorch_model.safetensors", as_diffusers(original(make())))
        (tmp_path / "config.json").write_text(
            f'{{"_class_name": "MotionAdapter", "motion_num_attention_heads": {heads}}}'
        )
        with pytest.raises(
            ValueError, match=r"config.json's heads is .*, expected a whole number from 1"
        ) as stop:
            open_motion_module(path)
        assert len(str(stop.value)) < 400

    def test_hotshotxl(self, tmp_path):
        model = make("hotshotxl")
        path = write(tmp_path / "hsxl_temporal_layers.safetensors", as_hotshot(original(model)))
        file = open_motion_module(path)
        assert file.config == model.config
        assert file.config.beta_schedule == LINEAR
        assert_same_model(load(path), model)

    def test_animatelcm(self, tmp_path):
        model = make("animatelcm")
        state = without_positions(original(model)) | {"img_encoder.conv.weight": torch.ones(2)}
        path = write(tmp_path / "AnimateLCM_sd15_t2v.ckpt", state)
        file = open_motion_module(path)
        assert file.config == model.config
        assert any("AnimateLCM" in note for note in file.notes), "a guess must be said"
        assert_same_model(load(path), model)

    @pytest.mark.parametrize("name", ["pos_encoding", "positional_encoding"])
    def test_other_names_of_the_position_table(self, tmp_path, name):
        model = make()
        state = {
            key.replace("encoder.pe", f"encoder.{name}"): value for key, value in original(model).items()
        }
        assert_same_model(load(write(tmp_path / "mm.safetensors", state)), model)

    @pytest.mark.parametrize(
        ("name", "steps"),
        [
            ("animatediff_lightning_4step_comfyui.safetensors", "4"),
            ("AnimateDiff-Lightning-8step.safetensors", "8"),
            ("mm_sd_v15_v2.safetensors", None),
            ("lightning.safetensors", None),
        ],
    )
    def test_lightning_says_how_it_is_sampled(self, tmp_path, name, steps):
        """Its layout is v2's; only the name tells the number of steps."""
        file = open_motion_module(write(tmp_path / name, original(make("v2"))))
        assert file.config.generation == "v2"
        told = [note for note in file.notes if "Lightning" in note]
        assert bool(told) == bool(steps)
        assert not steps or f"{steps} steps" in told[0]

    def test_pia(self, tmp_path):
        model = make("pia")
        state = original(model) | {"conv_in.weight": torch.ones(32, 9, 3, 3), "conv_in.bias": torch.ones(32)}
        path = write(tmp_path / "pia.ckpt", state)
        file = open_motion_module(path)
        assert file.config == model.config
        assert any("PIA Reference" in note for note in file.notes), "what it wants must be said"
        assert file.control_keys == {"conv_in.weight": "conv_in.weight"}
        assert_same_model(load(path), model)

    def test_a_first_convolution_of_another_kind_is_no_pia(self, tmp_path):
        """A checkpoint of a whole UNet has one with 4 inputs."""
        state = original(make()) | {"conv_in.weight": torch.ones(32, 4, 3, 3)}
        file = open_motion_module(write(tmp_path / "mm.ckpt", state))
        assert file.config.generation == "v3"
        assert not file.control_keys

    @pytest.mark.parametrize("start", ["", "module."])
    def test_animatelcm_i2v(self, tmp_path, start):
        model = make("animatelcm_i2v")
        encoder = initialise(ImageEncoder((32, 64)))
        state = without_positions(original(model))
        state |= {f"img_encoder.{key}": value for key, value in encoder.state_dict().items()}
        path = write(tmp_path / "i2v.ckpt", {f"{start}{key}": value for key, value in state.items()})
        file = open_motion_module(path)
        assert file.config == model.config
        assert any("Image Reference" in note for note in file.notes)
        assert not any("left out" in note for note in file.notes)
        loaded = load(path)
        load_control_parts(loaded, file.source, file.control_keys)
        reference = torch.randn(1, 4, 8, 8)
        for got, wanted in zip(loaded.img_encoder(reference, 3), encoder(reference, 3), strict=True):
            assert torch.equal(got, wanted)

    def test_a_broken_image_encoder_is_named(self, tmp_path):
        model = make("animatelcm_i2v")
        encoder = initialise(ImageEncoder((32, 64))).state_dict()
        del encoder["body.1.block1.bias"]
        state = original(model) | {f"img_encoder.{key}": value for key, value in encoder.items()}
        file = open_motion_module(write(tmp_path / "i2v.safetensors", state))
        with pytest.raises(ValueError, match="i2v.safetensors cannot be used.*body.1.block1.bias"):
            load_control_parts(load(file.source.path), file.source, file.control_keys)

    def test_sdxl_widths_without_metadata(self, tmp_path):
        """On the meta device's sizes, to the letter: which release has these widths."""
        slots = [(f"down_blocks.{b}.motion_modules.0", c) for b, c in enumerate((320, 640, 1280))]
        for positions in (True, False):
            config = MotionModuleConfig.for_slots(slots, "sdxl")
            shapes = MotionModuleConfig(
                tuple((name, replace(shape, ff_inner=8)) for name, shape in config.modules),
                "sdxl",
                module_groupnorm="joint",
                beta_schedule=config.beta_schedule,
            )
            model = MotionModel(shapes, fused_qkv=False, dtype=torch.float16)
            state = original(model) if positions else without_positions(original(model))
            path = write(tmp_path / f"xl{positions}.safetensors", state)
            assert open_motion_module(path).config == shapes

    @pytest.mark.parametrize(
        ("length", "generation"), [(16, "v1"), (24, "v1"), (32, "v3"), (64, "v3"), (17, "v1"), (33, "v3")]
    )
    def test_any_table_length_is_kept(self, tmp_path, length, generation):
        model = make("v3", pe_length=length)
        config = open_motion_module(write(tmp_path / "mm.safetensors", original(model))).config
        assert (config.pe_length, config.generation) == (length, generation)

    def test_any_depth_and_width_that_a_file_declares(self, tmp_path):
        shapes = (
            ("down_blocks.0.motion_modules.0", ModuleShape(32, 48, 2, 3, 20, 9)),
            ("up_blocks.1.motion_modules.4", ModuleShape(64, 16, 1, 1, 64, 9)),
        )
        model = initialise(MotionModel(MotionModuleConfig(shapes, "v3"), fused_qkv=False)).eval()
        path = write(tmp_path / "mm.safetensors", original(model))
        assert open_motion_module(path).config.modules == shapes
        assert_same_model(load(path), model)

    def test_more_than_ten_levels_keep_their_order(self, tmp_path):
        slots = [(f"down_blocks.{level}.motion_modules.0", 32) for level in range(12)]
        model = MotionModel(MotionModuleConfig.for_slots(slots))
        path = write(tmp_path / "mm.safetensors", original(MotionModel(model.config, fused_qkv=False)))
        assert [name for name, _ in open_motion_module(path).config.modules] == [name for name, _ in slots]


class TestTypes:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    @pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
    def test_file_types(self, tmp_path, dtype, suffix):
        model = make()
        path = write(tmp_path / f"mm{suffix}", {k: v.to(dtype) for k, v in original(model).items()})
        loaded = load(path)
        kept = dtype if dtype != torch.float64 else torch.float32
        assert {p.dtype for p in loaded.parameters()} == {kept}
        assert loaded.get_dtype() == kept
        wanted = make()
        with torch.no_grad():
            for p in wanted.parameters():
                p.copy_(p.to(dtype).to(kept))
        assert_same_model(loaded, wanted)
        # A rounded table is not what the weights were trained with: the formula's is.
        for _, buffer in loaded.named_buffers():
            assert buffer.dtype == torch.float32

    def test_type_asked_for_wins(self, tmp_path):
        path = write(tmp_path / "mm.safetensors", original(make()))
        assert load(path, dtype=torch.bfloat16).get_dtype() == torch.bfloat16

    def test_own_position_tables_are_kept(self, tmp_path):
        """A table that is no rounding of the formula was meant: other tools wrote modified ones."""
        model, state = make(), original(make())
        for key in list(state):
            if key.endswith(".pe"):
                state[key] = state[key] * 0.5
        loaded = load(write(tmp_path / "mm.safetensors", state))
        for (name, a), (_, b) in zip(loaded.named_buffers(), model.named_buffers(), strict=True):
            assert torch.equal(a, b * 0.5), name

    def test_every_weight_is_made_once(self, tmp_path):
        """q, k and v that become one weight are not copied a second time to be joined."""

        class Made(TorchDispatchMode):
            """Values that each kind of operator made."""

            values = Counter()

            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                result = func(*args, **(kwargs or {}))
                if isinstance(result, torch.Tensor) and result.device.type == "cpu" and not func.is_view:
                    self.values[func.overloadpacket.__name__] += result.numel()
                return result

        save_motion_module(tmp_path / "m.safetensors", make())
        file = open_motion_module(tmp_path / "m.safetensors")
        with Made() as made:
            load_motion_module(file)
        joined = sum(
            torch.Size(file.source.shapes[key]).numel() for key in file.keys.values() if ".to_" in key
        )
        assert joined > 0
        assert made.values["cat"] < joined / 4

    def test_loaded_model_owns_its_memory(self, tmp_path):
        path = write(tmp_path / "mm.ckpt", original(make()))
        loaded = load(path)
        with torch.no_grad():
            next(loaded.parameters()).add_(1)
        assert_same_model(load(path), make())

    @pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
    def test_fused_and_separate_compute_the_same(self, tmp_path, suffix):
        path = write(tmp_path / f"mm{suffix}", original(make()))
        apart, fused = load(path), load(path, fused_qkv=True)
        x, call = torch.randn(8, 32, 3, 3), MotionCall(frames=8)
        name = "down_blocks.0.motion_modules.0"
        a, b = (m.get_submodule(name)(x, call) for m in (apart, fused))
        assert torch.allclose(a, b, atol=1e-5)

    def test_progress_ends_at_the_number_of_values(self, tmp_path):
        path, seen = write(tmp_path / "mm.safetensors", original(make())), []
        load(path, progress=seen.append)
        assert seen == sorted(seen)
        assert seen[-1] == open_motion_module(path).num_values


class TestMetadata:
    def test_ours_beats_every_guess(self, tmp_path):
        model = make("v1", pe_length=32, num_heads=4, unet_groupnorm="per_frame", beta_schedule=LINEAR)
        save_motion_module(tmp_path / "mm.safetensors", model)
        assert open_motion_module(tmp_path / "mm.safetensors").config == model.config

    @pytest.mark.parametrize("mode", ["joint", "per_frame"])
    def test_the_user_beats_the_file(self, tmp_path, mode):
        save_motion_module(tmp_path / "mm.safetensors", make("v1"))
        file = open_motion_module(tmp_path / "mm.safetensors", unet_groupnorm=mode)
        assert file.config.unet_groupnorm == mode
        assert load_motion_module(file).config.unet_groupnorm == mode

    @pytest.mark.parametrize(
        "metadata",
        [
            {"num_heads": "zero"},
            {"num_heads": "0"},
            {"num_heads": "-8"},
            {"num_heads": "7"},
            {"norm_groups": ""},
            {"unet_groupnorm": "sometimes"},
            {"module_groupnorm": "JOINT"},
            {"beta_schedule": "cosine"},
            {"beta_schedule": "linear", "beta_start": "a", "beta_end": "b"},
            {"beta_schedule": "linear", "beta_start": "nan"},
        ],
    )
    def test_metadata_that_lies_is_refused_with_the_file_named(self, tmp_path, metadata):
        path = write(tmp_path / "liar.safetensors", original(make()), metadata)
        with pytest.raises(ValueError, match=r"liar\.safetensors"):
            open_motion_module(path)

    @pytest.mark.parametrize("length", ["-1", "0", "many", "1000000000000"])
    def test_position_lengths_that_lie(self, tmp_path, length):
        path = write(
            tmp_path / "liar.safetensors", without_positions(original(make())), {"pe_length": length}
        )
        with pytest.raises(ValueError, match=r"liar\.safetensors"):
            load(path)

    def test_unknown_version_falls_back_to_what_the_tensors_say(self, tmp_path):
        path = write(tmp_path / "mm.safetensors", original(make()), {"version": "v9", "format": "pt"})
        assert open_motion_module(path).config.generation == "v3"


class TestRefusals:
    def test_every_missing_tensor_is_named(self, tmp_path):
        state = original(make())
        keys = [key for key in state if key.startswith("up_blocks.1") and not key.endswith(".pe")]
        assert len(keys) == 26
        for key in keys:
            path = write(tmp_path / "cut.safetensors", {k: v for k, v in state.items() if k != key})
            with pytest.raises(ValueError, match=r"cut\.safetensors"):
                load(path)

    def test_every_wrong_shape_is_named(self, tmp_path):
        state = original(make())
        for key in [key for key in state if key.startswith("up_blocks.1")]:
            for wrong in (torch.zeros(2, 3), torch.zeros(0), torch.tensor(1.0)):
                path = write(tmp_path / "odd.safetensors", {**state, key: wrong})
                with pytest.raises(ValueError, match=r"odd\.safetensors"):
                    load(path)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    def test_weights_that_are_not_finite(self, tmp_path, value, dtype):
        state = {key: tensor.to(dtype) for key, tensor in original(make()).items()}
        key = "up_blocks.1.motion_modules.0.temporal_transformer.proj_out.bias"
        state[key][3] = value
        with pytest.raises(ValueError, match=rf"nan\.safetensors: {key} .*not finite"):
            load(write(tmp_path / "nan.safetensors", state))

    def test_position_tables_that_are_not_finite(self, tmp_path):
        state = original(make())
        key = next(key for key in state if key.endswith(".pe"))
        state[key][0, 3, 3] = float("nan")
        with pytest.raises(ValueError, match="not finite"):
            load(write(tmp_path / "nan.safetensors", state))

    def test_weights_too_large_for_the_type_asked_for(self, tmp_path):
        """fp32 values beyond fp16's range must not become infinite in silence."""
        state = original(make())
        state["up_blocks.1.motion_modules.0.temporal_transformer.proj_out.bias"][3] = 1e6
        with pytest.raises(ValueError, match="not finite|range|large"):
            load(write(tmp_path / "big.safetensors", state), dtype=torch.float16)

    @pytest.mark.parametrize(
        ("keys", "words"),
        [
            (["model.diffusion_model.input_blocks.0.0.weight", "cond_stage_model.x"], "Load Checkpoint"),
            (["first_stage_model.decoder.conv_in.weight"], "Load VAE"),
            (["control_model.zero_convs.0.0.weight"], "Load ControlNet"),
            (["controlnet_cond_embedding.conv_in.weight", "controlnet_mid_block.weight"], "ControlNet"),
            (["emb_params"], "prompt"),
            (["text_model.encoder.layers.0.mlp.fc1.weight"], "Load CLIP"),
            (
                ["down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight"],
                "LoRA",
            ),
            (
                [
                    "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0"
                    ".processor.to_q_lora.down.weight"
                ],
                "Load MotionLoRA",
            ),
            (["something.weight"], "none of the kinds"),
        ],
    )
    @pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
    def test_other_files_are_told_where_they_belong(self, tmp_path, keys, words, suffix):
        path = write(tmp_path / f"picked{suffix}", {key: torch.zeros(2, 2) for key in keys})
        with pytest.raises(ValueError, match=rf"picked{suffix} is not a motion module.*{words}"):
            open_motion_module(path)

    def test_a_textual_inversion_of_the_old_form(self, tmp_path):
        content = {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": {"*": torch.zeros(1, 768)}}
        path = write(tmp_path / "style.pt", {**content, "name": "style", "step": 5})
        with pytest.raises(ValueError, match=r"style\.pt is not a motion module.*prompt"):
            open_motion_module(path)

    def test_sparsectrl_is_not_taken_for_a_motion_module(self, tmp_path):
        state = original(make()) | {"controlnet_cond_embedding.weight": torch.zeros(2)}
        with pytest.raises(ValueError, match="SparseCtrl"):
            open_motion_module(write(tmp_path / "v3_sd15_sparsectrl_rgb.ckpt", {"controlnet": state}))

    def test_motion_marks_in_no_known_layout(self, tmp_path):
        path = write(tmp_path / "odd.safetensors", {"blocks.0.motion_modules.weight": torch.zeros(2)})
        with pytest.raises(ValueError, match=r"odd\.safetensors"):
            open_motion_module(path)

    def test_unknown_tensors_inside_a_module_are_reported(self, tmp_path):
        state = original(make()) | {
            "down_blocks.0.motion_modules.0.temporal_transformer.extra": torch.zeros(2)
        }
        path = write(tmp_path / "mm.safetensors", state)
        assert any("extra" in note for note in open_motion_module(path).notes)

    def test_integers_are_no_weights(self, tmp_path):
        state = original(make())
        key = "up_blocks.1.motion_modules.0.temporal_transformer.proj_out.bias"
        for wrong in (torch.zeros(32, dtype=torch.int64), torch.zeros(32, dtype=torch.complex64)):
            path = write(tmp_path / "odd.ckpt", {**state, key: wrong})
            with pytest.raises(ValueError, match=r"odd\.ckpt"):
                load(path)


class TestWriting:
    @pytest.mark.parametrize("generation", ["v1", "v2", "v3", "hotshotxl", "animatelcm"])
    @pytest.mark.parametrize("fused", [True, False])
    def test_round_trip_is_bit_exact(self, tmp_path, generation, fused):
        model = make(generation)
        write(tmp_path / "start.safetensors", original(model), {"version": generation})
        loaded = load(tmp_path / "start.safetensors", fused_qkv=fused)
        save_motion_module(tmp_path / "mm.safetensors", loaded, {"steps": "7", "dataset": "clips"})
        back = open_motion_module(tmp_path / "mm.safetensors")
        assert back.config == model.config
        assert not back.notes
        assert back.source.metadata["steps"] == "7"
        assert_same_model(load(back), model)
        # Written again, the same content: nothing drifts from file to file.
        save_motion_module(tmp_path / "again.safetensors", load(back), {"steps": "7", "dataset": "clips"})
        first, second = (load_file(tmp_path / f"{name}.safetensors") for name in ("mm", "again"))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
        assert open_motion_module(tmp_path / "again.safetensors").source.metadata == back.source.metadata

    def test_layout_is_the_originals(self, tmp_path):
        """What AnimateDiff-Evolved, diffusers and the original repository look for."""
        model = make("v2")
        for fused in (True, False):
            other = MotionModel(model.config, fused_qkv=fused)
            save_motion_module(tmp_path / "mm.safetensors", other)
            state = load_file(tmp_path / "mm.safetensors")
            assert set(state) == set(original(model))
            assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in original(model).items()}
            assert len(state) == 28 * len(model.config.modules)

    def test_ckpt_for_the_original_repository(self, tmp_path):
        model = make()
        save_motion_module(tmp_path / "mm.ckpt", model)
        state = torch.load(tmp_path / "mm.ckpt", weights_only=True)
        assert set(state) == set(original(model))
        assert_same_model(load(tmp_path / "mm.ckpt"), model)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_type_of_the_file(self, tmp_path, dtype):
        save_motion_module(tmp_path / "mm.safetensors", make(), dtype=dtype)
        state = load_file(tmp_path / "mm.safetensors")
        assert {v.dtype for k, v in state.items() if not k.endswith(".pe")} == {dtype}
        assert {v.dtype for k, v in state.items() if k.endswith(".pe")} == {torch.float32}

    def test_metadata_says_what_tensors_do_not(self, tmp_path):
        schedule = BetaSchedule("sqrt_linear", 0.0009, 0.014)
        save_motion_module(tmp_path / "mm.safetensors", make("v1", beta_schedule=schedule), {"seed": "3"})
        with safe_open(tmp_path / "mm.safetensors", "pt") as file:
            metadata = file.metadata()
        assert metadata["format"] == "motion_module"
        assert metadata["unet_groupnorm"] == "joint"
        assert metadata["beta_end"] == "0.014"
        assert metadata["seed"] == "3"
        assert open_motion_module(tmp_path / "mm.safetensors").config.beta_schedule == schedule

    def test_other_tools_conventions_survive_without_metadata(self, tmp_path):
        """Per-frame modules are saved with 32 rows and joint ones with 24: the only flag others read."""
        for generation, rows in (("v1", 24), ("v3", 32)):
            save_motion_module(tmp_path / "mm.safetensors", make(generation))
            state = load_file(tmp_path / "mm.safetensors")
            assert {v.shape[1] for k, v in state.items() if k.endswith(".pe")} == {rows}
            path = write(tmp_path / "stripped.safetensors", state)
            config = open_motion_module(path).config
            assert (config.generation, config.beta_schedule) == (generation, SQRT_LINEAR)

    def test_state_dict_has_all_of_it(self):
        model = make()
        state = motion_state_dict(model)
        wanted = original(model)
        assert set(state) == set(wanted)
        assert all(torch.equal(state[key], wanted[key]) for key in wanted)


# -- several copies, scaled weights --


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize(
    ("one", "other"), [("", "module."), ("model.", "model_ema."), ("unet.", "ema_unet."), ("", "ema.")]
)
def test_of_two_copies_one_is_taken_whole_and_said(tmp_path, one, other, suffix):
    model = make()
    state = original(model)
    both = {f"{one}{key}": value for key, value in state.items()}
    both = {**{f"{other}{key}": value + 1 for key, value in state.items()}, **both}
    file = open_motion_module(write(tmp_path / f"mm{suffix}", both))
    assert_same_model(load_motion_module(file, fused_qkv=False), model)
    (note,) = [note for note in file.notes if "2 times" in note]
    assert repr(one or "none") in note and repr(other) in note


def test_the_fuller_copy_is_taken(tmp_path):
    model = make()
    state = original(model)
    part = dict(list(state.items())[: len(state) // 2])
    both = {**{f"ema.{key}": value for key, value in state.items()}, **{k: v + 1 for k, v in part.items()}}
    assert_same_model(load(write(tmp_path / "mm.safetensors", both)), model)


@pytest.mark.parametrize("name", ["scale_weight", "weight_scale"])
def test_scaled_8_bit_weights_are_multiplied(tmp_path, name):
    model = make()
    state, scaled = original(model), {}
    for key, value in state.items():
        if value.ndim == 2 and key.endswith(".weight"):
            scale = value.abs().max() / 400
            stored = (value / scale).to(torch.float8_e4m3fn)
            scaled |= {key: stored, f"{key.removesuffix('weight')}{name}": scale}
            scaled[f"{key.removesuffix('weight')}scale_input"] = torch.tensor(1.0)
            state[key] = stored.float() * scale
        else:
            scaled[key] = value
    file = open_motion_module(write(tmp_path / "mm.safetensors", scaled))
    assert not [note for note in file.notes if "unknown tensors" in note]
    loaded = load_motion_module(file, dtype=torch.float32, fused_qkv=False).state_dict()
    wanted = load(write(tmp_path / "plain.safetensors", state)).state_dict()
    for key, value in wanted.items():
        torch.testing.assert_close(loaded[key], value, atol=1e-6, rtol=1e-6)


def test_packed_weights_are_refused_by_name(tmp_path):
    state = original(make())
    key = next(key for key in state if key.endswith("to_q.weight"))
    path = write(tmp_path / "mm.safetensors", {**state, f"{key}.absmax": torch.ones(4)})
    with pytest.raises(ValueError, match="quantised in a way that is not read here .*absmax"):
        open_motion_module(path)


def test_weights_that_no_module_has_are_refused(tmp_path):
    state = original(make())
    key = next(key for key in state if key.endswith("to_q.weight"))
    state[key][0, 0] = 3e38
    with pytest.raises(ValueError, match=r"values up to 3e\+38, which no weight has"):
        load(write(tmp_path / "mm.safetensors", state))
