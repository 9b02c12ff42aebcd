"""Model FreeInit: FreeInit with every sampler node, on empty latents and on pictures."""

import comfy.sample
import comfy.samplers
import pytest
import torch
from animatediff_flipbook.nodes.context.context import ContextSampler, ContextWindows
from animatediff_flipbook.nodes.noise.free_init import FreeInitSampler
from animatediff_flipbook.nodes.noise.model_free_init import ModelFreeInit
from animatediff_flipbook.nodes.noise.model_noise import ModelNoise
from animatediff_flipbook.tests.support import assert_untouched, snapshot
from comfy_extras import nodes_custom_sampler as custom

import nodes as comfy_nodes

FRAMES, SIZE, STEPS, SEED = 6, 4, 3, 12
WHOLE = {"filter": "box", "spatial_cutoff": 2.0, "temporal_cutoff": 2.0}
"""A filter that keeps every frequency."""


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model


PROMPT = [[torch.zeros(1, 6, 64), {}]]


def latent(seed=None, frames=FRAMES):
    if seed is None:
        return {"samples": torch.zeros(frames, 4, SIZE, SIZE)}
    return {"samples": torch.randn(frames, 4, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))}


def ksampler(model, start=None, denoise=1.0, sampler="euler", scheduler="normal"):
    return comfy_nodes.KSampler().sample(
        model, SEED, STEPS, 3.0, sampler, scheduler, PROMPT, PROMPT, start or latent(), denoise
    )[0]["samples"]


@pytest.mark.parametrize("scheduler", ["normal", "ddim_uniform"])
@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "dpmpp_2m", "heun"])
def test_ksampler_does_what_the_free_init_sampler_does(model, sampler, scheduler):
    repeated = ModelFreeInit.execute(model, 3, spatial_cutoff=0.5, temporal_cutoff=0.5)[0]
    wanted = FreeInitSampler.execute(
        *(model, SEED, STEPS, 3.0, sampler, scheduler, PROMPT, PROMPT, latent()),
        iterations=3, spatial_cutoff=0.5, temporal_cutoff=0.5,
    )[0]["samples"]  # fmt: skip
    torch.testing.assert_close(
        ksampler(repeated, None, 1.0, sampler, scheduler), wanted, atol=1e-4, rtol=1e-4
    )
    assert not torch.allclose(ksampler(model, None, 1.0, sampler, scheduler), wanted, atol=1e-2)


def test_one_iteration_is_plain_sampling(model):
    assert torch.equal(ksampler(ModelFreeInit.execute(model, 1)[0]), ksampler(model))
    pictures = latent(seed=3)
    assert torch.equal(
        ksampler(ModelFreeInit.execute(model, 1)[0], pictures, 0.6), ksampler(model, pictures, 0.6)
    )


def test_a_filter_that_keeps_all_goes_back_the_way_the_clip_came(model):
    """Then the next start is the clip plus the first noise: what KSampler makes of the clip as its latent."""
    pictures = latent(seed=3)
    twice = ksampler(ModelFreeInit.execute(model, 2, **WHOLE)[0], pictures, denoise=0.5)
    wanted = ksampler(model, {"samples": ksampler(model, pictures, denoise=0.5)}, denoise=0.5)
    torch.testing.assert_close(twice, wanted, atol=1e-4, rtol=1e-4)


def test_the_first_iteration_keeps_the_pictures_slow_part_if_asked(model):
    pictures = latent(seed=3)
    whole = ModelFreeInit.execute(model, 1, **WHOLE, from_pictures=True)[0]
    torch.testing.assert_close(
        ksampler(whole, pictures, 0.5), ksampler(model, pictures, 0.5), atol=1e-4, rtol=1e-4
    )
    part = ModelFreeInit.execute(model, 1, from_pictures=True)[0]
    assert not torch.allclose(ksampler(part, pictures, 0.5), ksampler(model, pictures, 0.5), atol=1e-2)
    assert torch.equal(ksampler(part), ksampler(model))  # an empty latent has nothing to keep


def test_outside_of_a_mask_the_pictures_stay(model):
    mask = torch.zeros(1, SIZE * 8, SIZE * 8)
    mask[..., SIZE * 4 :] = 1.0
    pictures = {**latent(seed=3), "noise_mask": mask}
    got = ksampler(ModelFreeInit.execute(model, 2)[0], pictures)
    torch.testing.assert_close(got[..., : SIZE // 2], pictures["samples"][..., : SIZE // 2])
    assert torch.isfinite(got).all()


def test_with_model_noise_in_either_order_and_with_windows(model):
    windows = ContextWindows.execute(model, length=4, overlap=1)[0]
    one = ModelNoise.execute(ModelFreeInit.execute(windows, 2)[0], "constant")[0]
    other = ModelFreeInit.execute(ModelNoise.execute(windows, "constant")[0], 2)[0]
    assert torch.equal(ksampler(one), ksampler(other))
    from_constant = ModelNoise.execute(windows, "constant")[0]
    wanted = FreeInitSampler.execute(
        *(from_constant, SEED, STEPS, 3.0, "euler", "normal", PROMPT, PROMPT, latent()), iterations=2
    )[0]["samples"]
    torch.testing.assert_close(ksampler(one), wanted, atol=1e-4, rtol=1e-4)


def test_context_sampler_repeats_and_free_init_sampler_does_so_by_itself(model, caplog):
    repeated = ModelFreeInit.execute(model, 2)[0]
    arguments = (SEED, STEPS, 3.0, "euler", "normal", PROMPT, PROMPT, latent())
    got = ContextSampler.execute(repeated, *arguments)[0]["samples"]
    torch.testing.assert_close(got, ksampler(repeated), atol=1e-4, rtol=1e-4)
    assert not caplog.text
    own = FreeInitSampler.execute(repeated, *arguments, iterations=2)[0]["samples"]
    assert torch.equal(own, FreeInitSampler.execute(model, *arguments, iterations=2)[0]["samples"])
    assert caplog.text.count("Model FreeInit on this model is not used") == 1


def test_a_run_that_leaves_noise_is_sampled_once_and_said(model, caplog):
    sigmas = custom.BasicScheduler.execute(model, "normal", STEPS, 1.0)[0]
    euler = comfy.samplers.sampler_object("euler")

    def half(model):
        return custom.SamplerCustom.execute(
            model, True, SEED, 3.0, PROMPT, PROMPT, euler, sigmas[:-1], latent()
        )[0]["samples"]

    assert torch.equal(half(ModelFreeInit.execute(model, 2)[0]), half(model))
    assert caplog.text.count("it is sampled once") == 1


def test_one_bar_for_all_iterations_and_a_cancel_leaves_the_base_as_it_was(model):
    before = snapshot(model.model)
    repeated = ModelFreeInit.execute(model, 3)[0]
    seen = []

    def watch(step, x0, x, total):
        seen.append((step, total))
        if step == 7:
            raise InterruptedError

    noise = torch.randn(FRAMES, 4, SIZE, SIZE)
    with pytest.raises(InterruptedError):
        comfy.samplers.KSampler(repeated, STEPS, "cpu", "euler", "normal").sample(
            noise, PROMPT, PROMPT, 3.0, latent()["samples"], callback=watch, disable_pbar=True, seed=SEED
        )
    assert seen == [(step, 3 * STEPS) for step in range(8)]
    assert_untouched(model.model, before)
    assert torch.equal(ksampler(ModelFreeInit.execute(repeated, 1)[0]), ksampler(model))  # replaced


def test_dinkinit_starts_from_its_own_formula(model):
    """With a filter that keeps all: clip (as the VAE has it) plus sigma times noise, over 1 + sigma^2."""
    twice = ksampler(ModelFreeInit.execute(model, 2, variant="dinkinit", **WHOLE)[0])
    first = comfy.sample.prepare_noise(latent()["samples"], SEED)
    sigma = float(model.get_model_object("model_sampling").sigma_max)
    start = (ksampler(model) + sigma * first) / (1 + sigma**2)
    wanted = comfy.sample.sample(
        *(model, start, STEPS, 3.0, "euler", "normal", PROMPT, PROMPT, latent()["samples"]),
        seed=SEED,
        disable_pbar=True,
    )
    torch.testing.assert_close(twice, wanted, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(twice, ksampler(ModelFreeInit.execute(model, 2, **WHOLE)[0]), atol=1e-2)
