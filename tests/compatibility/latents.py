"""The same seeds on two versions of ComfyUI: latents written by each, and compared.

    COMFYUI_PATH=OLD python -P tests/compatibility/latents.py --write old.safetensors
    COMFYUI_PATH=NEW python -P tests/compatibility/latents.py --write new.safetensors
    python -P tests/compatibility/latents.py --compare old.safetensors new.safetensors

Each with the Python that has this ComfyUI's requirements. Made with the trained tiny family on the CPU, one
thread. ``--compare`` prints the largest difference of each clip, relative to its largest value; exit status 1
if one of those that must agree is above 1e-5. Samplers that draw noise on their way are listed apart: on a
CPU, 0.3.75 gives them the start noise once more in the first step; 1e4e342f (in 0.7 and later) mended that.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "demo" / "models"
SAME = ("euler", "ddim", "dpmpp_2m", "heun", "dpmpp_sde")
STOCHASTIC = ("euler_ancestral", "lcm")
BOUND = 1e-5


def make() -> dict:
    """Name -> latents (F, C, H, W)."""
    spec = importlib.util.spec_from_file_location("flipbook_conftest", ROOT / "tests" / "conftest.py")
    conftest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conftest)
    import comfy.sd
    import folder_paths
    import torch
    from animatediff_flipbook.demo.tiny_family import model as tiny_family
    from animatediff_flipbook.nodes.context.context import ContextSampler, ContextWindows
    from animatediff_flipbook.nodes.motion.apply import ApplyMotionModule
    from animatediff_flipbook.nodes.motion.domain_adapter import ApplyDomainAdapter
    from animatediff_flipbook.nodes.motion.load import LoadMotionLora, LoadMotionModule
    from animatediff_flipbook.nodes.noise.model_noise import ModelNoise

    import nodes as comfy_nodes

    torch.set_num_threads(1)
    tiny_family.register()
    for name in ("animatediff_models", "animatediff_motion_lora", "loras"):
        folder_paths.folder_names_and_paths[name] = ([str(MODELS / name)], {".safetensors"})
    checkpoint = str(MODELS / "checkpoints" / "tiny_ad.safetensors")
    base, clip = comfy.sd.load_checkpoint_guess_config(checkpoint, output_vae=False)[:2]
    texts = ("a red circle moving left", "")
    prompts = [comfy_nodes.CLIPTextEncode().encode(clip, text)[0] for text in texts]
    module = LoadMotionModule.execute("tiny_mm.safetensors")[0]
    pan = LoadMotionLora.execute("tiny_pan_left.safetensors", 0.8)[0]
    model = ApplyMotionModule.execute(base, module)[0]
    windowed = ContextWindows.execute(model, length=8, overlap=2)[0]

    def ksampler(model, sampler="euler", frames=8):
        latent = {"samples": torch.zeros(frames, 4, 16, 16)}
        sampled = comfy_nodes.KSampler().sample(model, 5, 4, 5.0, sampler, "normal", *prompts, latent)
        return sampled[0]["samples"]

    made = {f"plain {sampler}": ksampler(model, sampler) for sampler in (*SAME, *STOCHASTIC)}
    made |= {f"windows {sampler}": ksampler(windowed, sampler, 18) for sampler in (*SAME, *STOCHASTIC)}
    made["MotionLoRA, scale, effect"] = ksampler(ApplyMotionModule.execute(base, module, pan, 1.2, 0.8)[0])
    made["domain adapter"] = ksampler(ApplyDomainAdapter.execute(model, "tiny_adapter.safetensors", 0.5)[0])
    made["looped windows"] = ksampler(
        ContextWindows.execute(model, 8, 3, 1, "looped_uniform", "pyramid", True)[0], frames=18
    )
    made["Model Noise"] = ksampler(ModelNoise.execute(windowed, length=8, overlap=2)[0], frames=18)
    latent = {"samples": torch.zeros(18, 4, 16, 16)}
    made["Context Sampler"] = ContextSampler.execute(
        model, 5, 4, 5.0, "euler", "normal", *prompts, latent, length=8, overlap=2
    )[0]["samples"]
    return made


def compare(first: Path, second: Path) -> int:
    """Print differences; 1 if one that must agree does not."""
    from safetensors.torch import load_file

    one, other, status = load_file(first), load_file(second), 0
    for name in one:
        difference = float((one[name] - other[name]).abs().max() / one[name].abs().max())
        drawn = name.split()[-1] in STOCHASTIC
        status |= difference > BOUND and not drawn
        print(f"{difference:9.1e}  {name}{' (draws noise on its way)' * drawn}")
    return status


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, metavar="FILE")
    parser.add_argument("--compare", type=Path, nargs=2, metavar="FILE")
    options = parser.parse_args()
    if options.compare:
        return compare(*options.compare)
    if not options.write:
        parser.error("say --write FILE or --compare FILE FILE")
    sys.argv = sys.argv[:1]  # ComfyUI reads it
    made = make()
    from safetensors.torch import save_file

    save_file({name: latents.contiguous() for name, latents in made.items()}, options.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
