"""MotionLoRA and domain adapter through the nodes: the weights become what the formula says."""

import logging

import comfy.lora
import pytest
import torch
from animatediff_flipbook.motion_core.files.lora import lora_targets, save_domain_adapter, save_motion_lora
from animatediff_flipbook.nodes.motion.apply import KEY, ApplyMotionModule
from animatediff_flipbook.nodes.motion.domain_adapter import ApplyDomainAdapter
from animatediff_flipbook.nodes.motion.load import LoadMotionLora
from safetensors.torch import load_file, save_file


def factors(module, seed=0, rank=2, width=None):
    generator, layers = torch.Generator().manual_seed(seed), {}
    for name, target in lora_targets(module.patcher.model).items():
        if ".to_" in name:
            out, into = (width, width) if width else target.shape
            layers[name] = (
                torch.randn(rank, into, generator=generator),
                torch.randn(out, rank, generator=generator),
            )
    return layers


def weights_of(patcher):
    """Weights with all patches, as ComfyUI computes them."""
    state = patcher.model.state_dict()
    return {
        key: comfy.lora.calculate_weight(patcher.patches[key], value.clone(), key)
        if key in patcher.patches
        else value.clone()
        for key, value in state.items()
    }


def dense(module, *chosen):
    """``W + strength * up @ down``, written out."""
    state = {key: value.clone() for key, value in module.patcher.model.state_dict().items()}
    targets = lora_targets(module.patcher.model)
    for layers, strength in chosen:
        for name, (down, up) in layers.items():
            target = targets[name]
            first, number = target.rows or (0, target.shape[0])
            state[target.key][first : first + number] += strength * up @ down
    return state


def motion_weights(model):
    return weights_of(model.get_additional_models_with_key(KEY)[0])


def load(model_folders, name, layers, strength, previous=None):
    save_motion_lora(model_folders["animatediff_motion_lora"] / name, layers)
    return LoadMotionLora.execute(motion_lora=name, strength=strength, previous=previous)[0]


def apply(model, module, lora):
    return ApplyMotionModule.execute(model=model, motion_module=module, motion_lora=lora)[0]


def assert_close(got, wanted):
    assert got.keys() == wanted.keys()
    for key, value in wanted.items():
        assert torch.allclose(got[key], value, atol=1e-4), key


@pytest.mark.parametrize("strength", [1.0, 0.35, 0.0, -0.8, 3.0])
def test_any_strength(tiny_model, motion_module, model_folders, strength):
    module = motion_module()
    layers = factors(module)
    model = apply(tiny_model, module, load(model_folders, "zoom.safetensors", layers, strength))
    assert_close(motion_weights(model), dense(module, (layers, strength)))


def test_several_at_once_add_up(tiny_model, motion_module, model_folders):
    module = motion_module()
    a, b = factors(module, 1), factors(module, 2)
    first = load(model_folders, "zoom.safetensors", a, 0.8)
    both = load(model_folders, "pan.safetensors", b, -0.3, previous=first)
    assert len(first) == 1, "the list that came in is not changed"
    assert_close(motion_weights(apply(tiny_model, module, both)), dense(module, (a, 0.8), (b, -0.3)))


def test_patches_are_low_rank_in_memory(tiny_model, motion_module, model_folders):
    module = motion_module()
    layers = factors(module)
    model = apply(tiny_model, module, load(model_folders, "zoom.safetensors", layers, 1.0))
    patcher = model.get_additional_models_with_key(KEY)[0]
    held = sum(
        tensor.numel()
        for patches in patcher.patches.values()
        for patch in patches
        for tensor in patch[1].weights
        if isinstance(tensor, torch.Tensor)
    )
    assert held <= 1.01 * sum(d.numel() + u.numel() for d, u in layers.values())


def test_the_module_without_it_stays_as_it_was(tiny_model, motion_module, model_folders):
    module = motion_module()
    before = dense(module)
    apply(tiny_model, module, load(model_folders, "zoom.safetensors", factors(module), 1.0))
    assert not module.patcher.patches
    assert_close(weights_of(module.patcher), before)
    assert_close(motion_weights(apply(tiny_model, module, None)), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("alpha", [3.3, 0.1])
def test_alpha_of_kohya_files(tiny_model, motion_module, model_folders, alpha, dtype):
    module = motion_module()
    layers, state = factors(module), {}
    for name, (down, up) in layers.items():
        key = "lora_unet_" + name.replace(".", "_")
        state |= {
            f"{key}.lora_down.weight": down.to(dtype),
            f"{key}.lora_up.weight": up.to(dtype),
            f"{key}.alpha": torch.tensor(alpha),
        }
    save_file(state, model_folders["animatediff_motion_lora"] / "kohya.safetensors")
    lora = LoadMotionLora.execute(motion_lora="kohya.safetensors", strength=0.5)[0]
    rounded = {name: (d.to(dtype).float(), u.to(dtype).float()) for name, (d, u) in layers.items()}
    model = apply(tiny_model, module, lora)
    assert_close(motion_weights(model), dense(module, (rounded, 0.5 * alpha / 2)))


def test_a_v2_lora_on_a_module_without_mid_block(tiny_model, motion_module, model_folders, caplog):
    v2, v3 = motion_module("v2"), motion_module("v3")
    layers = factors(v2)
    with caplog.at_level(logging.WARNING):
        model = apply(tiny_model, v3, load(model_folders, "v2_lora.safetensors", layers, 1.0))
    assert "8 are for a mid block" in caplog.text
    kept = {name: pair for name, pair in layers.items() if not name.startswith("mid_block")}
    assert_close(motion_weights(model), dense(v3, (kept, 1.0)))


def test_nothing_that_matches(tiny_model, motion_module, model_folders):
    module = motion_module()
    layers = {f"down_blocks.9.{name.split('.', 2)[2]}": pair for name, pair in factors(module).items()}
    with pytest.raises(ValueError, match=r"far\.safetensors changes nothing in v3_7.*down_blocks\.9"):
        apply(tiny_model, module, load(model_folders, "far.safetensors", layers, 1.0))


def test_another_width_is_refused(tiny_model, motion_module, model_folders):
    """An SDXL LoRA on an SD1.5 module: the names agree, the widths do not."""
    module = motion_module()
    lora = load(model_folders, "xl.safetensors", factors(module, width=320), 1.0)
    with pytest.raises(ValueError, match=r"xl\.safetensors does not fit.*320 x 320.*SD1\.5 and SDXL differ"):
        apply(tiny_model, module, lora)


def test_wrong_kinds_are_told_where_they_belong(tiny_model, motion_module, model_folders):
    module = motion_module()
    adapter = {
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": (torch.ones(1, 64), torch.ones(64, 1))
    }
    save_domain_adapter(model_folders["animatediff_motion_lora"] / "adapter.safetensors", adapter)
    with pytest.raises(ValueError, match="not a MotionLoRA.*Apply Domain Adapter"):
        LoadMotionLora.execute(motion_lora="adapter.safetensors")
    save_motion_lora(model_folders["loras"] / "zoom.safetensors", factors(module))
    with pytest.raises(ValueError, match="not a domain adapter.*Load MotionLoRA"):
        ApplyDomainAdapter.execute(model=tiny_model, domain_adapter="zoom.safetensors")
    model_folders.add("loras", model_folders["animatediff_models"] / "v3_7.safetensors")
    with pytest.raises(ValueError, match="Load Motion Module"):
        ApplyDomainAdapter.execute(model=tiny_model, domain_adapter="v3_7.safetensors")
    with pytest.raises(ValueError, match="FlipbookLoadMotionLora"):
        apply(tiny_model, module, [("their.safetensors", 1.0)])


class TestDomainAdapter:
    PLACES = {
        "down_blocks.0.attentions.0": "input_blocks.1.1",
        "mid_block.attentions.0": "middle_block.1",
    }

    def layers(self, model):
        state, generator, layers, keys = model.model.state_dict(), torch.Generator().manual_seed(0), {}, {}
        for ours, theirs in self.PLACES.items():
            for part in ("attn1.to_q", "attn1.to_out.0", "attn2.to_k"):
                name = f"{ours}.transformer_blocks.0.{part}"
                keys[name] = f"diffusion_model.{theirs}.transformer_blocks.0.{part}.weight"
                out, into = state[keys[name]].shape
                layers[name] = (
                    torch.randn(2, into, generator=generator),
                    torch.randn(out, 2, generator=generator),
                )
        return layers, keys

    @pytest.mark.parametrize(
        "spelling", ["original", "peft", "peft unet", "base_model", "kohya", "ldm", "kohya ldm"]
    )
    def test_every_spelling(self, tiny_model, model_folders, spelling):
        layers, keys = self.layers(tiny_model)
        path, state = model_folders["loras"] / "adapter.safetensors", {}
        if spelling == "original":
            save_domain_adapter(path, layers)
        else:
            for name, (down, up) in layers.items():
                ldm = keys[name].removeprefix("diffusion_model.").removesuffix(".weight")
                key, a, b = {
                    "peft": (name, "lora_A", "lora_B"),
                    "peft unet": (f"unet.{name}", "lora_A", "lora_B"),
                    "base_model": (f"base_model.model.{name}", "lora_A.default", "lora_B.default"),
                    "kohya": ("lora_unet_" + name.replace(".", "_"), "lora_down", "lora_up"),
                    "ldm": (f"diffusion_model.{ldm}", "lora_A", "lora_B"),
                    "kohya ldm": ("lora_unet_" + ldm.replace(".", "_"), "lora_down", "lora_up"),
                }[spelling]
                state |= {f"{key}.{a}.weight": down, f"{key}.{b}.weight": up}
            save_file(state, path)
        model = ApplyDomainAdapter.execute(model=tiny_model, domain_adapter="adapter.safetensors", alpha=0.4)[
            0
        ]
        assert set(model.patches) == set(keys.values())
        assert not tiny_model.patches
        before = {k: v.float().clone() for k, v in tiny_model.model.state_dict().items()}
        for name, (down, up) in layers.items():
            weight = before[keys[name]]
            got = comfy.lora.calculate_weight(model.patches[keys[name]], weight.clone(), name)
            assert torch.allclose(got, weight + 0.4 * up @ down, atol=1e-4)

    def test_alpha_zero_leaves_it_out(self, tiny_model, model_folders):
        save_domain_adapter(model_folders["loras"] / "adapter.safetensors", self.layers(tiny_model)[0])
        options = {"domain_adapter": "adapter.safetensors", "alpha": 0.0}
        assert not ApplyDomainAdapter.execute(model=tiny_model, **options)[0].patches

    def test_an_adapter_for_another_base(self, tiny_model, model_folders):
        wide = {name: (torch.ones(1, 320), torch.ones(320, 1)) for name in self.layers(tiny_model)[0]}
        save_domain_adapter(model_folders["loras"] / "xl.safetensors", wide)
        with pytest.raises(ValueError, match=r"xl\.safetensors does not fit this checkpoint.*320"):
            ApplyDomainAdapter.execute(model=tiny_model, domain_adapter="xl.safetensors")

    def test_nothing_that_matches(self, tiny_model, model_folders):
        far = {
            "up_blocks.9.attentions.0.transformer_blocks.0.attn1.to_q": (torch.ones(1, 4), torch.ones(4, 1))
        }
        save_domain_adapter(model_folders["loras"] / "far.safetensors", far)
        with pytest.raises(ValueError, match=r"far\.safetensors changes nothing"):
            ApplyDomainAdapter.execute(model=tiny_model, domain_adapter="far.safetensors")


def test_a_file_with_both_kinds_is_split(tiny_model, motion_module, model_folders):
    """Each node takes its part and leaves the other."""
    module = motion_module()
    motion = factors(module)
    width = (
        tiny_model.model.diffusion_model.input_blocks[1][1].transformer_blocks[0].attn1.to_q.weight.shape[0]
    )
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    image = {name: (torch.randn(2, width), torch.randn(width, 2))}
    save_motion_lora(model_folders["animatediff_motion_lora"] / "both.safetensors", {**motion, **image})
    save_motion_lora(model_folders["loras"] / "both.safetensors", {**motion, **image})

    lora = LoadMotionLora.execute(motion_lora="both.safetensors")[0]
    assert_close(motion_weights(apply(tiny_model, module, lora)), dense(module, (motion, 1.0)))

    adapted = ApplyDomainAdapter.execute(model=tiny_model, domain_adapter="both.safetensors")[0]
    assert list(adapted.patches) == [
        "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    ]


def test_tensors_of_no_known_use_are_named(tiny_model, motion_module, model_folders, caplog):
    module = motion_module()
    path = model_folders["animatediff_motion_lora"] / "odd.safetensors"
    save_motion_lora(path, factors(module))
    save_file({**load_file(path), "riddle": torch.zeros(1)}, path)
    with caplog.at_level(logging.WARNING):
        apply(tiny_model, module, LoadMotionLora.execute(motion_lora="odd.safetensors")[0])
    assert "1 tensors of no known use were left out, such as riddle" in caplog.text
