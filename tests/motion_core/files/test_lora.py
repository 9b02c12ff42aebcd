"""LoRA files: every spelling of the field means the same factors, and what is written is read elsewhere."""

import json
import re

import comfy.lora
import comfy.sd
import pytest
import torch
from animatediff_flipbook.motion_core.files.lora import (
    LoraLayer,
    lora_targets,
    match_layers,
    read_lora,
    require_mergeable,
    save_domain_adapter,
    save_motion_lora,
)
from animatediff_flipbook.motion_core.module.config import MotionModuleConfig
from animatediff_flipbook.motion_core.module.model import MotionModel
from animatediff_flipbook.tests.support import golden_patcher, initialise
from safetensors.torch import load_file, save_file

SLOTS = [
    ("down_blocks.0.motion_modules.0", 32),
    ("mid_block.motion_modules.0", 64),
    ("up_blocks.1.motion_modules.0", 32),
]
RANK = 3
BLOCK = ".temporal_transformer.transformer_blocks.0.attention_blocks."


def model_of(generation="v2", fused=True):
    config = MotionModuleConfig.for_slots(SLOTS, generation)
    return initialise(MotionModel(config, fused_qkv=fused)).requires_grad_(False)


def factors(mid=True):
    """{target: (down, up)} for q, k, v and out of every attention."""
    generator, result = torch.Generator().manual_seed(0), {}
    for name, width in SLOTS:
        if name.startswith("mid") and not mid:
            continue
        for attention in (0, 1):
            for part in ("to_q", "to_k", "to_v", "to_out.0"):
                down = torch.randn(RANK, width, generator=generator)
                up = torch.randn(width, RANK, generator=generator)
                result[f"{name}{BLOCK}{attention}.{part}"] = (down, up)
    return result


def diffusers_name(target):
    target = target.replace(".temporal_transformer.", ".")
    return target.replace("attention_blocks.0", "attn1").replace("attention_blocks.1", "attn2")


def processor(target):
    parent, part = target.removesuffix(".0").rsplit(".", 1)
    return f"{parent}.processor.{part}_lora"


def spelled(layers, key, down=".down.weight", up=".up.weight", alpha=None):
    state = {}
    for target, (d, u) in layers.items():
        name = key(target)
        state[f"{name}{down}"], state[f"{name}{up}"] = d, u
        if alpha is not None:
            state[f"{name}.alpha"] = torch.tensor(alpha)
    return state


def motiondirector(target):
    if not target.endswith(".0"):
        return processor(target)
    return f"{target.removesuffix('.0')}.processor.0_lora"


def kohya(target):
    return "lora_unet_" + target.replace(".", "_")


PEFT = {"down": ".lora_A.weight", "up": ".lora_B.weight"}
PEFT_NAMED = {"down": ".lora_A.default.weight", "up": ".lora_B.default.weight"}
KOHYA = {"down": ".lora_down.weight", "up": ".lora_up.weight"}
SPELLINGS = {
    "original": (processor, {}),
    "to_out.0": (motiondirector, {}),
    "diffusers converter": (lambda t: "unet." + processor(diffusers_name(t)), {}),
    "peft": (diffusers_name, PEFT),
    "peft with unet.": (lambda t: "unet." + diffusers_name(t), PEFT),
    "peft with base_model.model.": (lambda t: "base_model.model." + diffusers_name(t), PEFT),
    "peft named": (lambda t: "base_model.model." + diffusers_name(t), PEFT_NAMED),
    "peft of ours": (lambda t: "base_model.model." + t, PEFT),
    "peft with both": (lambda t: "base_model.model.unet." + t, PEFT),
    "kohya original": (kohya, KOHYA),
    "kohya diffusers": (lambda t: kohya(diffusers_name(t)), KOHYA),
    "diffusers .lora.": (diffusers_name, {"down": ".lora.down.weight", "up": ".lora.up.weight"}),
    "ddp": (lambda t: "module." + processor(t), {}),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_gives_the_same_factors(tmp_path, spelling, suffix):
    key, ends = SPELLINGS[spelling]
    state, path = spelled(factors(), key, **ends), tmp_path / f"lora{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    lora = read_lora(path)
    assert lora.kind == "motion_lora"
    assert not lora.ignored
    match = match_layers(lora, lora_targets(model_of()))
    assert not match.unmatched
    assert set(match.layers) == set(factors())
    for target, (down, up) in factors().items():
        layer = match.layers[target]
        assert torch.equal(layer.down, down)
        assert torch.equal(layer.up, up)
        assert layer.alpha is None
        assert layer.rank == RANK


def test_feed_forward_layers_of_motiondirector(tmp_path):
    name = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.ff.net"
    state = {
        f"{name}.0.processor.proj_lora.down.weight": torch.ones(2, 32),
        f"{name}.0.processor.proj_lora.up.weight": torch.ones(256, 2),
        f"{name}.processor.2_lora.down.weight": torch.ones(2, 128),
        f"{name}.processor.2_lora.up.weight": torch.ones(32, 2),
    }
    save_file(state, tmp_path / "lora.safetensors")
    match = match_layers(read_lora(tmp_path / "lora.safetensors"), lora_targets(model_of()))
    assert set(match.layers) == {f"{name}.0.proj", f"{name}.2"}


@pytest.mark.parametrize("alpha", [1.0, 6.0, 0.1])
def test_kohyas_alpha(tmp_path, alpha):
    save_file(spelled(factors(), kohya, alpha=alpha, **KOHYA), tmp_path / "lora.safetensors")
    lora = read_lora(tmp_path / "lora.safetensors")
    assert all(layer.alpha == pytest.approx(alpha) for layer in lora.layers.values())
    assert not lora.ignored


def test_pefts_alpha_in_the_metadata(tmp_path):
    of_both = {"unet.lora_alpha": 6, "unet.r": RANK, "text_encoder_2.lora_alpha": 1, "text_encoder_2.r": 1}
    metadata = {"lora_adapter_metadata": json.dumps(of_both)}
    save_file(spelled(factors(), diffusers_name, **PEFT), tmp_path / "lora.safetensors", metadata)
    assert {layer.alpha for layer in read_lora(tmp_path / "lora.safetensors").layers.values()} == {6.0}


def test_the_configuration_that_peft_writes_beside_its_weights(tmp_path):
    config = {
        "lora_alpha": 6,
        "r": RANK,
        "use_rslora": True,
        "alpha_pattern": {"to_q": 2, "^not.there$": 5},
    }
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file(spelled(factors(), diffusers_name, **PEFT), tmp_path / "adapter_model.safetensors")
    layers = read_lora(tmp_path / "adapter_model.safetensors").layers
    for name, layer in layers.items():
        alpha = 2.0 if name.endswith("to_q") else 6.0
        # peft's factor is alpha / sqrt(rank)
        assert layer.alpha / layer.rank == pytest.approx(alpha / RANK**0.5)
    assert len({layer.alpha for layer in layers.values()}) == 2
    save_file(spelled(factors(), diffusers_name, **PEFT), tmp_path / "another.safetensors")
    layers = read_lora(tmp_path / "another.safetensors").layers
    assert {layer.alpha for layer in layers.values()} == {None}, "of a neighbour, it says nothing"


@pytest.mark.parametrize("rank_stabilised", [False, True])
def test_a_folder_saved_by_peft_itself_has_pefts_strength(tmp_path, rank_stabilised):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["to_q", "to_v"],
        alpha_pattern={"to_v": 2},
        use_rslora=rank_stabilised,
        init_lora_weights=False,
    )
    trained = peft.get_peft_model(model_of(fused=False), config)
    trained.save_pretrained(str(tmp_path))
    layers = read_lora(tmp_path / "adapter_model.safetensors").layers
    wrapped = {
        name.removeprefix("base_model.model."): layer
        for name, layer in trained.named_modules()
        if hasattr(layer, "get_delta_weight")
    }
    assert layers.keys() == wrapped.keys()
    for name, layer in layers.items():
        made = layer.alpha / layer.rank * layer.up @ layer.down
        torch.testing.assert_close(made, wrapped[name].get_delta_weight("default"))


@pytest.mark.parametrize("place", ["metadata", "beside"])
@pytest.mark.parametrize(
    "text",
    [
        *("[]", "3", "null", "{", "[" * 5000, '{"lora_alpha": "high"}', '{"lora_alpha": true}'),
        *('{"lora_alpha": Infinity}', f'{{"lora_alpha": {"9" * 400}}}', '{"alpha_pattern": [1]}'),
        *(f'{{"alpha_pattern": {{"to_q": {"9" * 400}}}}}', "{" + " " * 2**20 + "}"),
    ],
)
def test_a_configuration_that_cannot_be_understood_is_refused(tmp_path, place, text):
    """Without it the LoRA would have another strength than it was trained with."""
    path = tmp_path / ("lora.safetensors" if place == "metadata" else "adapter_model.safetensors")
    inside = {"lora_adapter_metadata": text} if place == "metadata" else {}
    save_file(spelled(factors(), diffusers_name, **PEFT), path, inside)
    if place == "beside":
        (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(ValueError, match="lora_adapter_metadata|adapter_config.json") as stop:
        read_lora(path)
    assert len(str(stop.value)) < 300 and str(stop.value).isprintable()


def test_a_blank_configuration_says_nothing(tmp_path):
    save_file(
        spelled(factors(), diffusers_name, **PEFT), tmp_path / "l.safetensors", {"lora_adapter_metadata": ""}
    )
    assert {layer.alpha for layer in read_lora(tmp_path / "l.safetensors").layers.values()} == {None}


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_factors_in_8_bit_are_read_without_loss(tmp_path, dtype, suffix):
    state = {key: value.to(dtype) for key, value in spelled(factors(), diffusers_name, **PEFT).items()}
    path = tmp_path / f"lora{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    for layer in read_lora(path).layers.values():
        assert layer.up.dtype == layer.down.dtype == torch.float16
        assert torch.equal(layer.up.to(dtype).float(), layer.up.float())


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.int64, torch.uint8, torch.bool, torch.complex64, torch.uint16]
)
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_what_holds_no_floats_is_refused_by_name(tmp_path, dtype, suffix):
    state = spelled(factors(), diffusers_name, **PEFT)
    key = next(iter(state))
    state[key] = state[key].to(dtype)
    path = tmp_path / f"lora{suffix}"
    try:
        save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    except Exception as error:  # the format may not know the type
        pytest.skip(str(error))
    with pytest.raises(ValueError, match=f"{re.escape(key)} holds no weights"):
        read_lora(path)


def test_a_factor_that_is_there_twice_is_refused(tmp_path):
    state = spelled(factors(), diffusers_name, **PEFT)
    key = next(iter(state))
    save_file({**state, f"module.{key}": state[key] + 1}, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match="factor of .* twice"):
        read_lora(tmp_path / "lora.safetensors")


@pytest.mark.parametrize(
    ("up", "alpha", "strength"), [(3e38, None, 1.0), (1.0, 1e308, 1.0), (1.0, None, 1e308)]
)
def test_a_product_that_weights_cannot_hold_is_refused(up, alpha, strength):
    layer = LoraLayer(torch.full((4, 2), up), torch.ones(2, 4), alpha)
    with pytest.raises(ValueError, match="is larger than its weights can hold"):
        require_mergeable("lora", "to_q", layer, strength, torch.finfo(torch.float32).max)
    require_mergeable("lora", "to_q", LoraLayer(torch.ones(4, 2), torch.ones(2, 4), 8.0), 10.0, 65504.0)


class TestTargets:
    @pytest.mark.parametrize("fused", [True, False])
    def test_every_linear_layer_has_its_place_in_a_weight(self, fused):
        model = model_of(fused=fused)
        targets, weights = lora_targets(model), model.state_dict()
        assert len(targets) == len(SLOTS) * (2 * 4 + 4)
        for target in targets.values():
            first, number = target.rows or (0, weights[target.key].shape[0])
            assert (number, weights[target.key].shape[1]) == target.shape
            assert first + number <= weights[target.key].shape[0]

    def test_fused_rows_are_those_of_q_k_and_v(self):
        fused, apart = model_of(fused=True), model_of(fused=False)
        name = f"{SLOTS[0][0]}{BLOCK}0"
        rows = [lora_targets(fused)[f"{name}.to_{part}"].rows for part in "qkv"]
        assert rows == [(0, 32), (32, 32), (64, 32)]
        assert lora_targets(apart)[f"{name}.to_v"].rows is None

    def test_layers_that_the_model_lacks_are_told(self, tmp_path):
        save_file(spelled(factors(), processor), tmp_path / "v2.safetensors")
        match = match_layers(read_lora(tmp_path / "v2.safetensors"), lora_targets(model_of("v3")))
        assert len(match.unmatched) == 8
        assert all(name.startswith("mid_block.") for name in match.unmatched)
        assert set(match.layers) == set(factors(mid=False))


class TestDamaged:
    def write(self, tmp_path, **changes):
        state = spelled(factors(), processor)
        for key, value in changes.pop("state", {}).items():
            state[key] = value
        save_file(state, tmp_path / "lora.safetensors")
        return tmp_path / "lora.safetensors"

    KEY = processor(next(iter(factors()))) + ".up.weight"

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_values_that_are_not_finite(self, tmp_path, value):
        with pytest.raises(ValueError, match=r"lora\.safetensors.*not finite"):
            read_lora(self.write(tmp_path, state={self.KEY: torch.full((32, RANK), value)}))

    @pytest.mark.parametrize("shape", [(32, RANK + 1), (32,), (), (0, RANK), (32, RANK, 1)])
    def test_factors_that_do_not_fit(self, tmp_path, shape):
        with pytest.raises(ValueError, match=r"lora\.safetensors"):
            read_lora(self.write(tmp_path, state={self.KEY: torch.ones(shape)}))

    def test_an_alpha_that_is_no_number(self, tmp_path):
        state = spelled(factors(), kohya, **KOHYA) | {kohya(next(iter(factors()))) + ".alpha": torch.ones(3)}
        save_file(state, tmp_path / "lora.safetensors")
        with pytest.raises(ValueError, match=r"lora\.safetensors"):
            read_lora(tmp_path / "lora.safetensors")

    def test_half_a_pair_is_told(self, tmp_path):
        state = spelled(factors(), processor)
        del state[self.KEY]
        save_file(state, tmp_path / "lora.safetensors")
        assert len(read_lora(tmp_path / "lora.safetensors").ignored) == 1

    def test_what_is_more_than_a_product_of_two_is_left_out_and_told(self, tmp_path):
        """A convolution in three factors (LoCon), and a bias that peft trains beside the second."""
        conv, plain = "lora_unet_down_blocks_0_resnets_0_conv1", "down_blocks.0.attentions.0.to_q"
        state = {
            f"{conv}.lora_down.weight": torch.ones(2, 4, 1, 1),
            f"{conv}.lora_mid.weight": torch.ones(2, 2, 3, 3),
            f"{conv}.lora_up.weight": torch.ones(4, 2, 1, 1),
            f"{plain}.lora_A.weight": torch.ones(2, 4),
            f"{plain}.lora_B.weight": torch.ones(4, 2),
            f"{plain}.lora_B.bias": torch.ones(4),
        }
        save_file(state, tmp_path / "locon.safetensors")
        lora = read_lora(tmp_path / "locon.safetensors")
        assert list(lora.layers) == [plain]
        assert any("bias" in key for key in lora.ignored) and any(
            "conv1 (mid)" in key for key in lora.ignored
        )

    @pytest.mark.parametrize(
        ("key", "words"),
        [
            ("down_blocks.0.motion_modules.0.temporal_transformer.norm.weight", "Load Motion Module"),
            ("model.diffusion_model.input_blocks.0.0.weight", "Load Diffusion Model"),
            ("first_stage_model.decoder.conv_in.weight", "Load VAE"),
            ("emb_params", "prompt"),
        ],
    )
    def test_other_files_are_told_where_they_belong(self, tmp_path, key, words):
        save_file({key: torch.zeros(2, 2)}, tmp_path / "picked.safetensors")
        with pytest.raises(ValueError, match=rf"picked\.safetensors is not a LoRA.*{words}"):
            read_lora(tmp_path / "picked.safetensors")


class TestWriting:
    def test_motion_lora_is_written_as_released(self, tmp_path):
        save_motion_lora(tmp_path / "lora.safetensors", factors(), {"steps": "5"})
        state = load_file(tmp_path / "lora.safetensors")
        assert set(state) == set(spelled(factors(), processor))
        assert all("temporal" in key for key in state)
        lora = read_lora(tmp_path / "lora.safetensors")
        assert lora.metadata["steps"] == "5"
        assert lora.metadata["format"] == "motion_lora"
        for target, (down, up) in factors().items():
            assert torch.equal(lora.layers[target].down, down)
            assert torch.equal(lora.layers[target].up, up)

    def test_layers_of_the_image_model_without_a_published_name_are_refused(self, tmp_path):
        name = "down_blocks.0.attentions.0.proj_in"
        with pytest.raises(ValueError, match="proj_in"):
            save_domain_adapter(tmp_path / "x.safetensors", {name: (torch.ones(1, 2), torch.ones(2, 1))})
        assert not list(tmp_path.iterdir())

    def test_other_layers_of_a_motion_module_are_written_and_found_again(self, tmp_path):
        name = "down_blocks.0.motion_modules.0.temporal_transformer.proj_in"
        save_motion_lora(tmp_path / "x.safetensors", {name: (torch.ones(1, 2), torch.ones(2, 1))})
        assert list(read_lora(tmp_path / "x.safetensors").layers) == [name]

    def test_comfyuis_own_lora_loader_reads_our_domain_adapter_whole(self, tmp_path, caplog):
        """Stock Load LoRA: every key of the file finds its layer, and the weights become W + s up down."""
        patcher = golden_patcher()
        weights = patcher.model.state_dict()
        attention = {
            "down_blocks.0.attentions.0": "input_blocks.1.1",
            "mid_block.attentions.0": "middle_block.1",
            "up_blocks.1.attentions.0": "output_blocks.2.1",
            "up_blocks.1.attentions.1": "output_blocks.3.1",
        }
        layers, keys = {}, {}
        for ours, theirs in attention.items():
            for attn in ("attn1", "attn2"):
                for part in ("to_q", "to_k", "to_v", "to_out.0"):
                    key = f"diffusion_model.{theirs}.transformer_blocks.0.{attn}.{part}.weight"
                    out, width = weights[key].shape
                    name = f"{ours}.transformer_blocks.0.{attn}.{part}"
                    layers[name] = (torch.randn(2, width), torch.randn(out, 2))
                    keys[name] = key
        save_domain_adapter(tmp_path / "adapter.safetensors", layers)
        state = load_file(tmp_path / "adapter.safetensors")
        assert read_lora(tmp_path / "adapter.safetensors").kind == "domain_adapter"
        loaded = comfy.lora.load_lora(state, comfy.lora.model_lora_keys_unet(patcher.model, {}))
        assert not [r for r in caplog.records if "not loaded" in r.getMessage()]
        assert set(loaded) == set(keys.values())
        patched, _ = comfy.sd.load_lora_for_models(patcher, None, state, 0.7, 0.0)
        for name, key in keys.items():
            down, up = layers[name]
            wanted = weights[key] + 0.7 * up @ down
            value = comfy.lora.calculate_weight(patched.patches[key], weights[key].clone(), key)
            assert torch.allclose(value, wanted, atol=1e-4)
