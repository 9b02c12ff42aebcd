"""What length costs with context windows: time per window and memory per frame, tiny family on the CPU.

    python tests/benchmarks/context_windows.py [--frames 32 256] [--steps 4] [--repeats 2]

- *time*: processor seconds of a long clip over those of its windows, each as long as a clip of 16 frames
  without windows. 1 means that cutting and fusing cost nothing beside the model.
- *memory*: how much the peak grows from the shorter to the longer clip, over what its latents grow by; the
  empty latents that a sampler is given count as one. Once with the Context Sampler, once with KSampler and
  Context Windows, and once with KSampler and a handler that only answers with zeros, whose peak is not at the
  model but in the guidance: what ComfyUI's sampler takes of the whole clip by itself.

Memory is counted in tensors, not in what the process holds.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import conftest  # noqa: F401  # puts ComfyUI and the pack in place

# isort: split
import comfy.sample
import comfy.sd
from animatediff_flipbook import nodes
from animatediff_flipbook.demo.tiny_family import model as family
from animatediff_flipbook.motion_core.clips.context import ContextOptions, context_windows
from comfy.context_windows import ContextHandlerABC
from comfy.model_patcher import ModelPatcher
from support_memory import PeakMemory

LENGTH, OVERLAP, SIZE, CFG = 16, 4, 16, 3.0
MODELS = Path(__file__).resolve().parents[2] / "demo" / "models"


def load() -> tuple[ModelPatcher, list]:
    """The tiny family with its motion module, and its two prompts."""
    import folder_paths

    family.register()
    folder_paths.add_model_folder_path(
        "animatediff_models", str(MODELS / "animatediff_models"), is_default=True
    )
    model, clip, _, _ = comfy.sd.load_checkpoint_guess_config(
        str(MODELS / "checkpoints" / "tiny_ad.safetensors")
    )
    module = nodes.LoadMotionModule.execute(motion_module="tiny_mm.safetensors")[0]
    model = nodes.ApplyMotionModule.execute(model=model, motion_module=module)[0]
    texts = ("a red circle moving left on a striped background", "")
    return model, [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in texts]


def sample(model: ModelPatcher, conds: list, frames: int, steps: int) -> None:
    """One run of ComfyUI's sampler, latents and noise made inside."""
    latent = torch.zeros(frames, 4, SIZE, SIZE)
    noise = comfy.sample.prepare_noise(latent, 1)
    comfy.sample.sample(
        model, noise, steps, CFG, "euler", "normal", *conds, latent, seed=1, disable_pbar=True
    )


def sample_by_node(model: ModelPatcher, conds: list, frames: int, steps: int) -> None:
    """The same run by the Context Sampler."""
    latent = {"samples": torch.zeros(frames, 4, SIZE, SIZE)}
    nodes.ContextSampler.execute(
        *(model, 1, steps, CFG, "euler", "normal", *conds, latent), length=LENGTH, overlap=OVERLAP
    )


class Zeros(ContextHandlerABC):
    """The least that a handler can do: one prediction per prompt, made of nothing."""

    def should_use_context(self, *_: object) -> bool:
        return True

    def get_resized_cond(self, *_: object) -> list:
        return []

    def execute(
        self, calc: object, model: object, conds: list, x_in: torch.Tensor, *_: object
    ) -> list[torch.Tensor]:
        return [torch.zeros_like(x_in) for _ in conds]


def seconds(repeats: int, *arguments: object) -> float:
    """The best of the repeats, processor time."""
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        sample(*arguments)
        best = min(best, time.process_time() - start)
    return best


def growth(run: Callable, model: ModelPatcher, conds: list, short: int, long: int) -> float:
    """Growth of the peak over growth of the latents."""
    peaks = []
    for frames in (short, long):
        with PeakMemory() as memory:
            run(model, conds, frames, 2)
        peaks.append(memory.peak)
    return (peaks[1] - peaks[0]) / ((long - short) * 4 * SIZE * SIZE * 4)


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs=2, default=(32, 256), help="the shorter and longer clip")
    parser.add_argument("--steps", type=int, default=4, help="of the sampler, for the times")
    parser.add_argument("--repeats", type=int, default=2, help="the best of these counts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        model, conds = load()
        windowed = nodes.ContextWindows.execute(model=model, length=LENGTH, overlap=OVERLAP)[0]
        sample(windowed, conds, LENGTH + 1, 1)  # warm up
        one = seconds(options.repeats, model, conds, LENGTH, options.steps)
        print(f"{LENGTH} frames without windows: {one:.2f} s for {options.steps} steps")
        for frames in options.frames:
            count = len(context_windows(ContextOptions(length=LENGTH, overlap=OVERLAP), frames, 0))
            found = seconds(options.repeats, windowed, conds, frames, options.steps)
            print(f"{frames} frames, {count} windows: {found:.2f} s, time {found / (count * one):.3f}")
        nothing = model.clone()
        nothing.model_options["context_handler"] = Zeros()
        short, long = options.frames
        print(f"from {short} to {long} frames memory grows by this many latents:")
        print(f"  Context Sampler             {growth(sample_by_node, model, conds, short, long):.2f}")
        print(f"  KSampler, Context Windows   {growth(sample, windowed, conds, short, long):.2f}")
        print(f"  KSampler, zeros             {growth(sample, nothing, conds, short, long):.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
