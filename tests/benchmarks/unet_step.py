"""How much a motion module adds to one UNet step, against the time of its bare matrix products.

    python tests/benchmarks/unet_step.py [--frames 16] [--size 32] [--repeats 3] [--threads N] [--dtype fp32]

Full-size SD1.5 with random weights on the CPU. Prints the time of a UNet call without and with a v3 motion
module, and of the matrix products alone that the module consists of, with the module's own weights and
shapes: linear layers and the two products of attention, without norms, softmax, GELU, residuals and
transpositions. A machine that does other work spoils wall time, so the time reported is the processor's, best
of the repeats.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import conftest  # noqa: F401  # puts ComfyUI and the pack in place
from animatediff_flipbook.motion_core.injection import inserted
from animatediff_flipbook.motion_core.layers import MotionCall, TemporalTransformer
from animatediff_flipbook.motion_core.unet import unet_slots
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

    def step(size: int, motions: list) -> Callable[[], None]:
        x = torch.randn(args.frames, 4, size, size, dtype=dtype)
        timesteps = torch.full((args.frames,), 500.0)
        context = torch.randn(args.frames, 77, 768, dtype=dtype)

        def run() -> None:
            with inserted(unet, motions):
                unet(x, timesteps, context=context)

        return run

    without_motion, with_motion = step(args.size, []), step(args.size, [(motion, call)])
    products = []
    for slot in unet_slots(unet):
        if slot.name in motion.config.widths:
            pixels = (args.size // downscale(slot.name)) ** 2
            transformer = motion.get_submodule(slot.name).temporal_transformer
            products.append(bare_products(transformer, pixels, args.frames))

    with torch.inference_mode():
        step(8, [(motion, call)])()  # libraries warm up on a small one
        runs = [
            (seconds(without_motion), seconds(with_motion), [seconds(product) for product in products])
            for _ in range(args.repeats)
        ]
    # In turn, so that a machine that grows slow or fast does so for all of them; the fastest of each counts.
    plain = min(run[0] for run in runs)
    animated = min(run[1] for run in runs)
    bare = sum(min(times) for times in zip(*(run[2] for run in runs), strict=True))
    added = animated - plain
    print(
        f"SD1.5, {args.frames} frames of {args.size}x{args.size}, {args.dtype}, {args.threads} threads: "
        f"UNet {plain:.2f} s, with motion {animated:.2f} s, added {added:.2f} s, "
        f"bare products {bare:.2f} s, ratio {added / bare:.3f}"
    )


if __name__ == "__main__":
    main()
