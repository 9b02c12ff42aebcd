"""How much a motion module adds to one UNet step, against the time of its bare matrix products.

    python tests/benchmarks/unet_step.py [--frames 16] [--size 32] [--repeats 3] [--threads N] [--dtype fp32]

Full-size SD1.5 with random weights on the CPU. Two figures, each over the time of the matrix products alone
that a v3 module consists of, with the module's own weights and shapes: linear layers and the two products of
attention, without norms, softmax, GELU, residuals and transpositions.

- *modules*: the time that the UNet call spends in the motion modules. A module's products are timed right
  after it, so both see the machine at the same speed: the figure to trust.
- *difference*: a UNet call with motion less one without. The small difference of two large times: on a shared
  machine it swings by seconds, but it would show a cost outside the modules.

Times are the processor's; of each the best of the repeats counts.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import conftest  # noqa: F401  # puts ComfyUI and the pack in place
from animatediff_flipbook.motion_core.module.injection import inserted
from animatediff_flipbook.motion_core.module.layers import MotionCall, TemporalTransformer
from animatediff_flipbook.motion_core.module.unet import unet_slots
from support_full_size import motion_model, sd15_unet


def seconds(function: Callable[[], object]) -> float:
    """Processor seconds of one run."""
    start = time.process_time()
    function()
    return time.process_time() - start


def bare_products(transformer: TemporalTransformer, pixels: int, frames: int) -> Callable[[], None]:
    """The matrix products of one module for ``pixels`` sequences of ``frames`` tokens."""
    shape, heads = transformer.shape, transformer.num_heads
    dtype = transformer.proj_in.weight.dtype
    tokens = pixels * frames
    x = torch.randn(tokens, shape.channels, dtype=dtype)
    hidden = torch.randn(tokens, shape.ff_inner, dtype=dtype)
    q = torch.randn(pixels * heads, frames, shape.inner // heads, dtype=dtype)
    logits = torch.randn(pixels * heads, frames, frames, dtype=dtype)

    def run() -> None:
        t = F.linear(x, transformer.proj_in.weight)
        for block in transformer.transformer_blocks:
            for attention in block.attention_blocks:
                F.linear(t, attention.to_qkv.weight)
                torch.bmm(q, q.transpose(1, 2))
                torch.bmm(logits, q)
                F.linear(t, attention.to_out[0].weight)
            F.linear(t, block.ff.net[0].proj.weight)
            F.linear(hidden, block.ff.net[2].weight)
        F.linear(t, transformer.proj_out.weight)

    return run


def watch(module: nn.Module, products: Callable[[], None], spent: list[float], bare: list[float]) -> None:
    """Note the processor seconds of every call of a module, and of its products straight after it."""
    began = []
    module.register_forward_pre_hook(lambda *_: began.append(time.process_time()))

    def after(*_: object) -> None:
        spent.append(time.process_time() - began.pop())
        bare.append(seconds(products))

    module.register_forward_hook(after)


def downscale(name: str) -> int:
    """Factor between the latent and the feature at a module of SD1.5."""
    side, level = name.split(".")[:2]
    return 2 ** (int(level) if side == "down_blocks" else 3 - int(level))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=32, help="latent height and width")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[args.dtype]

    unet = sd15_unet(dtype)
    motion = motion_model(unet, dtype)
    call = MotionCall(frames=args.frames)

    names = [slot.name for slot in unet_slots(unet) if slot.name in motion.config.widths]
    spent: dict[str, list[float]] = {name: [] for name in names}
    bare: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        module = motion.get_submodule(name)
        pixels = (args.size // downscale(name)) ** 2
        products = bare_products(module.temporal_transformer, pixels, args.frames)
        watch(module, products, spent[name], bare[name])

    def step(size: int, motions: list) -> float:
        x = torch.randn(args.frames, 4, size, size, dtype=dtype)
        timesteps = torch.full((args.frames,), 500.0)
        context = torch.randn(args.frames, 77, 768, dtype=dtype)
        with inserted(unet, motions):
            return seconds(lambda: unet(x, timesteps, context=context))

    with torch.inference_mode():
        step(8, [(motion, call)])  # libraries warm up on a small one
        for times in (*spent.values(), *bare.values()):
            times.clear()
        plain, animated = [], []
        for _ in range(args.repeats):  # in turn, so that a machine that grows slow does so for both
            plain.append(step(args.size, []))
            with_products = step(args.size, [(motion, call)])
            animated.append(with_products - sum(times[-1] for times in bare.values()))
    modules, least = (sum(map(min, times.values())) for times in (spent, bare))
    added = min(animated) - min(plain)
    print(
        f"SD1.5, {args.frames} frames of {args.size}x{args.size}, {args.dtype}, {args.threads} threads: "
        f"bare products {least:.2f} s, modules {modules:.2f} s, ratio {modules / least:.3f}; "
        f"UNet {min(plain):.2f} s, with motion {min(animated):.2f} s, difference {added:.2f} s, "
        f"ratio {added / least:.3f}"
    )


if __name__ == "__main__":
    main()
