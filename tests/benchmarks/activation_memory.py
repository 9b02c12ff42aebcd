"""Memory of motion modules at full size: 16 frames with v3 and SDXL beta, 8 with HotshotXL.

    python tests/benchmarks/activation_memory.py [--families v3 sdxl hotshotxl] [--sizes 128] [--conds 1 2]

Counted: the UNet and the motion module at their real widths in 16 bit, without storage (torch's meta device),
every tensor that a call makes and drops. The result is the most bytes held at one time, the same on any
machine. Attention counts as a fused kernel needs it: its output. Not counted: workspaces of convolutions,
what an allocator leaves unused, latents of the sampler, text encoders and VAE.

With --measure it also runs two frames on the CPU in bfloat16, on SDXL's widths with one transformer where
SDXL has up to ten (the weights shrink, the activations do not), and compares by how much the process's
highest resident memory rises with the count of the same run. Linux; up to 3 GB and some minutes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import conftest  # noqa: F401  # puts ComfyUI and the pack in place
from animatediff_flipbook.motion_core.module.call import MotionCall
from animatediff_flipbook.motion_core.module.config import MotionModuleConfig
from animatediff_flipbook.motion_core.module.injection import inserted
from animatediff_flipbook.motion_core.module.model import MotionModel
from comfy import ops
from comfy.ldm.modules.attention import attention_pytorch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from support_full_size import SD15, SDXL, SDXL_SHALLOW, fill
from support_memory import PeakMemory

FAMILIES = {"v3": (SD15, 16), "sdxl": (SDXL, 16), "hotshotxl": (SDXL, 8)}
"""Generation of the motion module: the UNet's shape, and how many frames."""
GIB = 2**30


def fused(_: Callable, q: torch.Tensor, *rest: object, **options: object) -> torch.Tensor:
    """In place of ComfyUI's attention: what a fused one leaves in memory, an output like the queries."""
    return torch.empty_like(q)


def torchs(_: Callable, *given: object, **options: object) -> torch.Tensor:
    """In place of ComfyUI's attention, which on a CPU is not the fused one."""
    return attention_pytorch(*given, **options)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    """The same for a motion module."""
    return torch.empty_like(q)


def models(shape: dict, generation: str, device: str) -> tuple[UNetModel, MotionModel]:
    """The UNet and a motion module for it, in bfloat16."""
    kinds = {"dtype": torch.bfloat16, "device": device}
    unet = UNetModel(**shape, **kinds, operations=ops.disable_weight_init).eval()
    config = MotionModuleConfig.for_unet(unet, generation)
    motion = MotionModel(config, operations=ops.manual_cast, **kinds).eval()
    if device != "meta":
        fill(unet), fill(motion)
    return unet, motion


def size_of(model: torch.nn.Module) -> int:
    """Bytes of the weights."""
    return sum(value.nbytes for value in model.parameters())


def call_of(
    unet: UNetModel,
    motion: MotionModel | None,
    context_dim: int,
    rows: int,
    frames: int,
    size: int,
    device: str,
) -> Callable[[], torch.Tensor]:
    """One call of the UNet with ``rows`` latents of ``size`` pixels a side."""
    kinds = {"dtype": torch.bfloat16, "device": device}
    x = torch.zeros(rows, 4, size, size, **kinds).normal_()
    y = torch.zeros(rows, SDXL["adm_in_channels"], **kinds) if unet.num_classes else None
    context = torch.zeros(rows, 77, context_dim, **kinds).normal_()
    timesteps = torch.full((rows,), 500.0, device=device)
    options = {"optimized_attention_override": fused if device == "meta" else torchs}
    call = MotionCall(frames, attention=attend if device == "meta" else None)

    def run() -> torch.Tensor:
        with torch.no_grad(), inserted(unet, [] if motion is None else [(motion, call)]):
            return unet(x, timesteps, context=context, y=y, transformer_options=options)

    return run


def counted(run: Callable[[], torch.Tensor]) -> int:
    """The most bytes held at one time by tensors of a run."""
    with PeakMemory() as memory:
        run()
    return memory.peak


def largest_module(motion: MotionModel, rows: int, frames: int, size: int) -> int:
    """The most bytes that a motion module by itself holds at one time."""
    peaks = []
    last = max(int(name.split(".")[1]) for name in motion.config.widths if name.startswith("down_blocks"))
    for name, module in motion.motion_modules():
        side, level = name.split(".")[:2]
        down = 2 ** (int(level) if side == "down_blocks" else last - int(level))
        shape = (rows, motion.config.widths[name], size // down, size // down)
        x = torch.empty(*shape, dtype=torch.bfloat16, device="meta")
        with torch.no_grad():
            peaks.append(counted(partial(module, x, MotionCall(frames, attention=attend))))
    return max(peaks)


def resident(run: Callable[[], torch.Tensor]) -> tuple[int, int]:
    """By how many bytes a run raises the process's highest resident memory above what it held before, and
    what is counted in the same run."""

    def line(name: str) -> int:
        (found,) = [one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith(name)]
        return int(found.split()[1]) * 1024

    Path("/proc/self/clear_refs").write_text("5")  # the highest mark starts anew
    before = line("VmRSS")
    made = counted(run)
    return line("VmHWM") - before, made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=FAMILIES)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128], help="latent heights and widths")
    parser.add_argument("--conds", type=int, nargs="+", default=[1, 2], help="prompts in one call")
    parser.add_argument("--measure", action="store_true")
    options = parser.parse_args()
    for generation in options.families:
        shape, frames = FAMILIES[generation]
        unet, motion = models(shape, generation, "meta")
        print(f"{motion.config.describe()}")
        print(f"  weights: UNet {size_of(unet) / GIB:.2f} GiB, motion module {size_of(motion) / GIB:.2f} GiB")
        for size, conds in product(options.sizes, options.conds):
            call = (conds * frames, frames, size, "meta")
            plain, animated = (
                counted(call_of(unet, one, shape["context_dim"], *call)) for one in (None, motion)
            )
            print(
                f"  {frames} frames, {8 * size} x {8 * size}, {conds} prompt(s) in a call: activations "
                f"{plain / GIB:.2f} GiB, with motion {animated / GIB:.2f} GiB, together with the weights "
                f"{(size_of(unet) + size_of(motion) + animated) / GIB:.2f} GiB; the largest motion module "
                f"alone {largest_module(motion, *call[:3]) / GIB:.2f} GiB"
            )
    if options.measure:
        unet, motion = models(SDXL_SHALLOW, "sdxl", "cpu")
        call_of(unet, motion, SDXL["context_dim"], 2, 2, 8, "cpu")()  # libraries warm up on a small one
        for name, one in (("UNet", None), ("with motion", motion)):
            raised, made = resident(call_of(unet, one, SDXL["context_dim"], 2, 2, options.sizes[0], "cpu"))
            print(
                f"CPU, {name}: resident memory rises by {raised / GIB:.2f} GiB, counted {made / GIB:.2f} GiB"
            )


if __name__ == "__main__":
    main()
