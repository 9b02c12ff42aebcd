"""The temporal transformer against its published formula, written out here a second time in plain torch."""

import math

import pytest
import torch
import torch.nn.functional as F
from animatediff_flipbook.motion_core.module import layers
from animatediff_flipbook.motion_core.module.config import ModuleShape
from animatediff_flipbook.motion_core.module.layers import MotionCall, TemporalTransformer
from animatediff_flipbook.tests.support import initialise
from hypothesis import given, settings
from hypothesis import strategies as st


def table(length, width):
    """PE[p, 2i] = sin(p / 10000^(2i/C)), PE[p, 2i+1] = cos(the same)."""
    rows = []
    for p in range(length):
        angles = [p * 10000 ** (-2 * i / width) for i in range((width + 1) // 2)]
        rows.append([v for a in angles for v in (math.sin(a), math.cos(a))][:width])
    return torch.tensor(rows)


def reference(module, x, frames, *, heads, groups, joint=False, scale=1.0, effect=1.0, positions=None):
    """r + W_out(blocks(W_in GroupNorm(r))), frame by frame and pixel by pixel in a 5-d tensor."""
    w = {key: value.double() for key, value in module.state_dict().items()}
    r = x.double().unflatten(0, (-1, frames)).transpose(1, 2)  # B C F H W
    b, c, f, height, width = r.shape
    if joint:
        n = F.group_norm(r, groups, w["norm.weight"], w["norm.bias"], eps=1e-6)
    else:
        n = torch.stack(
            [F.group_norm(r[:, :, i], groups, w["norm.weight"], w["norm.bias"], 1e-6) for i in range(f)], 2
        )
    t = n.permute(0, 3, 4, 2, 1).reshape(b * height * width, f, c)
    t = t @ w["proj_in.weight"].T + w["proj_in.bias"]
    inner = t.shape[-1]
    # The table has tests of its own; deep stacks would blow its rounding up here.
    table = layers.sinusoidal_positions(64, inner)[0].double()
    pe = torch.stack([table[p] for p in (positions or range(f))])
    for block, layer in enumerate(module.transformer_blocks):
        k = f"transformer_blocks.{block}."
        for i in range(len(layer.attention_blocks)):
            a = f"{k}attention_blocks.{i}."
            z = F.layer_norm(t, (inner,), w[f"{k}norms.{i}.weight"], w[f"{k}norms.{i}.bias"], 1e-5) + pe
            if f"{a}to_qkv.weight" in w:
                wq, wk, wv = w[f"{a}to_qkv.weight"].chunk(3)
            else:
                wq, wk, wv = (w[f"{a}to_{part}.weight"] for part in "qkv")
            q, key, v = (
                (z @ m.T).unflatten(-1, (heads, inner // heads)).transpose(1, 2) for m in (wq, wk, wv)
            )
            logits = scale * q @ key.transpose(-1, -2) / math.sqrt(inner // heads)
            out = (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)
            t = t + out @ w[f"{a}to_out.0.weight"].T + w[f"{a}to_out.0.bias"]
        u = F.layer_norm(t, (inner,), w[f"{k}ff_norm.weight"], w[f"{k}ff_norm.bias"], 1e-5)
        u = u @ w[f"{k}ff.net.0.proj.weight"].T + w[f"{k}ff.net.0.proj.bias"]
        value, gate = u.chunk(2, dim=-1)
        gelu = gate * 0.5 * (1 + torch.erf(gate / math.sqrt(2)))
        t = t + (value * gelu) @ w[f"{k}ff.net.2.weight"].T + w[f"{k}ff.net.2.bias"]
    y = t @ w["proj_out.weight"].T + w["proj_out.bias"]
    y = y.reshape(b, height, width, f, c).permute(0, 4, 3, 1, 2)
    return (r + effect * y).transpose(1, 2).flatten(0, 1)


def build(shape, *, heads=8, groups=32, joint=False, fused=True, seed=0, fresh=False):
    module = TemporalTransformer(
        shape, num_heads=heads, norm_groups=groups, joint_norm=joint, fused_qkv=fused
    )
    return (module if fresh else initialise(module, seed)).requires_grad_(False).eval()


def plain_shape(channels=32, pe_length=32):
    return ModuleShape(channels, channels, 1, 2, 4 * channels, pe_length)


def feature(batch, channels, height, width, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(batch, channels, height, width, generator=generator) + 0.5


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_shape_follows_the_formula(data):
    """Widths, depths, heads and lengths come from files, so every combination must serve."""
    draw = data.draw
    groups, heads = draw(st.sampled_from([1, 4, 8])), draw(st.sampled_from([1, 2, 4]))
    shape = ModuleShape(
        channels=groups * draw(st.integers(1, 4)),
        inner=heads * draw(st.integers(1, 6)),
        num_blocks=draw(st.integers(1, 3)),
        num_attentions=draw(st.integers(1, 3)),
        ff_inner=draw(st.integers(1, 40)),
        pe_length=draw(st.integers(5, 41)),
    )
    joint, fused = draw(st.booleans()), draw(st.booleans())
    frames, videos = draw(st.integers(1, 5)), draw(st.integers(1, 2))
    call = MotionCall(
        frames=frames,
        scale=draw(st.sampled_from([0.0, 0.5, 1.0, 1.7])),
        effect=draw(st.sampled_from([0.25, 1.0])),
        positions=draw(
            st.none()
            | st.lists(st.integers(0, shape.pe_length - 1), min_size=frames, max_size=frames).map(tuple)
        ),
    )
    # In fp64: deep stacks of random layers are ill-conditioned, and it is the formula that is tested.
    module = build(
        shape, heads=heads, groups=groups, joint=joint, fused=fused, seed=draw(st.integers(0, 99))
    ).double()
    # At least two pixels: torch refuses a norm over a single value.
    x = feature(videos * frames, shape.channels, draw(st.integers(1, 3)), draw(st.integers(2, 4))).double()
    before = x.clone()
    wanted = reference(
        module,
        x,
        frames,
        heads=heads,
        groups=groups,
        joint=joint,
        scale=call.scale,
        effect=call.effect,
        positions=call.positions,
    )
    got = module(x, call)
    assert got.shape == x.shape
    assert torch.equal(x, before), "the UNet's own feature was written to"
    assert torch.allclose(got, wanted, rtol=1e-7, atol=1e-7)


def test_released_sizes_follow_the_formula_closely():
    module, x = build(plain_shape(64)), feature(32, 64, 8, 8)
    wanted = reference(module, x, 16, heads=8, groups=32)
    got = module(x, MotionCall(frames=16)).double()
    assert (got - wanted).norm() / wanted.norm() <= 1e-6


@pytest.mark.parametrize(("videos", "height", "width"), [(1, 3, 5), (2, 4, 4), (3, 1, 1)])
def test_videos_of_a_batch_do_not_see_each_other(videos, height, width):
    module, x = build(plain_shape()), feature(videos * 4, 32, height, width)
    together = module(x, MotionCall(frames=4))
    alone = torch.cat([module(part, MotionCall(frames=4)) for part in x.split(4)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_pixels_do_not_see_each_other():
    """What one pixel holds in another frame reaches that pixel only (the norm is undone by a flat change)."""
    module, x = build(plain_shape()), feature(4, 32, 4, 4)
    rows = module.norm(x).permute(0, 2, 3, 1).reshape(4, 16, 32).transpose(0, 1)
    y = module._mix(rows, MotionCall(frames=4))
    rows[5] += 1.0
    changed = (module._mix(rows, MotionCall(frames=4)) - y).abs().amax(dim=(1, 2)) > 1e-4
    assert changed.nonzero().flatten().tolist() == [5]


class TestPositions:
    def test_table_is_the_formula_and_prefixes_agree(self):
        for length, width in ((24, 32), (32, 320), (7, 5)):
            got = layers.sinusoidal_positions(length, width)
            assert got.shape == (1, length, width)
            assert got.dtype == torch.float32
            assert torch.allclose(got[0], table(length, width), atol=2e-6)
        long = layers.sinusoidal_positions(64, 320)
        assert torch.equal(layers.sinusoidal_positions(24, 320), long[:, :24])

    def test_without_positions_frames_are_a_set(self):
        module, x = build(plain_shape()), feature(6, 32, 3, 3)
        for block in module.transformer_blocks:
            for attention in block.attention_blocks:
                attention.pos_encoder.pe = torch.zeros_like(attention.pos_encoder.pe)
        order = torch.tensor([3, 0, 5, 1, 4, 2])
        call = MotionCall(frames=6)
        assert torch.allclose(module(x[order], call), module(x, call)[order], atol=1e-5)

    def test_with_positions_the_order_of_frames_matters(self):
        module, x = build(plain_shape()), feature(6, 32, 3, 3)
        order, call = torch.tensor([3, 0, 5, 1, 4, 2]), MotionCall(frames=6)
        assert not torch.allclose(module(x[order], call), module(x, call)[order], atol=1e-2)

    def test_explicit_positions_move_with_their_frames(self):
        module, x = build(plain_shape()), feature(4, 32, 2, 2)
        order = (2, 0, 3, 1)
        straight = module(x, MotionCall(frames=4, positions=(0, 1, 2, 3)))
        assert torch.equal(straight, module(x, MotionCall(frames=4)))
        shuffled = module(x[list(order)], MotionCall(frames=4, positions=order))
        assert torch.allclose(shuffled, straight[list(order)], atol=1e-5)

    def test_last_row_serves_and_the_next_is_refused(self):
        module = build(plain_shape(pe_length=7))
        assert module(feature(7, 32, 2, 2), MotionCall(frames=7)).isfinite().all()
        said = (
            r"^The motion module got 8 frames in one call, expected at most 7: .*Context Windows of `length` "
            r"7 .*start_percent 0.*fewer frames"
        )
        with pytest.raises(ValueError, match=said):
            module(feature(8, 32, 2, 2), MotionCall(frames=8))
        with pytest.raises(ValueError, match="Context Windows"):
            module(feature(2, 32, 2, 2), MotionCall(frames=2, positions=(0, 7)))

    @pytest.mark.parametrize("positions", [(0, 1), (0, 1, 2, 3, 4), (0, 1, 2, -1)])
    def test_positions_that_do_not_fit_the_frames_are_refused(self, positions):
        module = build(plain_shape(pe_length=7))
        with pytest.raises(ValueError, match="position"):
            module(feature(4, 32, 2, 2), MotionCall(frames=4, positions=positions))

    def test_table_is_no_weight(self):
        module = build(plain_shape())
        assert not [key for key in module.state_dict() if "pos" in key]
        assert not [key for key, _ in module.named_parameters() if "pos" in key]
        assert sum("pos_encoder.pe" in key for key, _ in module.named_buffers()) == 2


class TestIdentity:
    def test_fresh_output_projection_is_zero_so_nothing_changes(self):
        from animatediff_flipbook.motion_core.module.config import MotionModuleConfig
        from animatediff_flipbook.motion_core.module.model import MotionModel

        config = MotionModuleConfig.for_slots([("down_blocks.0.motion_modules.0", 32)])
        model, x = MotionModel(config), feature(8, 32, 3, 3)
        ((_, module),) = model.motion_modules()
        assert torch.equal(module(x, MotionCall(frames=4)), x)
        assert any(value.abs().sum() > 0 for key, value in model.named_parameters() if "to_" in key)

    def test_first_training_step_reaches_the_output_projection_only(self):
        from animatediff_flipbook.motion_core.module.config import MotionModuleConfig
        from animatediff_flipbook.motion_core.module.model import MotionModel

        config = MotionModuleConfig.for_slots([("down_blocks.0.motion_modules.0", 32)])
        model = MotionModel(config, fused_qkv=False)
        ((_, module),) = model.motion_modules()
        x = feature(8, 32, 3, 3).requires_grad_()
        module(x, MotionCall(frames=4)).square().sum().backward()
        moved = {key for key, value in model.named_parameters() if value.grad.abs().sum() > 0}
        assert {key.rsplit(".", 2)[1] for key in moved} == {"proj_out"}
        assert x.grad.isfinite().all()

    def test_effect_zero_is_a_skip(self):
        module, x = build(plain_shape()), feature(4, 32, 2, 2)
        assert module(x, MotionCall(frames=4, effect=0.0)) is x

    def test_trained_module_is_not_the_identity_for_a_single_frame(self):
        module, x = build(plain_shape()), feature(1, 32, 2, 2)
        assert not torch.equal(module(x, MotionCall(frames=1)), x)


def test_gradients_are_those_of_the_formula():
    """Positions are added in place and chunks are cut: neither may cost a gradient."""
    module = build(plain_shape(), fused=False).requires_grad_()
    x = feature(8, 32, 3, 3).double().requires_grad_()
    module = module.double()
    module(x, MotionCall(frames=4)).square().sum().backward()
    got = {key: value.grad.clone() for key, value in module.named_parameters()}
    got_x, x.grad = x.grad, None
    weights = {key: value.detach().clone().requires_grad_() for key, value in module.named_parameters()}

    class Same:
        transformer_blocks = module.transformer_blocks

        def state_dict(self):
            return weights

    reference(Same(), x, 4, heads=8, groups=32).square().sum().backward()
    # The module's table is fp32, the reference's fp64: gradients agree to fp32's rounding.
    assert torch.allclose(got_x, x.grad, rtol=1e-4, atol=1e-4)
    for key, value in weights.items():
        assert torch.allclose(got[key], value.grad, rtol=1e-4, atol=1e-3), key


class TestChunks:
    """Pixels are worked on in parts where there are many: the same numbers, in less memory."""

    def calls(self, module, x, frames):
        seen = []
        handle = module.proj_in.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[0]))
        y = module(x, MotionCall(frames=frames))
        handle.remove()
        return y, seen

    def test_many_pixels_are_cut_and_the_result_is_the_formula(self):
        """Few channels, so that it is the number of sequences and not the cache that asks for the cut."""
        heads = 32
        module, x = build(ModuleShape(32, 32, 1, 1, 1, 4), heads=heads), feature(4, 32, 36, 36)
        y, seen = self.calls(module, x, 2)
        assert len(seen) > 1
        assert sum(seen) == 2 * 36 * 36
        assert max(seen) * heads < 65_536
        rows = slice(0, 3)
        wanted = reference(module, x, 2, heads=heads, groups=32)
        assert torch.allclose(y.double()[..., rows, :], wanted[..., rows, :], atol=1e-4)
        assert torch.allclose(y.double()[..., -3:, :], wanted[..., -3:, :], atol=1e-4)

    def test_wide_modules_are_cut_for_the_cache(self):
        module, x = build(plain_shape(64)), feature(16, 64, 24, 24)
        y, seen = self.calls(module, x, 16)
        assert len(seen) > 1
        assert sum(seen) == 576
        pixels = module.norm(x).permute(2, 3, 0, 1).reshape(576, 16, 64)
        whole = module._mix(pixels, MotionCall(frames=16)).reshape(24, 24, 16, 64).permute(2, 3, 0, 1)
        assert torch.allclose(y, x + whole, atol=1e-5)

    def test_more_frames_than_a_chunk_still_run(self):
        module = build(ModuleShape(8, 8, 1, 1, 2048, 1100), heads=1, groups=1)
        y, seen = self.calls(module, feature(1100, 8, 1, 2), 1100)
        assert seen == [1, 1]
        assert y.isfinite().all()


class TestCall:
    def test_a_batch_that_is_no_whole_number_of_videos_is_refused(self):
        with pytest.raises(ValueError, match=r"7.*4 frames"):
            build(plain_shape())(feature(7, 32, 2, 2), MotionCall(frames=4))

    def test_given_attention_is_used(self):
        module, x, seen = build(plain_shape()), feature(4, 32, 2, 2), []

        def attention(q, k, v, scale):
            seen.append((tuple(q.shape), scale))
            return layers.torch_attention(q, k, v, scale)

        y = module(x, MotionCall(frames=4, scale=1.5, attention=attention))
        assert seen == [((4, 8, 4, 4), 1.5 / 2)] * 2
        assert torch.equal(y, module(x, MotionCall(frames=4, scale=1.5)))

    def test_layers_hold_no_state_between_calls(self):
        module, x = build(plain_shape()), feature(8, 32, 2, 2)
        before = {key: repr(value) for key, value in vars(module).items() if not key.startswith("_")}
        first = module(x, MotionCall(frames=8))
        module(x, MotionCall(frames=2, scale=3.0, effect=0.5, positions=(4, 1)))
        assert torch.equal(module(x, MotionCall(frames=8)), first)
        assert before == {key: repr(value) for key, value in vars(module).items() if not key.startswith("_")}

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_result_has_the_type_of_the_feature(self, dtype):
        module, x = build(plain_shape()), feature(4, 32, 2, 2)
        y = build(plain_shape()).to(dtype)(x.to(dtype), MotionCall(frames=4))
        assert y.dtype == dtype
        assert torch.allclose(y.float(), module(x, MotionCall(frames=4)), atol=0.2)

    def test_no_multiplication_by_one(self):
        """scale and effect at 1 must cost nothing: no pointwise product but the feed-forward's gate."""
        from torch.utils._python_dispatch import TorchDispatchMode

        counted = []

        class Count(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                counted.append(func.overloadpacket.__name__)
                return func(*args, **(kwargs or {}))

        module, x = build(plain_shape()), feature(4, 32, 2, 2)
        with Count():
            module(x, MotionCall(frames=4))
        assert counted.count("mul") == 1, counted
        assert not [name for name in counted if name in ("mul_", "div", "div_", "lerp")]


def test_joint_group_norm_takes_its_statistics_over_a_whole_video():
    norm = initialise(torch.nn.GroupNorm(8, 32))
    x = feature(6, 32, 3, 4) * torch.arange(1, 7).view(6, 1, 1, 1)
    got = layers.joint_group_norm(norm, x, 3)
    for video in range(2):
        part = x[3 * video : 3 * video + 3].transpose(0, 1).unsqueeze(0)  # 1 C F H W
        wanted = F.group_norm(part, 8, norm.weight, norm.bias, norm.eps)[0].transpose(0, 1)
        assert torch.allclose(got[3 * video : 3 * video + 3], wanted, atol=1e-5)
    assert not torch.allclose(got, norm(x), atol=1e-2)
