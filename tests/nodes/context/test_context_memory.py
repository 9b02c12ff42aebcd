"""Memory of windowed sampling: one window's work, and a few latents per frame of the clip."""

import comfy.sample
import comfy.sd
import pytest
import torch
from animatediff_flipbook.nodes.context.context import ContextSampler, ContextWindows
from animatediff_flipbook.nodes.context.euler import EULER_NAMES
from animatediff_flipbook.tests.support_memory import PeakMemory


@pytest.fixture(scope="module")
def base(tiny_checkpoint):
    """``(model, clip)`` of the tiny family with random weights."""
    return comfy.sd.load_checkpoint_guess_config(str(tiny_checkpoint), output_vae=False)[:2]


@pytest.fixture(scope="module")
def conds(base):
    """``[positive, negative]``."""
    clip = base[1]
    return [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a red circle", "")]


@pytest.fixture(scope="module")
def windowed(base, conds):
    """The model with context windows, loaded, as loading is not the matter here."""
    model = ContextWindows.execute(base[0], length=16, overlap=4).args[0]
    peak(ksampler, model, conds, 17)
    return model


def ksampler(model, conds, latent):
    noise = comfy.sample.prepare_noise(latent, 1)
    comfy.sample.sample(model, noise, 2, 3.0, "euler", "normal", *conds, latent, seed=1)


def context_sampler(name):
    def run(model, conds, latent):
        ContextSampler.execute(
            model, 1, 2, 3.0, name, "normal", *conds, {"samples": latent}, length=16, overlap=4
        )

    return run


def peak(run, model, conds, frames):
    """Peak bytes of two sampling steps of a clip of 8 x 8 latents, which count too."""
    with torch.inference_mode(), PeakMemory() as memory:
        run(model, conds, torch.zeros(frames, 4, 8, 8))
    return memory.peak


def growth(run, model, conds):
    """How much the peak grows from 32 to 64 frames, in latents of the 32 frames more."""
    more = peak(run, model, conds, 64) - peak(run, model, conds, 32)
    return more / ((64 - 32) * 4 * 8 * 8 * 4)


@pytest.mark.parametrize("name", EULER_NAMES)
def test_sampler_node_holds_three_latents(base, windowed, conds, name):
    """The latents given, the state, and one prediction. No activation, no window, no table."""
    found = growth(context_sampler(name), base[0], conds)
    print(f"memory grows by {found:.2f} latents")
    assert found <= 3.05


def test_memory_grows_by_the_clips_latents_only(base, windowed, conds):
    """KSampler: what it keeps of the clip (given, noise, start, state, prediction and direction), and one
    prediction per prompt."""
    found = growth(ksampler, windowed, conds)
    print(f"memory grows by {found:.2f} latents")
    assert found <= 8.05
    # Without windows the model's activations grow too: the measure sees what it is to see.
    more = peak(ksampler, base[0], conds, 32) - peak(ksampler, base[0], conds, 24)
    assert more > 20 * (32 - 24) * 4 * 8 * 8 * 4
