"""Model Noise: every sampler node that draws its own noise starts from the noise that Frame Noise gives."""

import comfy.sample
import comfy.samplers
import pytest
import torch
from animatediff_flipbook.motion_core.clips.frame_noise import NOISE_KINDS
from animatediff_flipbook.nodes.context.context import ContextSampler, ContextWindows
from animatediff_flipbook.nodes.noise.frame_noise import FrameNoiseNode
from animatediff_flipbook.nodes.noise.free_init import FreeInitSampler
from animatediff_flipbook.nodes.noise.model_noise import ModelNoise
from animatediff_flipbook.tests.support import assert_untouched, snapshot
from comfy_extras import nodes_custom_sampler as custom

import nodes as comfy_nodes

FRAMES, SIZE, STEPS, SEED = 10, 4, 2, 12
KIND = {"length": 4, "overlap": 1}


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model


@pytest.fixture(scope="module")
def prompt():
    return [[torch.zeros(1, 6, 64), {}]]


def latent(frames=FRAMES, fill=0.0):
    return {"samples": torch.full((frames, 4, SIZE, SIZE), fill)}


def frame_noise(kind, seed=SEED, frame_seeds="", **more):
    return FrameNoiseNode.execute(kind, seed, frame_seeds=frame_seeds, **{**KIND, **more})[0]


def from_noise(model, prompt, noise, sampler="euler", start=None):
    """The reference: ComfyUI's SamplerCustomAdvanced with a NOISE."""
    guider = custom.CFGGuider.execute(model, prompt, prompt, 1.0)[0]
    sigmas = custom.BasicScheduler.execute(model, "normal", STEPS, 1.0)[0]
    chosen = comfy.samplers.sampler_object(sampler)
    return custom.SamplerCustomAdvanced.execute(noise, guider, chosen, sigmas, start or latent())[0][
        "samples"
    ]


def ksampler(model, prompt, sampler="euler", seed=SEED, start=None):
    return comfy_nodes.KSampler().sample(
        model, seed, STEPS, 1.0, sampler, "normal", prompt, prompt, start or latent()
    )[0]["samples"]


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral"])
@pytest.mark.parametrize("kind", NOISE_KINDS)
def test_ksampler_starts_as_frame_noise_does(model, prompt, kind, sampler):
    noisy = ModelNoise.execute(model, kind, **KIND)[0]
    wanted = from_noise(model, prompt, frame_noise(kind), sampler)
    assert torch.equal(ksampler(noisy, prompt, sampler), wanted)
    assert kind == "independent" or not torch.equal(ksampler(model, prompt, sampler), wanted)


def test_a_frame_s_seed_is_the_one_before_plus_one(model, prompt):
    noisy = ModelNoise.execute(model, "independent", "frame", seed_offset=5)[0]
    got = ksampler(noisy, prompt)
    assert torch.equal(got, from_noise(model, prompt, frame_noise("independent", frame_seeds=str(SEED + 5))))
    alone = ModelNoise.execute(model, "independent", "frame", seed_offset=8)[0]
    torch.testing.assert_close(ksampler(alone, prompt)[0], got[3], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seeding", ["clip", "frame"])
def test_frames_left_out_make_a_long_clip_in_parts(model, prompt, seeding):
    whole = ksampler(ModelNoise.execute(model, "independent", seeding)[0], prompt)
    rest = ModelNoise.execute(model, "independent", seeding, frame_offset=6)[0]
    got = ksampler(rest, prompt, start=latent(FRAMES - 6))
    torch.testing.assert_close(got, whole[6:], atol=1e-3, rtol=1e-3)  # other batch sizes round otherwise


def test_two_passes_of_ksampler_advanced(model, prompt):
    """The second pass adds no noise, and none is put in its place."""
    noisy = ModelNoise.execute(model, "freenoise", **KIND)[0]

    def halves(model):
        advanced = comfy_nodes.KSamplerAdvanced()
        common = (SEED, 4, 1.0, "euler", "normal", prompt, prompt)
        half = advanced.sample(model, "enable", *common, latent(), 0, 2, "enable")[0]
        return advanced.sample(model, "disable", *common, half, 2, 10000, "disable")[0]["samples"]

    whole = comfy_nodes.KSampler().sample(noisy, SEED, 4, 1.0, "euler", "normal", prompt, prompt, latent())
    torch.testing.assert_close(halves(noisy), whole[0]["samples"], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(halves(model), whole[0]["samples"], atol=1e-3)


def test_sampler_custom_and_a_detailer_that_calls_comfy_sample(model, prompt):
    """A detailer samples part of the schedule on pictures under a mask, with noise of its own drawing."""
    noisy = ModelNoise.execute(model, "constant")[0]
    sigmas = custom.BasicScheduler.execute(model, "normal", STEPS, 1.0)[0]
    euler = comfy.samplers.sampler_object("euler")
    got = custom.SamplerCustom.execute(noisy, True, SEED, 1.0, prompt, prompt, euler, sigmas, latent())[0]
    assert torch.equal(got["samples"], from_noise(model, prompt, frame_noise("constant")))

    def detail(model, noise):
        pictures = latent(fill=0.3)["samples"]
        mask = torch.zeros(1, 1, SIZE, SIZE)
        mask[..., 1:] = 1.0
        return comfy.sample.sample(
            *(model, noise, 4, 1.0, "euler", "normal", prompt, prompt, pictures),
            denoise=0.5, noise_mask=mask, seed=SEED, disable_pbar=True,
        )  # fmt: skip

    drawn = comfy.sample.prepare_noise(latent()["samples"], SEED)
    wanted = frame_noise("constant").generate_noise(latent())
    assert torch.equal(detail(noisy, drawn), detail(model, wanted))


@pytest.mark.parametrize("kind", ["mixed", "freenoise"])
def test_sampler_custom_advanced_with_a_random_noise(model, prompt, kind):
    """A NOISE of its own kind is exchanged like what KSampler draws; a whole run and one in two passes."""
    noisy = ModelNoise.execute(model, kind, **KIND)[0]
    drawn = custom.RandomNoise.execute(SEED)[0]
    wanted = from_noise(model, prompt, frame_noise(kind))
    assert torch.equal(from_noise(noisy, prompt, drawn), wanted)
    assert not torch.equal(from_noise(model, prompt, drawn), wanted), "without the node nothing changes"
    guider = custom.CFGGuider.execute(noisy, prompt, prompt, 1.0)[0]
    sigmas, euler = (
        custom.BasicScheduler.execute(noisy, "normal", STEPS, 1.0)[0],
        comfy.samplers.sampler_object("euler"),
    )
    passes = latent()
    for noise, part in ((drawn, sigmas[:2]), (custom.DisableNoise.execute()[0], sigmas[1:])):
        passes = custom.SamplerCustomAdvanced.execute(noise, guider, euler, part, passes)[0]
    torch.testing.assert_close(passes["samples"], wanted, atol=1e-5, rtol=1e-5)


def test_our_samplers_take_it_and_a_connected_noise_comes_first(model, prompt, caplog):
    noisy = ModelNoise.execute(model, "repeated", length=4)[0]
    arguments = (SEED, STEPS, 1.0, "euler", "normal", prompt, prompt, latent())
    wanted = from_noise(model, prompt, frame_noise("repeated"))
    for node, more in ((ContextSampler, {}), (FreeInitSampler, {"iterations": 1})):
        assert torch.equal(node.execute(noisy, *arguments, **more)[0]["samples"], wanted)
    twice = [FreeInitSampler.execute(m, *arguments, iterations=2, noise=n)[0]["samples"]
             for m, n in ((noisy, None), (model, frame_noise("repeated")))]  # fmt: skip
    assert torch.equal(*twice)
    other = frame_noise("constant", seed=4)
    got = ContextSampler.execute(noisy, *arguments, noise=other)[0]["samples"]
    assert torch.equal(got, from_noise(model, prompt, other))
    assert caplog.text.count("Model Noise on this model is not used") == 1


def test_with_context_windows_in_either_order(model, prompt):
    windows = {"length": 4, "overlap": 1}
    one = ModelNoise.execute(ContextWindows.execute(model, **windows)[0], "freenoise", **KIND)[0]
    other = ContextWindows.execute(ModelNoise.execute(model, "freenoise", **KIND)[0], **windows)[0]
    wanted = from_noise(ContextWindows.execute(model, **windows)[0], prompt, frame_noise("freenoise"))
    assert torch.equal(ksampler(one, prompt), wanted)
    assert torch.equal(ksampler(other, prompt), wanted)


def test_again_replaces_and_nothing_stays_behind(model, prompt):
    before = snapshot(model.model)
    plain = ksampler(model, prompt)
    first = ModelNoise.execute(model, "constant")[0]
    second = ModelNoise.execute(first, "independent")[0]
    assert torch.equal(ksampler(second, prompt), plain)
    assert not torch.equal(ksampler(first, prompt), plain)
    assert torch.equal(ksampler(model, prompt), plain)
    assert_untouched(model.model, before)


def test_an_unknown_seeding_is_named(model):
    with pytest.raises(ValueError, match="seeding is clip or frame, got 'gpu'"):
        ModelNoise.execute(model, "constant", "gpu")
