"""Memory of windowed sampling: one window's work, and a few latents per frame of the clip."""

import comfy.sample
import comfy.sd
import pytest
import torch
from animatediff_flipbook.nodes.context import ContextWindows
from animatediff_flipbook.tests.support_memory import PeakMemory


@pytest.fixture(scope="module")
def base(tiny_checkpoint):
    """``(model, clip)`` of the tiny family with random weights."""
    return comfy.sd.load_checkpoint_guess_config(str(tiny_checkpoint), output_vae=False)[:2]


def peak(model, conds, frames):
    """Peak bytes of two sampling steps of a clip of 8 x 8 latents."""
    with torch.inference_mode(), PeakMemory() as memory:
        latent = torch.zeros(frames, 4, 8, 8)
        noise = comfy.sample.prepare_noise(latent, 1)
        comfy.sample.sample(model, noise, 2, 3.0, "euler", "normal", *conds, latent, seed=1)
    return memory.peak


def test_memory_grows_by_the_clips_latents_only(base):
    """From 32 to 64 frames: what ComfyUI's sampler itself keeps of the clip (noise, start, current and last
    state, last prediction), and one prediction per prompt. No activation, no window, no table."""
    model, clip = base
    conds = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a red circle", "")]
    windowed = ContextWindows.execute(model, length=16, overlap=4).args[0]
    peak(windowed, conds, 17)  # loads the model, which is not the matter here
    short, long = peak(windowed, conds, 32), peak(windowed, conds, 64)
    latents = (64 - 32) * 4 * 8 * 8 * 4
    print(f"peak memory from {short / 2**20:.2f} to {long / 2**20:.2f} MiB: {(long - short) / latents:.2f} x")
    assert (long - short) / latents <= 9.0
    # Without windows the model's activations grow too: the measure sees what it is to see.
    assert peak(model, conds, 32) - peak(model, conds, 24) > 20 * (32 - 24) * 4 * 8 * 8 * 4
