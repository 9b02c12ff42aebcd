"""Motion modules in the UNet for one call: what runs where, and that nothing stays behind."""

import comfy.model_management
import comfy.ops
import pytest
import torch
from animatediff_flipbook.motion_core.module.injection import MotionLayer, check_fit, inserted, resblock_norms
from animatediff_flipbook.motion_core.module.layers import MotionCall
from animatediff_flipbook.motion_core.module.unet import unet_slots
from animatediff_flipbook.tests.support import assert_untouched, motion_for, small_unet, snapshot

FRAMES = 4


@pytest.fixture(scope="module")
def unet():
    return small_unet()


@pytest.fixture(scope="module")
def before(unet):
    return snapshot(unet)


def inputs(videos=1, frames=FRAMES, seed=5):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(videos * frames, 4, 8, 8, generator=generator)
    context = torch.randn(videos, 3, 32, generator=generator).repeat_interleave(frames, dim=0)
    return x, torch.full((videos * frames,), 400.0), context


def run(unet, motions=(), videos=1, frames=FRAMES):
    x, t, context = inputs(videos, frames)
    with torch.inference_mode(), inserted(unet, motions):
        return unet(x, t, context=context, transformer_options={})


def call(**options):
    return MotionCall(**{"frames": FRAMES, **options})


class TestDuring:
    """What the UNet is while a call runs."""

    @pytest.mark.parametrize("generation", ["v1", "v2", "v3"])
    def test_names_of_the_base_do_not_change(self, unet, before, generation):
        """Other packs look layers up by name during a call (LoRA hooks, cast weights)."""
        motion = motion_for(unet, generation)
        with inserted(unet, [(motion, call()), (motion_for(unet, "v3", seed=9), call())]):
            inside = unet.state_dict()
            for key, value in before.items():
                assert key in inside, f"{key} has another name during the call"
                assert torch.equal(inside[key], value)
            for key in before:
                layer = unet.get_submodule(key.rpartition(".")[0])
                assert layer.state_dict()
        assert_untouched(unet, before)

    def test_each_module_runs_once_at_its_place(self, unet):
        """After the (ResBlock, transformer) pair, before resamplers and the middle's second ResBlock."""
        motion, order = motion_for(unet, "v2"), []
        handles = []
        for module in unet.modules():
            kind = type(module).__name__
            if kind in ("ResBlock", "SpatialTransformer", "Downsample", "Upsample"):
                handles.append(module.register_forward_hook(lambda *_, kind=kind: order.append(kind)))
        for name, module in motion.motion_modules():
            handles.append(module.register_forward_hook(lambda *_, name=name: order.append(name)))
        run(unet, [(motion, call())])
        for handle in handles:
            handle.remove()
        assert order == [
            *("ResBlock", "SpatialTransformer", "down_blocks.0.motion_modules.0", "Downsample"),
            *("ResBlock", "down_blocks.1.motion_modules.0"),
            *("ResBlock", "SpatialTransformer", "mid_block.motion_modules.0", "ResBlock"),
            *("ResBlock", "up_blocks.0.motion_modules.0"),
            *("ResBlock", "up_blocks.0.motion_modules.1", "Upsample"),
            *("ResBlock", "SpatialTransformer", "up_blocks.1.motion_modules.0"),
            *("ResBlock", "SpatialTransformer", "up_blocks.1.motion_modules.1"),
        ]

    def test_modules_get_what_their_neighbour_made(self, unet):
        """Features match: each module's input is its neighbour's output, and the next layer gets its own."""
        motion = motion_for(unet, "v3")
        slots = {slot.name: slot for slot in unet_slots(unet)}
        name = "up_blocks.0.motion_modules.1"
        slot, seen, handles = slots[name], {}, []

        def record(what):
            return lambda _, args, out: seen.update({f"{what} in": args[0], f"{what} out": out})

        # The Upsample behind it, the ResBlock in front, and the module between them.
        layers = [slot.block.get_submodule(slot.after), motion.get_submodule(name), slot.block[-1]]
        for what, layer in zip(("front", "motion", "behind"), layers, strict=True):
            handles.append(layer.register_forward_hook(record(what)))
        run(unet, [(motion, call())])
        for handle in handles:
            handle.remove()
        assert torch.equal(seen["motion in"], seen["front out"])
        assert torch.equal(seen["behind in"], seen["motion out"])

    def test_two_models_run_in_the_order_given(self, unet):
        first, second = motion_for(unet, seed=1), motion_for(unet, seed=2)
        name, order = "down_blocks.0.motion_modules.0", []
        for number, motion in ((1, first), (2, second)):
            motion.get_submodule(name).register_forward_pre_hook(lambda *_, n=number: order.append(n))
        one = run(unet, [(first, call()), (second, call())])
        other = run(unet, [(second, call()), (first, call())])
        assert order == [1, 2, 2, 1]
        assert not torch.allclose(one, other, atol=1e-4)

    @pytest.mark.parametrize("generation", ["v1", "v3"])
    def test_videos_of_a_batch_are_independent(self, unet, generation):
        motion = motion_for(unet, generation)
        x, t, context = inputs(videos=2)
        with torch.inference_mode(), inserted(unet, [(motion, call())]):
            together = unet(x, t, context=context, transformer_options={})
            apart = [
                unet(x[i : i + 4], t[i : i + 4], context=context[i : i + 4], transformer_options={})
                for i in (0, 4)
            ]
        assert torch.allclose(together, torch.cat(apart), atol=1e-4)

    def test_joint_norms_are_those_of_the_resblocks_and_the_output(self, unet):
        """v1 shares statistics there and nowhere else: not in the spatial transformers."""
        norms = list(resblock_norms(unet))
        assert len(norms) == 2 * sum(type(m).__name__ == "ResBlock" for m in unet.modules()) + 1
        assert all(isinstance(box._modules[key], torch.nn.GroupNorm) for box, key in norms)
        spatial = [m.norm for m in unet.modules() if type(m).__name__ == "SpatialTransformer"]
        assert not [n for n in spatial if any(box._modules[key] is n for box, key in norms)]

    def test_joint_norms_see_all_frames(self, unet):
        """One changed frame moves every other frame even through modules that change nothing."""
        from animatediff_flipbook.motion_core.module.config import MotionModuleConfig
        from animatediff_flipbook.motion_core.module.model import MotionModel

        for generation, coupled in (("v1", True), ("v3", False)):
            fresh = MotionModel(MotionModuleConfig.for_unet(unet, generation))
            x, t, context = inputs()
            changed = x.clone()
            changed[3] *= 3
            with torch.inference_mode(), inserted(unet, [(fresh, call())]):
                a = unet(x, t, context=context, transformer_options={})
                b = unet(changed, t, context=context, transformer_options={})
            assert (not torch.allclose(a[:3], b[:3], atol=1e-4)) == coupled

    def test_casting_norms_still_cast(self, unet):
        """v1 with ComfyUI's casting layers: the norm's own forward must do the work."""
        from animatediff_flipbook.tests.support import golden_config
        from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

        cast = UNetModel(**golden_config(), dtype=torch.float16, operations=comfy.ops.manual_cast)
        cast.load_state_dict(unet.state_dict())
        cast.dtype = torch.float32
        motion = motion_for(unet, "v1")
        wanted = run(unet, [(motion, call())])
        got = run(cast.eval(), [(motion, call())])
        assert torch.allclose(got, wanted, atol=3e-2)

    def test_fresh_modules_change_nothing(self, unet):
        from animatediff_flipbook.motion_core.module.config import MotionModuleConfig
        from animatediff_flipbook.motion_core.module.model import MotionModel

        fresh = MotionModel(MotionModuleConfig.for_unet(unet, "v2"))
        assert torch.equal(run(unet, [(fresh, call())]), run(unet))

    def test_effect_zero_changes_nothing_even_for_v1(self, unet):
        motion = motion_for(unet, "v1")
        assert torch.equal(run(unet, [(motion, call(effect=0.0))]), run(unet))

    def test_nothing_to_insert_is_the_plain_model(self, unet):
        assert torch.equal(run(unet, []), run(unet))


class TestAfter:
    """Whatever ends the call, the base is as the loader made it."""

    @pytest.mark.parametrize("generation", ["v1", "v2", "v3"])
    def test_success(self, unet, before, generation):
        plain = run(unet)
        motion = motion_for(unet, generation)
        moved = run(unet, [(motion, call())])
        assert not torch.allclose(moved, plain, atol=1e-3)
        assert_untouched(unet, before)
        assert torch.equal(run(unet), plain)
        assert torch.equal(run(unet, [(motion, call())]), moved)

    def test_every_place_where_an_error_can_strike(self, unet, before):
        """A layer fails: of the base, of a motion module, at the first and the last place."""
        motions = [(motion_for(unet, "v1"), call()), (motion_for(unet, "v2", seed=3), call())]
        places = [
            unet.time_embed[0],
            unet.input_blocks[0][0],
            unet.middle_block[-1].in_layers[0],
            unet.out[-1],
        ]
        places += [module for motion, _ in motions for _, module in motion.motion_modules()]
        plain = run(unet)
        for place in places:

            def fail(*_):
                raise RuntimeError("struck")

            handle = place.register_forward_pre_hook(fail)
            with pytest.raises(RuntimeError, match="struck"):
                run(unet, motions)
            handle.remove()
            assert_untouched(unet, before)
        assert torch.equal(run(unet), plain)

    def test_cancel_at_every_layer_of_the_call(self, unet, before):
        """ComfyUI's layers ask for a cancel before they run, ours among them: strike at each in turn."""
        motion = motion_for(unet, "v1", operations=comfy.ops.disable_weight_init)
        layers = [m for m in unet.modules() if hasattr(m, "comfy_cast_weights")]
        layers += [m for m in motion.modules() if hasattr(m, "comfy_cast_weights")]
        assert len(layers) > 150
        for layer in layers[::4] + layers[-4:]:

            def cancel(*_):
                comfy.model_management.interrupt_current_processing()

            handle = layer.register_forward_pre_hook(cancel)
            with pytest.raises(comfy.model_management.InterruptProcessingException):
                run(unet, [(motion, call())])
            handle.remove()
            assert not comfy.model_management.processing_interrupted()
            assert_untouched(unet, before)
        assert run(unet, [(motion, call())]).isfinite().all()

    def test_keyboard_interrupt_and_generator_exit(self, unet, before):
        motion = motion_for(unet, "v1")
        for kind in (KeyboardInterrupt, SystemExit, GeneratorExit):
            with pytest.raises(kind), inserted(unet, [(motion, call())]):
                raise kind
            assert_untouched(unet, before)

    def test_a_model_that_does_not_fit_leaves_no_trace_of_the_ones_before_it(self, unet, before):
        wide = motion_for(small_unet(model_channels=64))
        with pytest.raises(ValueError, match="does not fit"):
            run(unet, [(motion_for(unet, "v1"), call()), (wide, call())])
        assert_untouched(unet, before)
        with pytest.raises(ValueError, match="does not fit"):
            run(unet, [(wide, call()), (motion_for(unet, "v1"), call())])
        assert_untouched(unet, before)

    def test_others_may_change_the_block_meanwhile(self, unet, before):
        """Taken out by identity: a layer that another pack adds during the call stays where it put it."""
        block = unet.input_blocks[1]
        with inserted(unet, [(motion_for(unet), call())]):
            block.add_module("theirs", torch.nn.Identity())
        assert list(block._modules) == ["0", "1", "theirs"]
        del block._modules["theirs"]
        assert_untouched(unet, before)

    def test_nested_calls_take_out_their_own(self, unet, before):
        inner, outer = motion_for(unet, seed=1), motion_for(unet, seed=2)
        with inserted(unet, [(outer, call())]):
            with inserted(unet, [(inner, call())]):
                pass
            mine = [m for m in unet.modules() if isinstance(m, MotionLayer)]
            assert {id(layer.module) for layer in mine} == {
                id(module) for _, module in outer.motion_modules()
            }
        assert_untouched(unet, before)

    def test_the_same_model_twice_in_one_call(self, unet, before):
        motion = motion_for(unet)
        once = run(unet, [(motion, call())])
        twice = run(unet, [(motion, call()), (motion, call())])
        assert not torch.allclose(once, twice, atol=1e-3)
        assert_untouched(unet, before)

    def test_training_mode_and_gradients_are_left_alone(self, unet, before):
        trained = small_unet().requires_grad_(False).train()
        motion = motion_for(trained, fused_qkv=False).train().requires_grad_()
        x, t, context = inputs()
        with inserted(trained, [(motion, call())]):
            trained(x, t, context=context, transformer_options={}).square().mean().backward()
        assert trained.training
        assert motion.training
        assert not any(p.requires_grad for p in trained.parameters())
        assert all(p.grad is not None and p.grad.isfinite().all() for p in motion.parameters())
        assert_untouched(trained, before)


class TestRefusals:
    def test_models_that_disagree_about_frames(self, unet, before):
        motions = [(motion_for(unet), call()), (motion_for(unet), call(frames=2))]
        with pytest.raises(ValueError, match=r"\[2, 4\]"):
            run(unet, motions)
        assert_untouched(unet, before)

    def test_misfit_is_told_with_both_widths(self, unet):
        slots = {slot.name: slot for slot in unet_slots(unet)}
        wide = motion_for(small_unet(model_channels=64))
        with pytest.raises(ValueError, match=r"mine\.ckpt does not fit.*64/128.*32/64.*64.*32") as error:
            check_fit(wide, slots, "mine.ckpt")
        assert "down_blocks.0.motion_modules.0" in str(error.value)

    def test_a_place_that_is_not_there_is_named(self, unet):
        deep = small_unet(
            channel_mult=[1, 2, 2],
            num_res_blocks=[1, 1, 1],
            transformer_depth=[1, 0, 0],
            transformer_depth_output=[1, 1, 0, 0, 0, 0],
        )
        slots = {slot.name: slot for slot in unet_slots(unet)}
        with pytest.raises(ValueError, match="no such place"):
            check_fit(motion_for(deep), slots)

    @pytest.mark.parametrize(
        ("module", "base"), [("sdxl", "sd15"), ("sd15", "sdxl")], ids=["SDXL on SD1.5", "SD1.5 on SDXL"]
    )
    def test_sdxl_and_sd15_are_named(self, module, base):
        from animatediff_flipbook.motion_core.module.config import MotionModuleConfig
        from animatediff_flipbook.motion_core.module.model import MotionModel
        from animatediff_flipbook.tests.motion_core.module.test_unet import SD15, SDXL, full_size

        unets = {"sd15": full_size(SD15), "sdxl": full_size(SDXL)}
        generation = {"sd15": "v3", "sdxl": "sdxl"}[module]
        motion = MotionModel(MotionModuleConfig.for_unet(unets[module], generation), device="meta")
        slots = {slot.name: slot for slot in unet_slots(unets[base])}
        words = {"sd15": "SD1.5", "sdxl": "SDXL"}
        with pytest.raises(ValueError, match=rf"motion module for {words[module]}.*base is {words[base]}"):
            check_fit(motion, slots)
        check_fit(motion, {slot.name: slot for slot in unet_slots(unets[module])})

    def test_a_batch_that_is_no_whole_number_of_videos(self, unet, before):
        with pytest.raises(ValueError, match="3 frames"):
            run(unet, [(motion_for(unet), call(frames=3))])
        assert_untouched(unet, before)
