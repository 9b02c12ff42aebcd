"""Where in the noise something gets lost: a gauge for camera movements and for words of shapes.

    python demo/gauge.py [--lora tiny_pan_left] [--clips N] [--models DIR]
    python demo/gauge.py --shapes [--clips N] [--models DIR]
    python demo/gauge.py --words [--clips N] [--models DIR]

Clips that truly move as the MotionLoRA says are noised to a timestep; what moves in the clean clip that the
model predicts from them, as a share of the truth, is one number of the table. Sampling begins where nothing
is seen any more: a MotionLoRA works if it *makes* the movement in the last columns, and keeps it elsewhere.
Rows: the image model alone, frame by frame; with the motion module; with the MotionLoRA too.

With --shapes, stills are noised, and a number is the share of the clean pictures predicted by the image model
that show the shape and the colour asked for. Where the colour is right, the model knows where the shape is:
if the shape is wrong there all the same, it has not learnt the word.

With --words, the same stills get the caption of another shape, and a number says how much of the difference
that this shape would make to the picture the word makes in the prediction: 0 is a word that is not read.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import evaluate
from bootstrap import enter
from tqdm import tqdm

if TYPE_CHECKING:
    import torch
    from comfy.model_patcher import ModelPatcher

TIMESTEPS = (200, 400, 500, 600, 750, 850, 950, 999)
SEED = 7000


def predicted(
    model: ModelPatcher, texts: list, clean: torch.Tensor, timestep: int, seed: int
) -> torch.Tensor:
    """The clean latents (F, 4, H, W) that a model predicts from those given, noised to a timestep."""
    import comfy.sample
    import comfy.samplers
    import torch

    def once(denoise, x, sigmas, extra_args, **_):
        return denoise(x, sigmas[:1].expand(len(x)), **extra_args)

    sigma = model.get_model_object("model_sampling").sigma(torch.tensor(float(timestep)))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    sigmas = torch.tensor([float(sigma), 0.0])
    sampler = comfy.samplers.KSAMPLER(once)
    return comfy.sample.sample_custom(
        model, noise, 1.0, sampler, sigmas, *texts, clean, disable_pbar=True, seed=seed
    )


def measure(
    renderer: evaluate.Renderer, sample: evaluate.Sample, texts: list, clean: torch.Tensor
) -> list[float]:
    """Share of the true movement in what a model predicts, for each timestep."""
    from animatediff_flipbook.demo import probes

    _, field, rate = evaluate.CAMERAS[sample.series]
    model, shares = renderer.model_of(sample), []
    for timestep in TIMESTEPS:
        latents = predicted(model, texts, clean, timestep, sample.number)
        made = renderer.vae.decode(latents).float().clamp(0, 1).numpy()
        shares.append(getattr(probes.camera(made), field) / rate)
    return shares


def camera_table(renderer: evaluate.Renderer, options: argparse.Namespace) -> dict[str, list[list[float]]]:
    """Name of a row -> for each clip, shares of the true movement by timestep."""
    import torch
    from animatediff_flipbook.demo import world

    _, field, rate = evaluate.CAMERAS[options.lora]
    rows: dict[str, list[list[float]]] = {}
    for number in tqdm(range(options.clips), unit="clip"):
        scene = world.scene(SEED, number, "still")
        frames = world.render(scene, camera=world.Camera(**{field: rate}))
        with torch.inference_mode():
            clean = renderer.vae.encode(torch.from_numpy(frames))
            for name, motion, lora in (
                ("image model alone", False, None),
                ("with motion module", True, None),
                ("with MotionLoRA", True, options.lora),
            ):
                sample = evaluate.Sample(options.lora, number, "still", motion=motion, lora=lora)
                texts = renderer.texts_of(sample, scene)
                rows.setdefault(name, []).append(measure(renderer, sample, texts, clean))
    return rows


def shape_table(renderer: evaluate.Renderer, options: argparse.Namespace) -> dict[str, list[list[float]]]:
    """The same for shape and colour: for each picture, 1 where it is as asked for, by timestep."""
    import numpy as np
    import torch
    from animatediff_flipbook.demo import probes, world

    rows: dict[str, list[list[float]]] = {"shape as asked": [], "colour as asked": []}
    for number in tqdm(range(options.clips), unit="picture"):
        scene = world.scene(SEED, number, "still")
        frame = world.render(scene, np.array([0.5]))
        texts = renderer.texts_of(evaluate.Sample("motion_off", number, "still", motion=False), scene)
        shapes, colours = [], []
        with torch.inference_mode():
            clean = renderer.vae.encode(torch.from_numpy(frame))
            for timestep in TIMESTEPS:
                latents = predicted(renderer.model, texts, clean, timestep, number)
                made = renderer.vae.decode(latents).float().clamp(0, 1).numpy()
                shapes.append(float(probes.shape(made[0]) == scene.shape))
                colours.append(float(probes.colour(made) == scene.colour))
        rows["shape as asked"].append(shapes)
        rows["colour as asked"].append(colours)
    return rows


def word_table(renderer: evaluate.Renderer, options: argparse.Namespace) -> dict[str, list[list[float]]]:
    """For each picture, the share of another shape's difference that its word makes, by timestep."""
    import numpy as np
    import torch
    from animatediff_flipbook.demo import world

    rows: dict[str, list[list[float]]] = {"word is read": []}
    sample = evaluate.Sample("motion_off", 0, "still", motion=False)
    for number in tqdm(range(options.clips), unit="picture"):
        scene = world.scene(SEED, number, "still")
        names = [name for name in world.SHAPES if name != scene.shape]
        scenes = [scene, replace(scene, shape=names[number % len(names)])]
        frames = np.concatenate([world.render(one, np.array([0.5])) for one in scenes])
        shares = []
        with torch.inference_mode():
            clean = renderer.vae.encode(torch.from_numpy(frames))
            wanted = clean[1] - clean[0]
            for timestep in TIMESTEPS:
                now, other = (
                    predicted(renderer.model, renderer.texts_of(sample, one), clean[:1], timestep, number)
                    for one in scenes
                )
                shares.append(float(((other - now)[0] * wanted).sum() / wanted.square().sum()))
        rows["word is read"].append(shares)
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lora", choices=evaluate.CAMERAS, default="tiny_pan_left")
    parser.add_argument("--shapes", action="store_true", help="words of shapes instead of a camera movement")
    parser.add_argument("--words", action="store_true", help="how much a word of another shape changes")
    parser.add_argument("--clips", type=int, default=8, help="or pictures")
    parser.add_argument("--models", type=Path, default=evaluate.MODELS, help="folder of the family's files")
    options = parser.parse_args()
    renderer = evaluate.Renderer(str(enter()), options.models.resolve())
    table = word_table if options.words else shape_table if options.shapes else camera_table
    rows = table(renderer, options)
    _, field, rate = evaluate.CAMERAS[options.lora]
    title = f"{options.lora}: share of {field} {rate:g} a frame"
    if options.words or options.shapes:
        title = "share of the difference" if options.words else "share of pictures"
    print(f"{title}, mean of {options.clips}, by timestep")
    print(" " * 20 + "".join(f"{timestep:>8}" for timestep in TIMESTEPS))
    for name, values in rows.items():
        means = [sum(column) / len(column) for column in zip(*values, strict=True)]
        print(f"{name:20}" + "".join(f"{mean:8.2f}" for mean in means))


if __name__ == "__main__":
    main()
