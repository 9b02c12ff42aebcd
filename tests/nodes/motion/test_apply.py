"""Apply Motion Module on a MODEL, through ComfyUI's samplers: what animates, what stays untouched."""

import contextlib

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy_extras.nodes_model_advanced as advanced
import pytest
import torch
from animatediff_flipbook.motion_core.module.injection import inserted
from animatediff_flipbook.motion_core.module.layers import MotionCall
from animatediff_flipbook.nodes.motion.apply import KEY, ApplyMotionModule
from animatediff_flipbook.nodes.motion.load import LoadMotionModule
from animatediff_flipbook.tests.support import (
    as_patcher,
    assert_untouched,
    bare,
    call_model,
    golden_config,
    golden_weights,
    motion_for,
    small_unet,
    snapshot,
)

FRAMES = 4


def cond(seed=1, **extra):
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, 6, 64, generator=generator), extra]]


def sample(model, *, frames=FRAMES, steps=2, cfg=5.0, sampler="euler", scheduler="normal", seed=0, **options):
    positive, negative = options.pop("positive", cond(1)), options.pop("negative", cond(2))
    latent = torch.zeros(frames, 4, *options.pop("size", (8, 8)))
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        return comfy.sample.sample(
            model, noise, steps, cfg, sampler, scheduler, positive, negative, latent, seed=seed,
            disable_pbar=True, **options,
        )  # fmt: skip


def apply(model, module, **options):
    return ApplyMotionModule.execute(model=model, motion_module=module, **options)[0]


@pytest.fixture(scope="module")
def before(tiny_model):
    return snapshot(tiny_model.model.diffusion_model)


class TestSampling:
    def test_every_sampler_of_ksampler(self, tiny_model, motion_module, before):
        """16 frames, 2 steps; finite, and the base bit-identical after each."""
        model = apply(tiny_model, motion_module())
        calls = 0

        def count(apply_model, args):
            nonlocal calls
            calls += 1
            assert calls < 400, "does not end on random weights"
            return apply_model(args["input"], args["timestep"], **args["c"])

        model.set_model_unet_function_wrapper(count)
        failed = {}
        for name in comfy.samplers.KSampler.SAMPLERS:
            calls = 0
            try:
                out = sample(model, frames=16, cfg=1.0, sampler=name, size=(4, 4))
                if not out.isfinite().all():
                    failed[name] = "not finite"
            except Exception as error:  # all names are to be told, not the first
                failed[name] = repr(error)
            assert_untouched(tiny_model.model.diffusion_model, before)
        assert not failed

    def test_every_scheduler_of_ksampler(self, tiny_model, motion_module, before):
        model = apply(tiny_model, motion_module())
        for name in comfy.samplers.KSampler.SCHEDULERS:
            assert sample(model, cfg=1.0, scheduler=name, size=(4, 4)).isfinite().all(), name
        assert_untouched(tiny_model.model.diffusion_model, before)

    def test_motion_changes_frames_and_plain_clones_are_not_affected(self, tiny_model, motion_module, before):
        other = tiny_model.clone()
        plain = sample(other)
        model = apply(tiny_model, motion_module())
        moved = sample(model)
        assert not torch.allclose(moved, plain, atol=1e-2)
        assert torch.equal(sample(other), plain)
        assert torch.equal(sample(tiny_model), plain)
        assert torch.equal(sample(model), moved), "the same graph run twice"
        assert torch.equal(sample(model.clone()), moved), "a later node clones the MODEL"
        assert_untouched(tiny_model.model.diffusion_model, before)

    @pytest.mark.parametrize("generation", ["v1", "v3"])
    def test_cond_batching_does_not_matter(self, tiny_model, motion_module, generation):
        """cond and uncond in one call or in two, several conds at once: the same animation."""
        model = apply(tiny_model, motion_module(generation))
        together = sample(model)
        alone = model.clone()
        alone.model_options["sampler_calc_cond_batch_function"] = lambda args: [
            comfy.samplers.calc_cond_batch(
                args["model"], [c], args["input"], args["sigma"], {**args["model_options"]}
            )[0]
            for c in args["conds"]
        ]
        # The function must not call itself through the options it is given.
        inner = alone.model_options["sampler_calc_cond_batch_function"]

        def apart(args):
            options = {
                k: v for k, v in args["model_options"].items() if k != "sampler_calc_cond_batch_function"
            }
            return inner({**args, "model_options": options})

        alone.model_options["sampler_calc_cond_batch_function"] = apart
        assert torch.allclose(sample(alone), together, atol=1e-3)

    def test_cfg_one_is_the_positive_alone(self, tiny_model, motion_module):
        model = apply(tiny_model, motion_module())
        assert torch.equal(sample(model, cfg=1.0), sample(model, cfg=1.0, negative=cond(9)))

    def test_several_conds_areas_and_masks(self, tiny_model, motion_module, before):
        model = apply(tiny_model, motion_module("v1"))
        area = {"area": (4, 8, 0, 0), "strength": 1.0, "set_area_to_bounds": False}
        small = {"area": (4, 4, 4, 4), "strength": 0.7}
        mask = torch.zeros(1, 8, 8)
        mask[:, :, 4:] = 1
        positive = cond(1) + cond(3, **area) + cond(4, **small) + cond(5, mask=mask, mask_strength=1.0)
        out = sample(model, positive=positive)
        assert out.isfinite().all()
        assert not torch.allclose(out, sample(model), atol=1e-3)
        assert_untouched(tiny_model.model.diffusion_model, before)

    def test_inpainting_mask_and_image_to_image(self, tiny_model, motion_module):
        model = apply(tiny_model, motion_module())
        mask = torch.zeros(1, 1, 8, 8)
        mask[..., :4] = 1
        assert sample(model, denoise=0.5, noise_mask=mask).isfinite().all()

    def test_two_motion_modules_in_order(self, tiny_model, motion_module):
        first, second = motion_module(seed=1), motion_module(seed=2)
        one = sample(apply(apply(tiny_model, first), second))
        other = sample(apply(apply(tiny_model, second), first))
        assert not torch.allclose(one, other, atol=1e-3)
        assert not torch.allclose(one, sample(apply(tiny_model, first)), atol=1e-3)

    def test_the_same_module_twice_has_its_own_copy(self, tiny_model, motion_module, before):
        module = motion_module()
        once = apply(tiny_model, module)
        twice = apply(once, module)
        models = twice.get_additional_models_with_key(KEY)
        assert models[0].model is not models[1].model
        thrice = apply(twice, module)
        assert len({id(m.model) for m in thrice.get_additional_models_with_key(KEY)}) == 3
        assert not torch.allclose(sample(twice), sample(once), atol=1e-3)
        assert_untouched(tiny_model.model.diffusion_model, before)

    def test_one_module_on_two_models(self, tiny_checkpoint, tiny_model, motion_module):
        import comfy.sd

        module = motion_module()
        other = comfy.sd.load_checkpoint_guess_config(
            str(tiny_checkpoint), output_vae=False, output_clip=False
        )[0]
        a, b = apply(tiny_model, module), apply(other, module)
        assert torch.equal(sample(a), sample(b))
        assert torch.equal(sample(a), sample(b))

    def test_cancel_at_each_step_leaves_the_model_clean(self, tiny_model, motion_module, before):
        model = apply(tiny_model, motion_module("v1"))
        wanted = sample(model, steps=3)
        for at in range(3):

            def cancel(step, *_, at=at):
                if step == at:
                    comfy.model_management.interrupt_current_processing()

            # The last step's cancel is asked for by nobody in the run: it must not hit the next one.
            with contextlib.suppress(comfy.model_management.InterruptProcessingException):
                sample(model, steps=3, callback=cancel)
            comfy.model_management.interrupt_current_processing(False)
            assert_untouched(tiny_model.model.diffusion_model, before)
            assert torch.equal(sample(model, steps=3), wanted)


class TestSettings:
    def test_effect_zero_is_the_plain_model(self, tiny_model, motion_module):
        model = apply(tiny_model, motion_module("v1"), effect=0.0)
        assert torch.equal(sample(model), sample(tiny_model))

    def test_effect_zero_with_a_schedule_asked_for_sets_it(self, tiny_model, motion_module):
        model = apply(tiny_model, motion_module(), effect=0.0, beta_schedule="sqrt_linear")
        assert float(model.get_model_object("model_sampling").sigma_max) == pytest.approx(25.15, abs=0.01)

    def test_scale_and_effect_reach_the_modules(self, tiny_model, motion_module):
        module = motion_module()
        outs = [
            sample(apply(tiny_model, module, **options))
            for options in ({}, {"scale": 1.5}, {"scale": 0.0}, {"effect": 0.5})
        ]
        for i, a in enumerate(outs):
            for b in outs[:i]:
                assert not torch.allclose(a, b, atol=1e-4)

    @pytest.mark.parametrize(("start", "end"), [(0.0, 0.5), (0.5, 1.0), (0.3, 0.6)])
    def test_percents_choose_the_steps(self, tiny_model, motion_module, start, end):
        module = motion_module()
        model = apply(tiny_model, module, start_percent=start, end_percent=end)
        name, seen, steps = "down_blocks.0.motion_modules.0", [], []
        handle = module.patcher.model.get_submodule(name).register_forward_pre_hook(lambda *_: seen.append(1))

        def count(apply_model, args):
            known = len(seen)
            out = apply_model(args["input"], args["timestep"], **args["c"])
            steps.append((float(args["timestep"][0]), len(seen) > known))
            return out

        model.set_model_unet_function_wrapper(count)
        sample(model, steps=8)
        handle.remove()
        sampling = model.get_model_object("model_sampling")
        first, last = sampling.percent_to_sigma(start), sampling.percent_to_sigma(end)
        assert [active for _, active in steps] == [last <= sigma <= first for sigma, _ in steps]
        assert {active for _, active in steps} == {True, False}

    def test_percents_the_wrong_way_round(self, tiny_model, motion_module):
        with pytest.raises(ValueError, match=r"0\.7.*0\.2"):
            apply(tiny_model, motion_module(), start_percent=0.7, end_percent=0.2)

    @pytest.mark.parametrize(
        ("setting", "value"), [("effect", -1.0), ("effect", 30.0), ("scale", 20.0), ("end_percent", 1.5)]
    )
    def test_numbers_of_links_have_a_range_too(self, tiny_model, motion_module, setting, value):
        with pytest.raises(ValueError, match=rf"{setting} is a number from 0 to 10?, got {value:g}"):
            ApplyMotionModule.execute(tiny_model, motion_module(), **{setting: value})

    def test_the_users_attention_serves(self, tiny_model, motion_module):
        """A node that sets ComfyUI's attention override is heard, in the temporal layers too."""
        from comfy.ldm.modules.attention import attention_basic

        model = apply(tiny_model, motion_module(), scale=1.3)
        plain, lengths = sample(model), []

        def override(_, *args, **kwargs):
            if kwargs.get("skip_reshape"):
                lengths.append(args[0].shape[2])
            return attention_basic(*args, **kwargs)

        other = model.clone()
        other.model_options["transformer_options"]["optimized_attention_override"] = override
        assert torch.allclose(sample(other), plain, atol=1e-3)
        assert set(lengths) == {FRAMES}


class TestRefusals:
    def test_one_frame(self, tiny_model, motion_module):
        with pytest.raises(ValueError, match=r"single frame.*number of frames"):
            sample(apply(tiny_model, motion_module()), frames=1)

    def test_more_frames_than_positions(self, tiny_model, motion_module, before):
        module = motion_module(pe_length=8, name="short.safetensors")
        assert sample(apply(tiny_model, module), frames=8, cfg=1.0).isfinite().all()
        with pytest.raises(ValueError, match=r"9 frames.*8.*Context Windows"):
            sample(apply(tiny_model, module), frames=9, cfg=1.0)
        assert_untouched(tiny_model.model.diffusion_model, before)

    def test_a_batch_that_another_node_changed(self, tiny_model, motion_module):
        model = apply(tiny_model, motion_module())

        def rebatch(apply_model, args):
            return apply_model(args["input"][:5], args["timestep"][:5], **args["c"])

        model.set_model_unet_function_wrapper(rebatch)
        with pytest.raises(ValueError, match=r"batch of 5 for 2 conds"):
            sample(model)

    @pytest.mark.parametrize("place", ["attachment", "additional model", "wrapper", "injection"])
    def test_animatediff_evolved_on_the_same_model(self, tiny_model, motion_module, place):
        from comfy.patcher_extension import WrappersMP

        module, model = motion_module(), tiny_model.clone()
        theirs = {
            "attachment": lambda m: m.set_attachments("ADE", object()),
            "additional model": lambda m: m.set_additional_models("ADE_motion", [module.patcher.clone()]),
            "wrapper": lambda m: m.add_wrapper_with_key(
                WrappersMP.OUTER_SAMPLE, "ADE", lambda ex, *a: ex(*a)
            ),
            "injection": lambda m: m.set_injections("ADE_motion", []),
        }[place]
        theirs(model)
        with pytest.raises(ValueError, match="AnimateDiff-Evolved is already on this MODEL"):
            apply(model, module)

    def test_animatediff_evolved_put_on_afterwards(self, tiny_model, motion_module):
        model = apply(tiny_model, motion_module())
        model.set_attachments("ADE", object())
        with pytest.raises(ValueError, match="AnimateDiff-Evolved"):
            sample(model)

    def test_a_module_for_another_width(self, tiny_model, model_folders):
        from animatediff_flipbook.motion_core.files.checkpoint import save_motion_module

        save_motion_module(
            model_folders["animatediff_models"] / "other.safetensors", motion_for(small_unet())
        )
        module = LoadMotionModule.execute(motion_module="other.safetensors")[0]
        with pytest.raises(ValueError, match=r"other\.safetensors does not fit"):
            apply(tiny_model, module)

    def test_an_object_of_another_pack(self, tiny_model):
        with pytest.raises(ValueError, match="FlipbookLoadMotionModule"):
            apply(tiny_model, {"model": "theirs"})

    def test_a_missing_file_names_the_folders(self, model_folders):
        with pytest.raises(FileNotFoundError, match=r"gone\.ckpt.*animatediff_models"):
            LoadMotionModule.execute(motion_module="gone.ckpt")


OWN_SIGMA_MAX = 65.93
"""Where the tiny family's own noise schedule ends."""


class TestSchedule:
    @pytest.mark.parametrize(
        ("generation", "sigma_max"),
        [
            ("v1", 25.15),
            ("v2", 25.15),
            ("v3", 25.15),
            ("animatelcm", 14.61),
            ("hotshotxl", 14.61),
            ("sdxl", 65.93),
        ],
    )
    def test_auto(self, tiny_model, motion_module, generation, sigma_max):
        model = apply(tiny_model, motion_module(generation))
        assert float(model.get_model_object("model_sampling").sigma_max) == pytest.approx(sigma_max, rel=1e-3)
        own = tiny_model.get_model_object("model_sampling")
        assert float(own.sigma_max) == pytest.approx(OWN_SIGMA_MAX, rel=1e-3)

    @pytest.mark.parametrize(
        ("choice", "sigma_max"),
        [("sqrt_linear", 25.15), ("linear", 14.61), ("linear_sdxl", 65.93), ("keep", OWN_SIGMA_MAX)],
    )
    def test_choices(self, tiny_model, motion_module, choice, sigma_max):
        model = apply(tiny_model, motion_module(), beta_schedule=choice)
        assert float(model.get_model_object("model_sampling").sigma_max) == pytest.approx(sigma_max, rel=1e-3)

    @pytest.mark.parametrize("kind", ["v_prediction", "lcm", "x0", "eps"])
    def test_prediction_of_a_node_in_front_is_kept(self, tiny_model, motion_module, kind):
        patched = advanced.ModelSamplingDiscrete().patch(tiny_model, kind, False)[0]
        old = patched.get_model_object("model_sampling")
        new = apply(patched, motion_module()).get_model_object("model_sampling")
        assert type(new).__mro__[1:] == type(old).__mro__[1:]
        assert new.sigmas.shape == old.sigmas.shape
        assert not torch.equal(new.sigmas, old.sigmas)
        x, sigma = torch.randn(2, 4, 2, 2), torch.tensor([2.0])
        assert torch.equal(new.calculate_denoised(sigma, x, x), old.calculate_denoised(sigma, x, x))

    def test_zero_terminal_snr_is_kept(self, tiny_model, motion_module):
        patched = advanced.ModelSamplingDiscrete().patch(tiny_model, "v_prediction", True)[0]
        new = apply(patched, motion_module()).get_model_object("model_sampling")
        assert float(new.sigma_max) > 1000

    def test_sampling_without_betas(self, tiny_model, motion_module):
        patched = advanced.ModelSamplingContinuousEDM().patch(tiny_model, "v_prediction", 120.0, 0.002)[0]
        kept = apply(patched, motion_module()).get_model_object("model_sampling")
        assert kept is patched.get_model_object("model_sampling")
        with pytest.raises(ValueError, match="no betas"):
            apply(patched, motion_module(), beta_schedule="linear")

    def test_unknown_choice(self, tiny_model, motion_module):
        with pytest.raises(ValueError, match="sqrt_linear"):
            apply(tiny_model, motion_module(), beta_schedule="karras")


class TestTypes:
    @pytest.mark.parametrize("file", [torch.float16, torch.bfloat16, torch.float32])
    @pytest.mark.parametrize(
        ("dtype", "cast"),
        [
            (torch.float32, None),
            (torch.float16, None),
            (torch.bfloat16, None),
            (torch.float16, torch.float32),
            (torch.float8_e4m3fn, torch.float32),
            (torch.float8_e4m3fn, torch.bfloat16),
        ],
        ids=["fp32", "fp16", "bf16", "fp16 as fp32", "fp8 as fp32", "fp8 as bf16"],
    )
    def test_any_base_with_any_file(self, model_folders, dtype, cast, file):
        from animatediff_flipbook.motion_core.files.checkpoint import save_motion_module

        base = as_patcher(golden_config(), golden_weights(), dtype, cast)
        motion = motion_for(small_unet(), "v1", fused_qkv=False)
        save_motion_module(model_folders["animatediff_models"] / "mm.safetensors", motion, dtype=file)
        model = apply(
            bare(base), LoadMotionModule.execute(motion_module="mm.safetensors")[0], beta_schedule="keep"
        )
        x, context = torch.randn(FRAMES, 4, 8, 8), torch.randn(1, 3, 32)
        got = call_model(model, x, 300.0, context)
        unet = base.model.diffusion_model
        exact = small_unet()
        exact.load_state_dict({k: v.float() for k, v in unet.state_dict().items()})
        with torch.inference_mode(), inserted(exact, [(motion, MotionCall(frames=FRAMES))]):
            wanted = exact(x, torch.full((FRAMES,), 300.0), context=context.expand(FRAMES, -1, -1))
        assert (got - wanted).norm() / wanted.norm() < 3e-2
