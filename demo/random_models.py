"""Stand-ins for the demo's models: right shapes, random weights, meaningless pictures.

    python demo/random_models.py --comfyui DIR --output DIR

Why: the demo must show that server, nodes and files work together wherever `demo/models` holds no trained
weights. Runs as a process of its own because it imports ComfyUI, with its demands on `sys.path`.
"""

import argparse
import importlib
from pathlib import Path

from bootstrap import PACK, enter


def write_models(folder: Path, seed: int = 0) -> None:
    """Write checkpoints/tiny_ad.safetensors and animatediff_models/tiny_mm.safetensors below `folder`."""
    import torch

    build = importlib.import_module(f"{PACK}.demo.tiny_family.build")
    config = importlib.import_module(f"{PACK}.motion_core.module.config")
    model = importlib.import_module(f"{PACK}.motion_core.module.model")
    checkpoint = importlib.import_module(f"{PACK}.motion_core.files.checkpoint")

    build.write_random_checkpoint(folder / "checkpoints" / "tiny_ad.safetensors", seed)
    torch.manual_seed(seed)
    shape = config.MotionModuleConfig.for_unet(build.build_networks(seed).unet, "v3")
    motion = model.MotionModel(shape, fused_qkv=False)
    with torch.no_grad():
        for name, value in motion.named_parameters():
            if "proj_out.weight" in name:  # zero in a fresh module, which would leave every frame alone
                value.normal_(std=0.3 * value.shape[1] ** -0.5)
    place = folder / "animatediff_models" / "tiny_mm.safetensors"
    place.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save_motion_module(place, motion, {"weights": f"random, seed {seed}"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--comfyui", type=Path, required=True, help="folder with ComfyUI's main.py")
    parser.add_argument("--output", type=Path, required=True, help="folder to hold checkpoints and more")
    options = parser.parse_args()
    enter(options.comfyui)
    write_models(options.output)


if __name__ == "__main__":
    main()
