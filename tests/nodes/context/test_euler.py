"""Euler in place against ComfyUI's: equal to the bit, and nobody's tensors harmed."""

import comfy.model_sampling
import comfy.sample
import comfy.samplers
import comfy.sd
import pytest
import torch
from animatediff_flipbook.nodes.context.context import ContextSampler
from animatediff_flipbook.nodes.context.euler import EULER_NAMES, EulerInPlace
from comfy.patcher_extension import WrappersMP

FRAMES = 6


@pytest.fixture(scope="module")
def base(tiny_checkpoint):
    """``(model, positive, negative)`` of the tiny family with random weights."""
    model, clip = comfy.sd.load_checkpoint_guess_config(str(tiny_checkpoint), output_vae=False)[:2]
    return (model, *(clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a red circle", "")))


def latents(seed=None):
    if seed is None:
        return torch.zeros(FRAMES, 4, 4, 4)
    return torch.randn(FRAMES, 4, 4, 4, generator=torch.Generator().manual_seed(seed))


def predicting(model, kind):
    """A clone of the model that takes its network's output for something else."""

    class Sampling(getattr(comfy.model_sampling, kind[0]), getattr(comfy.model_sampling, kind[1])):
        pass

    model = model.clone()
    model.add_object_patch("model_sampling", Sampling(model.model.model_config))
    return model


def run(base, sampler, *, model=None, latent=None, steps=4, denoise=1.0, scheduler="normal", **more):
    own, *conds = base
    model = model or own
    latent = latents() if latent is None else latent
    noise = comfy.sample.prepare_noise(latent, 3)
    sigmas = comfy.samplers.KSampler(model, steps, "cpu", "euler", scheduler, denoise).sigmas
    with torch.inference_mode():
        out = comfy.sample.sample_custom(
            model, noise, 3.0, sampler, sigmas, *conds, latent, seed=3, disable_pbar=True, **more
        )
    return out, noise


CORE = comfy.samplers.sampler_object("euler")


@pytest.mark.parametrize("name", EULER_NAMES)
@pytest.mark.parametrize("scheduler", ["normal", "karras", "simple"])
def test_equals_comfyuis_to_the_bit(base, name, scheduler):
    wanted, given = run(base, comfy.samplers.sampler_object(name), scheduler=scheduler)
    drawn = torch.rand(3)
    got, noise = run(base, EulerInPlace(name), scheduler=scheduler)
    assert torch.equal(got, wanted)
    assert torch.equal(torch.rand(3), drawn), "torch's own generator is where ComfyUI leaves it"
    assert not torch.equal(noise, given), "it works in the noise"


@pytest.mark.parametrize(
    "kind",
    [
        *(("ModelSamplingDiscrete", "EPS"), ("ModelSamplingDiscrete", "V_PREDICTION")),
        *(("ModelSamplingDiscrete", "X0"), ("ModelSamplingDiscreteFlow", "CONST")),
    ],
)
@pytest.mark.parametrize("denoise", [1.0, 0.4])
def test_for_every_kind_of_model_and_pictures_to_start_from(base, kind, denoise):
    options = {"model": predicting(base[0], kind), "latent": latents(8), "denoise": denoise}
    wanted, _ = run(base, CORE, **options)
    got, _ = run(base, EulerInPlace(), **options)
    assert torch.equal(got, wanted) and got.isfinite().all()
    assert torch.equal(options["latent"], latents(8))


def test_reports_every_step_as_comfyuis(base):
    seen = {}
    for sampler in (CORE, EulerInPlace()):
        steps = seen.setdefault(type(sampler), [])
        run(base, sampler, callback=lambda i, x0, x, n, to=steps: to.append((i, x0.clone(), x.clone(), n)))
    wanted, got = seen.values()
    assert [(step, total) for step, _, _, total in got] == [(i, 4) for i in range(4)]
    for (_, x0, x, _), (_, x0_wanted, x_wanted, _) in zip(got, wanted, strict=True):
        assert torch.equal(x0, x0_wanted) and torch.equal(x, x_wanted)


def test_what_others_keep_stays_as_it_is(base):
    """A function after the guidance may keep states and predictions for the next step."""
    model, kept = base[0].clone(), []

    def keep(args):
        kept.extend((args[name], args[name].clone()) for name in ("input", "denoised", "cond_denoised"))
        return args["denoised"]

    model.set_model_sampler_post_cfg_function(keep)
    run(base, EulerInPlace(), model=model)
    assert len(kept) == 12 and all(torch.equal(tensor, copy) for tensor, copy in kept)


@pytest.mark.parametrize("name", EULER_NAMES)
def test_a_mask_has_the_noise_as_it_was(base, name):
    mask = (torch.arange(32 * 32).view(1, 1, 32, 32) % 2).float()
    options = {"noise_mask": mask, "latent": latents(8)}
    core = comfy.samplers.sampler_object(name)
    (wanted, given), (got, noise) = run(base, core, **options), run(base, EulerInPlace(name), **options)
    assert torch.equal(got, wanted) and torch.equal(noise, given)


def test_a_function_that_another_pack_put_in_is_the_one_that_samples(base):
    """By a wrapper around the sampler, which finds the sampler's function where ComfyUI has it."""
    model = base[0].clone()

    def wrap(executor, *args, **kwargs):
        executor.class_obj.sampler_function = lambda model, x, *more, **options: x * 0
        return executor(*args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "test", wrap)
    assert run(base, EulerInPlace(), model=model)[0].count_nonzero() == 0


class Given:
    """NOISE of another pack, which keeps its tensor."""

    seed = 3

    def __init__(self, noise):
        self.noise = noise

    def generate_noise(self, latent):
        return self.noise


def by_node(base, *, latent=None, dtype=torch.float32, mask=None, **more):
    model, *conds = base
    given = {"samples": (latents() if latent is None else latent).to(dtype)}
    if mask is not None:
        given["noise_mask"] = mask
    with torch.inference_mode():
        return ContextSampler.execute(model, 3, 4, 3.0, "euler", "normal", *conds, given, **more).args[0]


def ksampler(base, *, latent=None, dtype=torch.float32, mask=None, **more):
    model, *conds = base
    latent = (latents() if latent is None else latent).to(dtype)
    noise = comfy.sample.prepare_noise(latent, 3)
    with torch.inference_mode():
        return comfy.sample.sample(
            *(model, noise, 4, 3.0, "euler", "normal", *conds, latent), seed=3, noise_mask=mask, **more
        )


@pytest.mark.parametrize(
    "options",
    [
        *({}, {"latent": latents(8), "denoise": 0.5}, {"latent": latents(8), "denoise": 0.0}),
        *({"dtype": torch.float16}, {"dtype": torch.bfloat16}),
        {"latent": latents(8), "mask": (torch.arange(32 * 32).view(1, 1, 32, 32) % 2).float()},
    ],
    ids=["plain", "denoise", "nothing", "fp16", "bf16", "mask"],
)
def test_sampler_node_is_ksampler(base, options):
    """Also where the sampler in place does not go: masks, and latents that ComfyUI turns into fp32."""
    assert torch.equal(by_node(base, **options)["samples"], ksampler(base, **options))


def test_noise_of_others_is_not_overwritten(base):
    noise = comfy.sample.prepare_noise(latents(), 3)
    source = Given(noise.clone())
    assert torch.equal(by_node(base, noise=source)["samples"], ksampler(base))
    assert torch.equal(source.noise, noise)
