"""One training step of each stage on SD1.5 at full size with random weights: seconds and peak memory.

    python tests/benchmarks/train_step.py                          # all stages, bf16, 8 frames of 16x16
    python tests/benchmarks/train_step.py --stage motion_lora --frames 16 --size 32

Every stage takes as many frames a step: the domain adapter, which learns from single frames, as a batch of
them, the others as one clip. Each case runs in a process of its own. `built` is the memory with model,
weights to train and optimizer in place (its moments appear in the first step), `peak` the highest during two
steps, of which the second is timed; the kernel's record of the highest memory is cleared before them (Linux),
because reading a checkpoint may take more than a step. `for the step` = peak - built - gradients and moments:
what a step's activations take, and what gradient checkpointing saves.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("domain_adapter", "motion_module", "motion_lora")


def enter() -> Path:
    """ComfyUI and the pack importable, as in the tests."""
    folder = Path(os.environ.get("COMFYUI_PATH") or ROOT / ".flipbook" / "comfyui-0.3.75")
    sys.path[:] = [str(folder), *(p for p in sys.path if Path(p or ".").resolve() != ROOT)]
    sys.path.append(str(ROOT / "tests"))
    import utils.extra_config  # noqa: F401
    from comfy.cli_args import args

    args.cpu = True
    spec = importlib.util.spec_from_file_location(
        "animatediff_flipbook", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    sys.modules["animatediff_flipbook"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return folder


def write_checkpoint(path: Path) -> None:
    """SD1.5's UNet with random weights in bf16, under the names of a checkpoint (1.7 GB)."""
    enter()
    import torch
    from safetensors.torch import save_file
    from support_full_size import sd15_unet

    unet = sd15_unet(torch.bfloat16)
    save_file({f"model.diffusion_model.{name}": tensor for name, tensor in unet.state_dict().items()}, path)


def resident() -> int:
    """Memory of this process now, bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def forget_peak() -> None:
    """Let the record of the highest memory begin anew at the memory of now; Linux only."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """Highest memory of this process since then, bytes."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Build one stage, take two steps, time the second."""
    folder = enter()
    import torch
    from animatediff_flipbook.motion_core.files.checkpoint import save_motion_module
    from animatediff_flipbook.motion_core.module.config import MotionModuleConfig
    from animatediff_flipbook.motion_core.module.model import MotionModel
    from animatediff_flipbook.motion_core.module.unet import unet_slots
    from animatediff_flipbook.motion_core.schedule.beta_schedules import SQRT_LINEAR
    from animatediff_flipbook.training import randomness
    from animatediff_flipbook.training.config import from_dict
    from animatediff_flipbook.training.model.base_model import BaseModel, autocast
    from animatediff_flipbook.training.model.denoiser import build, trained_tensors
    from animatediff_flipbook.training.run.objective import Objective
    from animatediff_flipbook.training.run.optimizing import make_optimizer

    tree = {
        "stage": options.stage,
        "name": "benchmark",
        "output": ".",
        "base": {"checkpoint": str(options.checkpoint), "comfyui": str(folder), "device": "cpu"},
        "data": {"sources": [{"path": "."}], "frames": options.frames},
        "lora": {"rank": 128 if options.stage == "domain_adapter" else 64},
        "train": {"precision": options.precision, "gradient_checkpointing": options.recompute},
    }
    device = torch.device("cpu")
    base = BaseModel(
        from_dict({**tree, "stage": "motion_module"}).base, device, options.precision, encoders=False
    )
    if options.stage == "motion_lora":
        file = options.checkpoint.with_name("motion.safetensors")
        if not file.exists():
            slots = [(slot.name, slot.channels) for slot in unet_slots(base.unet)]
            fresh = MotionModel(MotionModuleConfig.for_slots(slots), dtype=torch.bfloat16, fused_qkv=False)
            save_motion_module(file, fresh)
        tree["motion"] = {"file": str(file)}
    config = from_dict(tree)
    denoiser = build(config, base)
    weights = trained_tensors(denoiser)
    optimizer = make_optimizer(denoiser.trained, config.optimizer)
    objective = Objective(config.objective, SQRT_LINEAR, "eps")
    clips = options.frames // config.frames
    latents = randomness.gaussian((clips, config.frames, 4, options.size, options.size), "latents")
    context = randomness.gaussian((clips, 77, 768), "context")
    built = resident()
    forget_peak()
    seconds = []
    for step in range(2):
        began = time.monotonic()
        noised = objective.noised(latents, [(0, clip, step) for clip in range(clips)])
        with denoiser.attached(config.frames):
            with autocast(device, options.precision):
                prediction = denoiser(noised.latents, noised.timesteps, context)
            objective.losses(prediction, noised).mean().backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.monotonic() - began)
    values = sum(weight.numel() for weight in weights.values())
    peak = peak_memory()
    return {
        "million_values": values / 1e6,
        "seconds": seconds[-1],
        "built_gib": built / 2**30,
        "peak_gib": peak / 2**30,
        # Gradients and Adam's two moments, fp32.
        "step_gib": (peak - built - 12 * values) / 2**30,
    }


def main() -> int:
    """Measure the asked cases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stage", choices=STAGES)
    parser.add_argument("--frames", type=int, default=8, help="frames a step")
    parser.add_argument("--size", type=int, default=16, help="latent height and width")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--checkpoint", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--recompute", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.checkpoint:
        print(json.dumps(measure(options)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "sd15.safetensors"
        write = (
            f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import train_step, pathlib; "
        )
        subprocess.run(
            [
                sys.executable,
                "-P",
                "-c",
                f"{write}train_step.write_checkpoint(pathlib.Path({str(checkpoint)!r}))",
            ],
            check=True,
        )
        print(
            f"SD1.5, {options.frames} frames of {options.size}x{options.size} latents, "
            f"{options.precision}, AdamW"
        )
        print("stage           checkpointing  values/M  seconds  built GiB  peak GiB  for the step GiB")
        for stage in [options.stage] if options.stage else STAGES:
            steps = []
            for recompute in (False, True):
                command = [sys.executable, "-P", __file__, "--checkpoint", str(checkpoint), "--stage", stage]
                command += [f"--frames={options.frames}", f"--size={options.size}"]
                command += [f"--precision={options.precision}", *(["--recompute"] if recompute else [])]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                found = json.loads(done.stdout.splitlines()[-1])
                steps.append(found["step_gib"])
                print(
                    f"{stage:<15} {'on' if recompute else 'off':<13} {found['million_values']:>9.1f} "
                    f"{found['seconds']:>8.1f} {found['built_gib']:>10.2f} {found['peak_gib']:>9.2f} "
                    f"{found['step_gib']:>17.2f}",
                    flush=True,
                )
            print(f"{stage:<15} memory for the step, on / off: {steps[1] / steps[0]:.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
