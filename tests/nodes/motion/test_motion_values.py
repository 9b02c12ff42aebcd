"""Values over frames, places, steps and blocks, through the nodes: what a value does, it does everywhere."""

import logging

import comfy.model_management
import comfy.samplers
import pytest
import torch
from animatediff_flipbook.motion_core.clips.context import ContextOptions, context_windows
from animatediff_flipbook.motion_core.clips.context_fuse import fused_weights
from animatediff_flipbook.motion_core.files.lora import lora_targets
from animatediff_flipbook.nodes.context.context import ContextWindows
from animatediff_flipbook.nodes.motion.apply import ApplyMotionModule
from animatediff_flipbook.nodes.motion.load import LoadMotionLora
from animatediff_flipbook.nodes.motion.motion_keyframe import MotionKeyframe
from animatediff_flipbook.nodes.motion.motion_run import KEY, LORA_KEY
from animatediff_flipbook.nodes.motion.motion_settings import MotionSettingsNode
from animatediff_flipbook.nodes.motion.motion_value import MotionValueNode
from animatediff_flipbook.nodes.schedule.prompt_schedule import FloatSchedule
from animatediff_flipbook.tests.nodes.motion.test_apply import apply, cond, sample
from animatediff_flipbook.tests.nodes.motion.test_lora import factors, load, motion_weights
from animatediff_flipbook.tests.support import assert_untouched, snapshot

CLOSE = {"atol": 2e-4, "rtol": 1e-3}


def value(**given):
    return MotionValueNode.execute(**given)[0]


def keyframe(start=0.0, **given):
    return MotionKeyframe.execute(start_percent=start, **given)[0]


def settings(**given):
    return MotionSettingsNode.execute(**given)[0]


def masks(frames=4, size=5, seed=0):
    return torch.rand(frames, size, size + 2, generator=torch.Generator().manual_seed(seed))


class TestValues:
    @pytest.mark.parametrize("name", ["scale", "effect"])
    @pytest.mark.parametrize(
        "even",
        [[0.7] * 4, [0.7], torch.full((4,), 0.7), torch.full((1, 3, 3), 0.7), torch.full((4, 9, 2), 0.7)],
        ids=["list", "one", "tensor", "mask", "masks"],
    )
    def test_a_value_that_is_the_same_everywhere_is_a_number(self, tiny_model, motion_module, name, even):
        module = motion_module()
        number = sample(apply(tiny_model, module, **{name: 0.7}))
        assert not torch.allclose(number, sample(apply(tiny_model, module)), atol=1e-2)
        assert torch.allclose(sample(apply(tiny_model, module, **{f"{name}_values": even})), number, **CLOSE)

    def test_a_list_through_a_link_for_numbers_is_a_value_for_each_frame(self, tiny_model, motion_module):
        module, numbers = motion_module(), [0.2, 1.5, 1.0, 0.6]
        linked = sample(apply(tiny_model, module, scale=numbers, effect=[1.0, 0.5, 0.0, 1.1]))
        slots = sample(
            apply(tiny_model, module, scale_values=numbers, effect_values=torch.tensor([1.0, 0.5, 0.0, 1.1]))
        )
        assert torch.equal(linked, slots)

    def test_number_and_values_are_multiplied(self, tiny_model, motion_module):
        module, numbers = motion_module(), [0.2, 1.5, 1.0, 0.6]
        once = sample(apply(tiny_model, module, scale=0.5, scale_values=numbers))
        assert torch.allclose(
            once, sample(apply(tiny_model, module, scale_values=[n / 2 for n in numbers])), **CLOSE
        )

    def test_effect_0_in_a_frame_leaves_that_frame_to_the_plain_model(self, tiny_model, motion_module):
        """One step, one evaluation: other frames do not come into it."""
        plain = sample(tiny_model, steps=1, cfg=1.0)
        moved = sample(
            apply(tiny_model, motion_module(), effect_values=[1.0, 0.0, 1.0, 0.0], beta_schedule="keep"),
            steps=1,
            cfg=1.0,
        )
        assert torch.allclose(moved[[1, 3]], plain[[1, 3]], atol=1e-4)
        assert not torch.allclose(moved[[0, 2]], plain[[0, 2]], atol=1e-2)

    def test_conds_in_one_call_or_two_and_of_two_sizes(self, tiny_model, motion_module, monkeypatch):
        half = value(mask=masks(seed=1), lowest=0.5)
        model = apply(tiny_model, motion_module(), scale_values=masks(), effect_values=half)
        together = sample(model, size=(16, 16))
        with monkeypatch.context() as patch:
            patch.setattr(model.model, "memory_required", lambda *_, **__: 1e18)  # no two conds in a call
            assert torch.allclose(sample(model, size=(16, 16)), together, atol=1e-3)
        areas = [*cond(1), *cond(3, area=(8, 16, 8, 0), strength=0.8), *cond(4, area=(16, 8, 0, 8))]
        assert sample(model, size=(16, 16), positive=areas).isfinite().all()

    def test_windows_see_the_values_of_their_frames(self, tiny_model, motion_module):
        """One evaluation in windows is the sum of the windows, each with its part of the values."""
        module, frames = motion_module(), 10
        scale, effect = torch.linspace(0.2, 2.0, frames), masks(frames)
        options = ContextOptions(4, 2)
        model = apply(tiny_model, module, scale_values=scale, effect_values=effect)
        noise = torch.randn(frames, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        expected = torch.zeros_like(noise)
        windows = context_windows(options, frames)
        for window, weights in zip(windows, fused_weights(windows, options, frames), strict=True):
            indices = list(window.indices)
            part = apply(tiny_model, module, scale_values=scale[indices], effect_values=effect[indices])
            expected[indices] += weights.view(-1, 1, 1, 1) * one_step(part, noise[indices])
        for together in (1, 3):
            windowed = ContextWindows.execute(model, length=4, overlap=2, windows_per_batch=together)[0]
            assert torch.allclose(one_step(windowed, noise), expected, **CLOSE)

    def test_two_modules_have_values_of_their_own(self, tiny_model, motion_module):
        first, second = motion_module(seed=7), motion_module(seed=8)
        both = apply(apply(tiny_model, first, effect_values=[1.0, 0.0]), second, effect_values=[0.0])
        assert torch.allclose(
            sample(both), sample(apply(tiny_model, first, effect_values=[1.0, 0.0, 0.0, 0.0])), **CLOSE
        )

    def test_values_that_end_before_the_clip_go_on_and_are_told_of(self, tiny_model, motion_module, caplog):
        module = motion_module()
        with caplog.at_level(logging.WARNING):
            short = sample(apply(tiny_model, module, scale_values=[0.3, 1.4]))
        assert [r.getMessage() for r in caplog.records if "2 values for scale" in r.getMessage()]
        long = sample(apply(tiny_model, module, scale_values=[0.3, 1.4, 1.4, 1.4, 9.0]))
        assert torch.allclose(short, long, **CLOSE)

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ([0.5, 11.0], "scale_values is 0 .. 10, got 0.5 .. 11"),
            ([float("nan")], "got nan"),
            ([], "shape"),
            (torch.zeros(2, 2, 2, 2), "shape"),
            ("1.0", "expected a number"),
            ({"a": 1}, "expected a number"),
            (True, "expected a number"),
            (object(), "expected a number"),
        ],
    )
    def test_what_is_no_value_is_refused(self, tiny_model, motion_module, given, words):
        with pytest.raises(ValueError, match=words):
            apply(tiny_model, motion_module(), scale_values=given)


def one_step(model, noise):
    """The prediction at the highest noise."""
    with torch.inference_mode():
        return comfy.sample.sample(
            *(model, noise, 1, 3.0, "euler", "normal", cond(1), cond(2), torch.zeros_like(noise)),
            seed=0, disable_pbar=True,
        )  # fmt: skip


class TestMotionValue:
    def test_masks_run_from_lowest_to_value(self):
        given = value(value=1.4, lowest=0.3, mask=torch.tensor([[[0.0, 0.5, 1.0]]]))
        assert torch.allclose(given, torch.tensor([[[0.3, 0.85, 1.4]]]))
        relative = value(value=2.0, scaling="relative", mask=torch.tensor([[[0.2, 0.3, 0.4]]]))
        assert torch.allclose(relative, torch.tensor([[[0.0, 1.0, 2.0]]]), atol=1e-6)

    def test_lists_and_masks_together(self):
        floats = FloatSchedule.execute("0: 0.0 / 3: 1.5", frames=4)[0]
        given = value(value=2.0, values=floats, mask=torch.ones(1, 2, 2))
        assert given.shape == (4, 2, 2)
        assert torch.allclose(given[:, 0, 0], torch.tensor([0.0, 1.0, 2.0, 3.0]))
        assert torch.allclose(value(value=2.0, values=floats), given[:, 0, 0])

    def test_a_number_stays_a_number(self):
        assert value(value=1.2) == 1.2
        with pytest.raises(ValueError, match="scaling"):
            value(scaling="other")
        with pytest.raises(ValueError, match="mask is 0 .. 1"):
            value(mask=torch.full((1, 2, 2), 3.0))


class TestKeyframes:
    def test_a_keyframe_at_the_start_is_the_nodes_own_value(self, tiny_model, motion_module):
        module = motion_module()
        keyed = apply(tiny_model, module, scale=2.0, motion_keyframes=keyframe(scale=0.7, effect=[0.9]))
        assert torch.allclose(
            sample(keyed), sample(apply(tiny_model, module, scale=1.4, effect=0.9)), **CLOSE
        )

    def test_effect_0_from_some_step_on_ends_the_module_there(self, tiny_model, motion_module):
        module = motion_module()
        ended = apply(tiny_model, module, motion_keyframes=keyframe(0.43, effect=0.0))
        wanted = sample(apply(tiny_model, module, end_percent=0.43), steps=6)
        assert not torch.allclose(wanted, sample(apply(tiny_model, module), steps=6), atol=1e-2)
        for _ in range(2):  # every run begins at the first keyframe
            assert torch.equal(sample(ended, steps=6), wanted)

    def test_in_any_order_and_in_clones(self, tiny_model, motion_module):
        module = motion_module()
        a = keyframe(0.6, scale=0.2, previous=keyframe(0.3, effect=0.5))
        b = keyframe(0.3, effect=0.5, previous=keyframe(0.6, scale=0.2))
        first, second = (apply(tiny_model, module, motion_keyframes=one) for one in (a, b))
        assert torch.equal(sample(first, steps=5), sample(second.clone(), steps=5))

    def test_guaranteed_steps_hold_though_the_next_has_come(self, tiny_model, motion_module):
        module = motion_module()
        late = keyframe(0.5, scale=0.1, previous=keyframe(0.05, guarantee_steps=20, scale=3.0))
        held = apply(tiny_model, module, motion_keyframes=late)
        alone = apply(tiny_model, module, motion_keyframes=keyframe(0.05, scale=3.0))
        assert torch.equal(sample(held, steps=4), sample(alone, steps=4))

    def test_blocks_of_a_keyframe_stand_for_those_of_the_node(self, tiny_model, motion_module):
        module = motion_module()
        node = settings(blocks="down_blocks: effect 0")
        keyed = keyframe(motion_settings=settings(blocks="up_blocks: effect 0"))
        got = apply(tiny_model, module, motion_settings=node, motion_keyframes=keyed)
        wanted = apply(tiny_model, module, motion_settings=settings(blocks="up_blocks: effect 0"))
        assert torch.equal(sample(got), sample(wanted))

    def test_in_windows_with_several_in_a_call(self, tiny_model, motion_module):
        frames = keyframe(0.4, scale=torch.linspace(0.1, 2.0, 10))
        model = apply(tiny_model, motion_module(), motion_keyframes=frames)
        one, three = (
            sample(ContextWindows.execute(model, length=4, overlap=2, windows_per_batch=count)[0], frames=10)
            for count in (1, 3)
        )
        assert torch.allclose(one, three, **CLOSE)

    def test_after_a_cancelled_run_the_base_is_untouched_and_the_next_run_whole(
        self, tiny_model, motion_module
    ):
        before = snapshot(tiny_model.model.diffusion_model)
        model = apply(tiny_model, motion_module(), motion_keyframes=keyframe(0.3, effect=0.2))
        whole = sample(model, steps=4)

        def stop(step, *_):
            if step == 2:
                raise comfy.model_management.InterruptProcessingException

        with pytest.raises(comfy.model_management.InterruptProcessingException):
            sample(model, steps=4, callback=stop)
        assert_untouched(tiny_model.model.diffusion_model, before)
        assert torch.equal(sample(model, steps=4), whole)

    def test_weights_and_wrong_things_are_refused(self, tiny_model, motion_module):
        with pytest.raises(ValueError, match="only `blocks`"):
            keyframe(motion_settings=settings(q=1.1))
        with pytest.raises(ValueError, match="FlipbookMotionKeyframe"):
            keyframe(previous="x")
        with pytest.raises(ValueError, match="FlipbookMotionKeyframe"):
            apply(tiny_model, motion_module(), motion_keyframes=[1])
        with pytest.raises(ValueError, match="lora_strength is -10"):
            keyframe(lora_strength=11.0)


class TestLoraStrength:
    def test_beside_the_weights_a_lora_is_what_it_is_in_them(self, tiny_model, motion_module, model_folders):
        module = motion_module()
        layers = {name: (0.2 * down, 0.2 * up) for name, (down, up) in factors(module).items()}
        patched = apply(tiny_model, module, motion_lora=load(model_folders, "a.safetensors", layers, 0.6))
        wanted = sample(patched)
        assert not torch.allclose(wanted, sample(apply(tiny_model, module)), atol=1e-2)
        full = load(model_folders, "a.safetensors", layers, 1.0)
        by_step = apply(tiny_model, module, motion_lora=full, motion_keyframes=keyframe(lora_strength=0.6))
        assert torch.allclose(sample(by_step), wanted, **CLOSE)
        by_frame = LoadMotionLora.execute("a.safetensors", 0.6, strength_values=[1.0] * 4)[0]
        model = apply(tiny_model, module, motion_lora=by_frame)
        assert torch.allclose(sample(model), wanted, **CLOSE)
        assert not model.get_additional_models_with_key(KEY)[0].patches
        assert len(model.get_additional_models_with_key(LORA_KEY)) == 1
        windows = ContextWindows.execute(model, length=3, overlap=1)[0]
        plain = ContextWindows.execute(patched, length=3, overlap=1)[0]
        assert torch.allclose(sample(windows), sample(plain), **CLOSE)

    def test_a_strength_that_comes_later_changes_nothing_before(
        self, tiny_model, motion_module, model_folders
    ):
        module = motion_module()
        layers = {name: (0.2 * down, 0.2 * up) for name, (down, up) in factors(module).items()}
        lora = load(model_folders, "b.safetensors", layers, 1.0)
        later = keyframe(0.43, lora_strength=1.0, previous=keyframe(lora_strength=0.0))
        model = apply(tiny_model, module, motion_lora=lora, motion_keyframes=later)
        seen, plain = [], []
        sample(model, steps=4, callback=lambda step, x0, *_: seen.append(x0.clone()))
        sample(apply(tiny_model, module), steps=4, callback=lambda step, x0, *_: plain.append(x0.clone()))
        same = [torch.allclose(a, b, **CLOSE) for a, b in zip(seen, plain, strict=True)]
        assert same[0] and not same[-1]

    def test_a_keyframe_without_a_lora_says_so(self, tiny_model, motion_module, caplog):
        with caplog.at_level(logging.WARNING):
            apply(tiny_model, motion_module(), motion_keyframes=keyframe(lora_strength=0.5))
        assert any("no MotionLoRA" in record.getMessage() for record in caplog.records)


class TestSettings:
    def test_groups_of_weights_are_multiplied(self, tiny_model, motion_module):
        module = motion_module()
        given = settings(all_weights=1.5, q=2.0, v=0.5, out=0.25, feed_forward=0.0)
        got = motion_weights(apply(tiny_model, module, motion_settings=given))
        wanted = {key: 1.5 * tensor for key, tensor in module.patcher.model.state_dict().items()}
        factor = {"to_q": 2.0, "to_k": 1.0, "to_v": 0.5, "to_out": 0.25}
        for name, target in lora_targets(module.patcher.model).items():
            part = next(
                (f for word, f in factor.items() if f".{word}" in name), 0.0 if ".ff." in name else 1.0
            )
            first, count = target.rows or (0, target.shape[0])
            wanted[target.key][first : first + count] *= part
            bias = target.key.replace("weight", "bias")
            if bias in wanted and target.rows is None:
                wanted[bias] *= part
        for key, tensor in wanted.items():
            assert torch.allclose(got[key], tensor, atol=1e-5), key

    def test_positions_are_stretched_as_bilinear_resizing_does(self, tiny_model, motion_module):
        module = motion_module()
        model = apply(tiny_model, module, motion_settings=settings(stretch_rows=3, stretch_by=2))
        table = motion_module(name="v3_7.safetensors")
        for _, one in table.patcher.model.named_modules():
            if hasattr(one, "pe"):
                rows = torch.nn.functional.interpolate(one.pe[:, :3].mT, size=5, mode="linear").mT
                one.pe = torch.cat([rows, one.pe[:, 5:]], dim=1)
        wanted = sample(apply(tiny_model, table), frames=5)
        assert torch.allclose(sample(model, frames=5), wanted, **CLOSE)
        assert not torch.allclose(wanted, sample(apply(tiny_model, module), frames=5), atol=1e-3)
        with pytest.raises(ValueError, match="got 6 frames in one call, expected at most 5: .*stretch_by"):
            sample(model, frames=6)
        later = apply(tiny_model, table, motion_settings=settings(first_position=1))
        moved = apply(
            tiny_model, module, motion_settings=settings(stretch_rows=3, stretch_by=2, first_position=1)
        )
        assert torch.allclose(sample(later, frames=4), sample(moved, frames=4), **CLOSE)

    def test_all_weights_and_positions_act_on_the_table(self, tiny_model, motion_module):
        module, table = motion_module(), motion_module()
        for _, one in table.patcher.model.named_modules():
            if hasattr(one, "pe"):
                one.pe = one.pe * 0.5
        half = sample(apply(tiny_model, module, motion_settings=settings(positions=0.5)))
        assert torch.allclose(half, sample(apply(tiny_model, table)), **CLOSE)

    def test_two_in_a_row_act_together(self):
        both = settings(
            q=2.0, blocks="up_blocks: effect 0.5", previous=settings(q=0.5, v=3.0 / 2, stretch_by=2)
        )
        assert both.factors == {"q": 1.0, "v": 1.5}
        assert both.stretch.added == 2
        with pytest.raises(ValueError, match="Two Motion Settings"):
            settings(stretch_by=1, previous=settings(stretch_by=2))
        with pytest.raises(ValueError, match="FlipbookMotionSettings"):
            settings(previous=3)

    def test_blocks_without_a_place_in_the_module_are_told_of(self, tiny_model, motion_module, caplog):
        with caplog.at_level(logging.WARNING):
            apply(tiny_model, motion_module("v3"), motion_settings=settings(blocks="mid_block: effect 0"))
        assert any("no block mid_block" in record.getMessage() for record in caplog.records)

    def test_nothing_set_changes_nothing(self, tiny_model, motion_module):
        module = motion_module()
        model = apply(tiny_model, module, motion_settings=settings())
        assert not model.get_additional_models_with_key(KEY)[0].patches
        assert torch.equal(sample(model), sample(apply(tiny_model, module)))


class TestViews:
    def test_views_longer_than_the_clip_change_nothing(self, tiny_model, motion_module):
        model = apply(tiny_model, motion_module())
        viewed = ContextWindows.execute(model, length=5, view_length=6)[0]
        assert torch.equal(sample(viewed, frames=4), sample(model, frames=4))

    def test_with_a_clip_longer_than_the_module_knows(self, tiny_model, motion_module):
        """Windows of 8 frames for a module of 6 positions: views of 4 have room."""
        model = apply(tiny_model, motion_module(pe_length=6, name="short.safetensors"))
        viewed = ContextWindows.execute(model, length=8, overlap=2, view_length=4, view_overlap=2)[0]
        assert sample(viewed, frames=10).isfinite().all()
        said = r"^short\.safetensors got {} frames in one call, expected at most 6: .*`{}` 6 or less"
        with pytest.raises(ValueError, match=said.format(8, "length")):
            sample(ContextWindows.execute(model, length=8, overlap=2)[0], frames=10)
        with pytest.raises(ValueError, match=said.format(7, "view_length")):
            sample(ContextWindows.execute(model, length=8, overlap=2, view_length=7)[0], frames=10)

    def test_only_the_motion_modules_are_cut(self, tiny_model, motion_module):
        """Where they take no part, windows inside them do not either."""
        model = apply(tiny_model, motion_module(), effect=0.0)
        viewed = ContextWindows.execute(model, length=16, view_length=3, view_overlap=1)[0]
        assert torch.equal(sample(viewed, frames=6), sample(model, frames=6))
        moving = apply(tiny_model, motion_module())
        cut = ContextWindows.execute(moving, length=16, view_length=3, view_overlap=1)[0]
        assert not torch.allclose(sample(cut, frames=6), sample(moving, frames=6), atol=1e-3)


def test_settings_of_every_kind_leave_the_base_bit_identical(tiny_model, motion_module, model_folders):
    before = snapshot(tiny_model.model.diffusion_model)
    module = motion_module()
    load(model_folders, "c.safetensors", {n: (0.1 * d, u) for n, (d, u) in factors(module).items()}, 1.0)
    lora = LoadMotionLora.execute("c.safetensors", 1.0, strength_values=[0.0, 1.0])[0]
    model = ApplyMotionModule.execute(
        *(tiny_model, module, lora),
        scale_values=masks(),
        effect_values=[1.1, 0.9],
        motion_settings=settings(stretch_rows=4, stretch_by=4, q=1.1, blocks="up_blocks.0: scale 1.2/0.8"),
        motion_keyframes=keyframe(0.5, scale=[0.5], lora_strength=0.5),
    )[0]
    windowed = ContextWindows.execute(model, length=6, overlap=2, view_length=4, view_overlap=1)[0]
    assert sample(windowed, frames=9).isfinite().all()
    assert_untouched(tiny_model.model.diffusion_model, before)
