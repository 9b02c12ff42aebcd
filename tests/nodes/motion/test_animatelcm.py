"""AnimateLCM as its authors run it: their LoRA and their few steps, through ComfyUI's loader and sampler."""

import json

import comfy.k_diffusion.sampling
import comfy.sample
import comfy.samplers
import comfy.sd
import pytest
import torch
from animatediff_flipbook.motion_core.files.checkpoint import load_motion_module, open_motion_module
from animatediff_flipbook.nodes.compat import new_patcher
from animatediff_flipbook.nodes.motion.apply import ApplyMotionModule
from animatediff_flipbook.nodes.types import LoadedMotionModule
from animatediff_flipbook.tests.support import as_patcher, bare, call_model, relative_error
from animatediff_flipbook.tests.support_families import FP32, golden_file, meta, tensors
from comfy_extras.nodes_custom_sampler import BasicScheduler


@pytest.fixture(scope="module")
def model():
    """The authors' small base with their motion module, as the nodes put them together."""
    config = json.loads(golden_file("animatelcm/unet_config.json").read_text())
    weights = tensors("animatelcm/unet.safetensors")
    base = as_patcher(config, {k.removeprefix("model.diffusion_model."): v for k, v in weights.items()})
    file = open_motion_module(golden_file("animatelcm/motion_module.safetensors"))

    def load():
        return new_patcher(load_motion_module(file, dtype=torch.float32), load)

    loaded = LoadedMotionModule("AnimateLCM", file.config, load(), load)
    return ApplyMotionModule.execute(base, loaded, beta_schedule="sqrt_linear")[0]


@pytest.fixture(scope="module")
def io():
    return tensors("animatelcm/io.safetensors")


def frames(video):
    """``(1, C, F, h, w)`` as a batch."""
    return video[0].movedim(1, 0).contiguous()


@pytest.mark.parametrize("strength", [1.0, 0.8])
def test_its_spatial_lora(model, io, strength):
    lora = tensors("animatelcm/spatial_lora.safetensors")
    patched, _ = comfy.sd.load_lora_for_models(model, None, lora, strength, 0.0)
    y = call_model(bare(patched), frames(io["x"]), io["timestep"], io["context"])
    assert relative_error(y, frames(io[f"y_motion_lora_{strength}"])) <= FP32


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_its_few_steps_are_sampler_lcm_with_scheduler_simple(model, io, steps):
    recipe = meta("animatelcm")["recipe"]
    sigmas = BasicScheduler.execute(model, "simple", steps, 1.0)[0]
    assert sigmas[:-1].tolist() == pytest.approx(recipe["t2v"]["steps"][str(steps)]["sigmas"], rel=1e-5)
    drawn = iter(frames(io[f"sample_{steps}.step_noise.{step}"]) for step in range(steps - 1))
    sampler = comfy.samplers.KSAMPLER(
        comfy.k_diffusion.sampling.sample_lcm, extra_options={"noise_sampler": lambda *_: next(drawn)}
    )
    noise = frames(io[f"sample_{steps}.noise"])
    conds = ([[io[name], {}]] for name in ("context", "context_negative"))
    got = comfy.sample.sample_custom(
        *(model, noise, recipe["samples"][str(steps)]["cfg"], sampler, sigmas, *conds),
        torch.zeros_like(noise),
        seed=0,
        disable_pbar=True,
    )
    # The authors' latents are in the model's scale, ComfyUI's in the VAE's.
    got = model.get_model_object("process_latent_in")(got)
    assert relative_error(got, frames(io[f"sample_{steps}.latent.{steps - 1}"])) <= FP32
