"""Stage 4, the file, and stage 5, its figures."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import comfy.sample
import comfy.sd
import numpy as np
import torch
from PIL import Image

from .. import probes, world
from ..tiny_family import build
from .autoencoder import finished_vae
from .settings import STATE, Settings
from .states import read_state
from .text_to_image import fresh_text_to_image


def export(settings: Settings) -> None:
    """Stage 4. Write the averaged weights as one checkpoint; also serves to look at a half-trained base."""
    found = read_state(STATE / "unet.safetensors")
    if not found:
        raise FileNotFoundError(f"{STATE / 'unet.safetensors'} is missing. Run the stage unet first.")
    model = fresh_text_to_image(settings)
    model.load_state_dict({key[8:]: value for key, value in found[0].items() if key.startswith("average.")})
    networks = build.TinyNetworks(unet=model.unet, text=model.text, vae=finished_vae(settings))
    output = Path(settings.output)
    names = {"output": output.name, "start": Path(settings.start).name}  # no folders of ours
    told = asdict(settings) | names
    facts = {"steps": found[1]["step"], "seconds": round(found[1]["seconds"]), "settings": told}
    build.write_checkpoint(output, networks, {"family": "tiny_ad", "training": json.dumps(facts)})
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB, {found[1]['step']} steps", flush=True)


@torch.no_grad()
def measure(settings: Settings, count: int = 48, steps: int = 20, cfg: float = 5.0) -> None:
    """Stage 5. Sample pictures through ComfyUI's own loader and sampler for captions of unseen scenes; print
    how many show the asked colour and shape, and write them as a sheet to `.flipbook/train/base.png`."""
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(settings.output)
    scenes = [world.scene(settings.seed + 1000, i, "still") for i in range(count)]
    empty = clip.encode_from_tokens_scheduled(clip.tokenize(""))
    pictures = []
    for number, content in enumerate(scenes):
        words = clip.encode_from_tokens_scheduled(clip.tokenize(content.caption))
        noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(number))
        latent = torch.zeros_like(noise)
        made = comfy.sample.sample(
            model, noise, steps, cfg, "euler", "normal", words, empty, latent, disable_pbar=True, seed=number
        )
        pictures.append(vae.decode(made).numpy())
    pictures = np.concatenate(pictures)
    colours = [probes.colour(picture[None]) == s.colour for picture, s in zip(pictures, scenes, strict=True)]
    shapes = [probes.shape(picture) == s.shape for picture, s in zip(pictures, scenes, strict=True)]
    drawn = np.stack([world.render(s, np.array([0.5]))[0] for s in scenes])
    figures = {
        "samples": count,
        "colour_accuracy": round(float(np.mean(colours)), 3),
        "shape_accuracy": round(float(np.mean(shapes)), 3),
        "sharpness_to_world": round(probes.sharpness(pictures) / probes.sharpness(drawn), 3),
    }
    print(json.dumps(figures), flush=True)
    for content in scenes[:16]:
        print(content.caption, flush=True)
    rows = [np.concatenate(row, axis=1) for row in np.split(pictures[: count // 8 * 8], count // 8)]
    Image.fromarray(np.round(np.concatenate(rows) * 255).astype(np.uint8)).save(STATE / "base.png")
