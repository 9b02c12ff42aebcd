"""Blending, merging and extracting: against formulas written out, on modules of every generation's layout."""

import pytest
import torch
from animatediff_flipbook.motion_core.files.checkpoint import motion_state_dict
from animatediff_flipbook.motion_core.files.lora import LoraFile, LoraLayer, read_lora, save_motion_lora
from animatediff_flipbook.motion_core.module.config import MotionModuleConfig
from animatediff_flipbook.motion_core.module.model import MotionModel
from animatediff_flipbook.motion_core.weights.blend import BlockWeight, blend, read_block_weights
from animatediff_flipbook.motion_core.weights.low_rank_change import extract_lora, merge_lora
from animatediff_flipbook.motion_core.weights.module_weights import (
    ModuleWeights,
    linear_layers,
    model_of,
    weights_of,
)
from animatediff_flipbook.tests.support import initialise

SLOTS = [
    ("down_blocks.0.motion_modules.0", 32),
    ("down_blocks.0.motion_modules.1", 32),
    ("mid_block.motion_modules.0", 64),
    ("up_blocks.1.motion_modules.0", 32),
]


def module(seed, generation="v2", dtype=torch.float32, slots=SLOTS, **options):
    config = MotionModuleConfig.for_slots(slots, generation, **options)
    model = initialise(MotionModel(config, dtype=dtype), seed).requires_grad_(False)
    return weights_of(f"module {seed}", model)


def nudged(one, by=0.1, seed=9, only=""):
    """Another module near by."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        key: value + by * torch.randn(value.shape, generator=generator) if only in key else value.clone()
        for key, value in one.tensors.items()
    }
    return ModuleWeights("nudged", one.config, tensors)


def lora_for(one, rank=2, alpha=None, ends="to_q"):
    generator, layers = torch.Generator().manual_seed(0), {}
    for name, (out, into) in linear_layers(one).items():
        if name.endswith(ends):
            up, down = (torch.randn(shape, generator=generator) for shape in ((out, rank), (rank, into)))
            layers[name] = LoraLayer(up, down, alpha)
    return LoraFile("zoom", "motion_lora", layers)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("generation", ["v1", "v2", "sdxl"])
def test_weights_become_a_model_and_come_back(generation, fused):
    one = module(1, generation, slots=SLOTS[:2] + SLOTS[3:])
    model = model_of(one, fused_qkv=fused)
    back = motion_state_dict(model)
    assert model.fused_qkv == fused
    assert back.keys() == one.tensors.keys()
    assert all(torch.equal(back[key], value) for key, value in one.tensors.items())


class TestBlend:
    @pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
    def test_is_the_mean_of_both(self, share):
        one, other = module(1), module(2)
        mixed, notes = blend(one, other, share)
        assert notes == []
        for key, value in mixed.tensors.items():
            wanted = (1 - share) * one.tensors[key].double() + share * other.tensors[key].double()
            assert torch.allclose(value.double(), wanted, atol=1e-6), key

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    @pytest.mark.parametrize("share", [0.0, 1.0])
    def test_ends_are_the_modules_bit_by_bit(self, share, dtype):
        one, other = module(1, dtype=dtype), module(2, dtype=dtype)
        mixed, _ = blend(one, other, share)
        wanted = other if share else one
        assert all(torch.equal(mixed.tensors[key], value) for key, value in wanted.tensors.items())
        assert mixed.dtype == dtype

    def test_types_that_differ_give_the_wider(self):
        assert blend(module(1, dtype=torch.float16), module(2), 0.5)[0].dtype == torch.float32
        mixed, _ = blend(module(1, dtype=torch.float16), module(2, dtype=torch.bfloat16), 1.0)
        assert mixed.dtype == torch.float32

    def test_blocks_have_shares_of_their_own_the_first_line_counts(self):
        one, other = module(1), module(2)
        blocks = read_block_weights("up_blocks.1: 1\ndown_blocks.0.1: 0.0\n# no line\ndown_blocks: 0.75")
        mixed, notes = blend(one, other, 0.5, blocks)
        shares = {"up_blocks.1": 1, "down_blocks.0.motion_modules.1": 0, "down_blocks": 0.75, "mid": 0.5}
        for key, value in mixed.tensors.items():
            share = next(number for start, number in shares.items() if key.startswith(start))
            wanted = torch.lerp(one.tensors[key], other.tensors[key], float(share))
            assert torch.allclose(value, wanted, atol=1e-6), key
        assert notes == []

    def test_block_10_is_not_block_1(self):
        assert not BlockWeight("up_blocks.1", 0.5).names("up_blocks.10.motion_modules.0")

    def test_a_block_that_is_not_there_is_said(self):
        _, notes = blend(module(1), module(2), 0.5, read_block_weights("up_blocks.7: 1"))
        assert "no block up_blocks.7" in notes[0]

    @pytest.mark.parametrize("text", ["up_blocks.1", "up: 0.5", "up_blocks.1: 2", "up_blocks.1: nan", ": 1"])
    def test_lines_that_cannot_be_read_are_named(self, text):
        with pytest.raises(ValueError, match="Line 2 of the blocks"):
            read_block_weights(f"\n{text}")

    @pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
    def test_a_share_outside_is_refused(self, share):
        with pytest.raises(ValueError, match="0 to 1"):
            blend(module(1), module(2), share)

    @pytest.mark.parametrize(
        ("other", "says"),
        [
            (lambda: module(2, "v3"), "mid_block"),
            (lambda: module(2, slots=[(name, 2 * width) for name, width in SLOTS]), "64 x 64|64"),
            (lambda: module(2, num_heads=4), "attention heads"),
        ],
    )
    def test_other_layouts_are_refused_with_the_first_difference(self, other, says):
        for pair in ((module(1), other()), (other(), module(1))):
            with pytest.raises(ValueError, match=says):
                blend(*pair, 0.5)

    def test_of_two_lengths_that_agree_the_shorter_counts(self):
        one, other = module(1, pe_length=24), module(2, pe_length=32)
        for pair in ((one, other), (other, one)):
            mixed, notes = blend(*pair, 0.5)
            assert mixed.config.pe_length == 24 and model_of(mixed).config.pe_length == 24
            assert "24 rows" in notes[0]
            key = next(key for key in mixed.tensors if key.endswith(".pe"))
            assert torch.allclose(mixed.tensors[key], one.tensors[key])

    def test_of_two_lengths_that_do_not_agree_it_is_refused(self):
        one, other = module(1, pe_length=24), nudged(module(2, pe_length=32), only=".pe")
        with pytest.raises(ValueError, match="nudged cannot be blended"):
            blend(one, other, 0.5)

    def test_learnt_positions_are_blended(self):
        one = module(1)
        other = nudged(one, only=".pe")
        mixed, _ = blend(one, other, 0.25)
        key = next(key for key in mixed.tensors if key.endswith(".pe"))
        assert torch.allclose(mixed.tensors[key], torch.lerp(one.tensors[key], other.tensors[key], 0.25))

    def test_conventions_are_the_firsts_and_it_is_said(self):
        slots = [slot for slot in SLOTS if "mid" not in slot[0]]
        one = module(1, "v1", slots=slots)
        other = module(2, "v3", slots=slots, pe_length=24)
        mixed, notes = blend(one, other, 0.5)
        assert mixed.config.unet_groupnorm == "joint"
        assert any("unet_groupnorm: joint of module 1 counts" in note for note in notes)


class TestMerge:
    @pytest.mark.parametrize("alpha", [None, 0.5, 3.0])
    @pytest.mark.parametrize("strength", [1.0, -0.7])
    def test_is_the_formula(self, strength, alpha):
        one = module(1)
        lora = lora_for(one, alpha=alpha)
        merged, line = merge_lora(one, lora, strength)
        assert "8 of 8 layers" in line
        for key, value in one.tensors.items():
            layer = lora.layers.get(key.removesuffix(".weight"))
            factor = strength if alpha is None else strength * alpha / 2
            wanted = value if layer is None else value + factor * layer.up @ layer.down
            assert torch.allclose(merged.tensors[key], wanted, atol=1e-5), key

    def test_the_module_itself_stays(self):
        one = module(1)
        before = {key: value.clone() for key, value in one.tensors.items()}
        merge_lora(one, lora_for(one), 1.0)
        assert all(torch.equal(one.tensors[key], value) for key, value in before.items())

    def test_what_does_not_fit_is_refused_or_said(self):
        one, narrow = module(1), module(1, slots=[("down_blocks.0.motion_modules.0", 64)])
        with pytest.raises(ValueError, match="64 x 64 in the LoRA and 32 x 32"):
            merge_lora(one, lora_for(narrow), 1.0)
        with pytest.raises(ValueError, match="changes nothing"):
            merge_lora(one, LoraFile("x", "motion_lora", {"nowhere": LoraLayer(*torch.ones(2, 2, 2))}), 1.0)
        _, line = merge_lora(module(1, "v3"), lora_for(one), 1.0)
        assert "6 of 8 layers" in line and "mid_block" in line


class TestExtract:
    def test_a_lora_of_the_rank_is_found_again(self):
        one = module(1)
        tuned, _ = merge_lora(one, lora_for(one, rank=3), 1.0)
        found = extract_lora(one, tuned, 3)
        assert found.error < 1e-5 and not found.left
        assert found.layers.keys() == lora_for(one).layers.keys()
        back, _ = merge_lora(one, LoraFile("x", "motion_lora", found.layers), 1.0)
        assert all(torch.allclose(back.tensors[k], v, atol=1e-4) for k, v in tuned.tensors.items())

    @pytest.mark.parametrize("rank", [1, 4, 16, 500])
    def test_the_error_is_the_tail_of_singular_values_and_what_merging_leaves(self, rank):
        one = module(1)
        tuned = nudged(one)
        found = extract_lora(one, tuned, rank)
        tail = whole = rest = 0.0
        merged, _ = merge_lora(one, LoraFile("x", "motion_lora", found.layers), 1.0)
        for name in linear_layers(one):
            key = f"{name}.weight"
            change = (tuned.tensors[key] - one.tensors[key]).double()
            values = torch.linalg.svdvals(change).square()
            tail, whole = tail + float(values[rank:].sum()), whole + float(values.sum())
            rest += float((tuned.tensors[key] - merged.tensors[key]).double().square().sum())
            assert found.error_by_layer[name] == pytest.approx(
                float(values[rank:].sum() / values.sum()) ** 0.5, abs=1e-5
            )
        assert found.error == pytest.approx((tail / whole) ** 0.5, abs=1e-5)
        assert found.error == pytest.approx((rest / whole) ** 0.5, abs=1e-5)

    def test_a_device_without_fp64_will_do(self, monkeypatch):
        """Apple's, that is; the error is summed on the CPU."""

        class WithoutDoubles(torch.Tensor):
            @classmethod
            def __torch_function__(cls, function, types, args=(), kwargs=None):
                if function is torch.Tensor.double:
                    raise TypeError("no fp64")
                found = super().__torch_function__(function, types, args, kwargs)
                return found.as_subclass(torch.Tensor) if function is torch.Tensor.cpu else found

        one, other = module(1), nudged(module(1))
        wanted, svd = extract_lora(one, other, 3), torch.linalg.svd
        monkeypatch.setattr(
            torch.linalg, "svd", lambda *a, **k: [x.as_subclass(WithoutDoubles) for x in svd(*a, **k)]
        )
        found = extract_lora(one, other, 3)
        assert found.error == wanted.error and found.error_by_layer == wanted.error_by_layer
        assert all(type(layer.up) is torch.Tensor for layer in found.layers.values())

    def test_no_other_lora_of_the_rank_is_nearer(self):
        """Eckart and Young: a random search does not beat it."""
        one = module(1, slots=SLOTS[:1])
        tuned = nudged(one)
        found = extract_lora(one, tuned, 4)
        name = next(iter(found.layers))
        change = tuned.tensors[f"{name}.weight"] - one.tensors[f"{name}.weight"]
        best = found.layers[name]
        error = float((change - best.up @ best.down).norm())
        for seed in range(20):
            generator = torch.Generator().manual_seed(seed)
            up = best.up + 0.05 * torch.randn(best.up.shape, generator=generator)
            assert float((change - up @ torch.linalg.lstsq(up, change).solution).norm()) >= error

    def test_layers_that_no_lora_holds_are_reported(self):
        one = module(1)
        found = extract_lora(one, nudged(one), 4, attention_only=True)
        assert all(".to_" in name for name in found.layers)
        kinds = {key.split("transformer_blocks.0.")[-1] for key in found.left}
        assert {"ff.net.0.proj.weight", "ff_norm.bias", "attention_blocks.0.pos_encoder.pe"} <= kinds
        total = sum((nudged(one).tensors[k] - v).double().square().sum() for k, v in one.tensors.items())
        assert found.whole == pytest.approx(float(total) ** 0.5, rel=1e-5)
        assert 0 < found.share_left < 1

    def test_of_equal_modules_nothing_is_left(self):
        one = module(1)
        found = extract_lora(one, one, 4)
        assert (found.layers, found.error, found.left, found.share_left) == ({}, 0.0, {}, 0.0)

    def test_other_layouts_and_ranks_are_refused(self):
        with pytest.raises(ValueError, match="mid_block"):
            extract_lora(module(1), module(2, "v3"), 4)
        with pytest.raises(ValueError, match="at least 1"):
            extract_lora(module(1), module(2), 0)

    def test_every_linear_layer_can_be_written_and_read(self, tmp_path):
        one = module(1)
        found = extract_lora(one, nudged(one), 4)
        path = tmp_path / "lora.safetensors"
        save_motion_lora(path, {name: (layer.down, layer.up) for name, layer in found.layers.items()})
        back = read_lora(path)
        assert not back.ignored and back.kind == "motion_lora"
        first, _ = merge_lora(one, back, 1.0)
        second, _ = merge_lora(one, LoraFile("x", "motion_lora", found.layers), 1.0)
        assert all(torch.equal(first.tensors[key], value) for key, value in second.tensors.items())
