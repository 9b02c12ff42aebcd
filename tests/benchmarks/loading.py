"""Memory and time of loading a full-size motion module and of applying a full-size MotionLoRA (Linux).

    python tests/benchmarks/loading.py [--rank 64]

Writes a v3 motion module (fp16) and a MotionLoRA (fp32) with random weights to a temporary folder, then loads
and applies them through the nodes. Memory is the growth of the process's resident set at its peak, mapped
file pages included, so nothing is hidden in the page cache.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import conftest  # noqa: F401  # puts ComfyUI and the pack in place
import folder_paths
from animatediff_flipbook.motion_core.files.checkpoint import save_motion_module
from animatediff_flipbook.motion_core.files.lora import lora_targets, save_motion_lora
from animatediff_flipbook.nodes.motion.load import LoadMotionLora, LoadMotionModule
from animatediff_flipbook.nodes.motion.motion_lora import patch_motion_lora
from animatediff_flipbook.nodes.paths import MOTION_LORAS, MOTION_MODULES, register_folders
from support_full_size import motion_model, sd15_unet


def status(field: str) -> int:
    """A memory figure of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}; this benchmark needs Linux.")


def measured(function: Callable[[], object]) -> tuple[object, float, int]:
    """Result, processor seconds, and bytes by which resident memory grew at its peak."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    before, start = status("VmRSS"), time.process_time()
    result = function()
    return result, time.process_time() - start, status("VmHWM") - before


def write_files(folder: Path, rank: int) -> None:
    """Random full-size files in the layout of the releases."""
    model = motion_model(sd15_unet(torch.float16, device="meta"), torch.float16)
    save_motion_module(folder / "mm.safetensors", model)
    layers = {
        name: (torch.randn(rank, target.shape[1]) * 0.01, torch.randn(target.shape[0], rank) * 0.01)
        for name, target in lora_targets(model).items()
        if ".attention_blocks." in name
    }
    save_motion_lora(folder / "lora.safetensors", layers)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--write-to", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.write_to:
        write_files(args.write_to, args.rank)
        return
    with tempfile.TemporaryDirectory() as temporary, torch.inference_mode():
        folder = Path(temporary)
        # Another process writes the files: memory that this one had freed would hide what loading needs.
        command = [sys.executable, "-P", __file__, "--rank", str(args.rank), "--write-to", temporary]
        subprocess.run(command, check=True)
        register_folders()
        for name in (MOTION_MODULES, MOTION_LORAS):
            folder_paths.folder_names_and_paths[name][0].insert(0, str(folder))

        size = (folder / "mm.safetensors").stat().st_size
        output, seconds, peak = measured(lambda: LoadMotionModule.execute(motion_module="mm.safetensors"))
        module = output.result[0]
        print(f"motion module: file {size / 1e6:.0f} MB, {seconds:.2f} s, peak {peak / size:.3f} x file")

        size = (folder / "lora.safetensors").stat().st_size

        def apply() -> object:
            (chosen,) = LoadMotionLora.execute(motion_lora="lora.safetensors").result[0]
            patcher = module.patcher.clone()
            patch_motion_lora(patcher, chosen, module)
            return patcher

        patcher, seconds, peak = measured(apply)
        print(f"MotionLoRA: file {size / 1e6:.0f} MB, {seconds:.3f} s, peak {peak / size:.3f} x file")
        assert len(patcher.patches) == 80, "40 fused q, k, v and 40 outputs should be patched"


if __name__ == "__main__":
    main()
