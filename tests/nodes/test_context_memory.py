"""Memory of windowed sampling: one window's work, and a few latents per frame of the clip."""

import comfy.sample
import comfy.sd
import pytest
import torch
from animatediff_flipbook.nodes.context import ContextWindows
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakMemory(TorchDispatchMode):
    """The most bytes that tensors made inside it held at one time."""

    def __init__(self):
        super().__init__()
        self.made = []
        self.held = 0
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.is_view:
            return out
        given = {
            tensor.untyped_storage()._cdata for tensor in tree_leaves((args, kwargs)) if is_tensor(tensor)
        }
        for tensor in filter(is_tensor, tree_leaves(out)):
            storage = tensor.untyped_storage()
            if storage._cdata not in given:
                self.made.append((StorageWeakRef(storage), storage.nbytes()))
                self.held += storage.nbytes()
        # Only a new height is worth the look at what is gone by now.
        if self.held > self.peak:
            self.made = [entry for entry in self.made if not entry[0].expired()]
            self.held = sum(size for _, size in self.made)
            self.peak = max(self.peak, self.held)
        return out


def is_tensor(value):
    return isinstance(value, torch.Tensor)


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
