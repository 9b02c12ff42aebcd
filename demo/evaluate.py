"""Measure the tiny family: fresh samples through our nodes, looked at by the probes of `probes.py`.

    python run.py evaluate [--samples N] [--seed S] [--only SERIES ...] [--models DIR] [--json] [--keep DIR]

Prompts are captions of scenes that no training saw. Each figure is over N clips of 16 frames, or over N / 8
of the long ones, which context windows make:

    direction_accuracy             the shape goes where the prompt says; chance is 0.25
    direction_accuracy_motion_off  the same prompts and noise without the motion module: must be chance
    colour_accuracy                the shape has the colour asked for; chance is 0.17
    shape_accuracy                 most frames show the shape asked for (overlap with drawn ones); chance 0.25
    one_object                     clips of which all frames but at most one show one coloured thing
    zoom_sign, pan_sign, roll_sign the ground moves as the MotionLoRA says (both ways take turns)
    zoom_size, pan_size, roll_size how fast, over the rate of the clips that it was trained on
    watermark_ratio                watermark seen with the domain adapter at alpha 0, over that at alpha 1
    sharpness_ratio                the same for sharpness
    loop_closure                   closed loop of 48 frames: from the last frame to the first, over the median
                                   from one to the next; 1 or less is no visible seam (median of the clips)
    travel_accuracy                64 frames whose prompt changes its colour at frame 32: frames in the
                                   colour asked for; chance is 0.17
    travel_frame                   the first frame that shows the second colour (median of the clips)

and, to judge these by: watermark and sharpness at alpha 0, 0.5 and 1, colours, the camera's rates with
each MotionLoRA and without one. What has no file yet is null. `--json` ends with one line of JSON.
Runs with the Python of `.venv`; `run.py` starts it.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bootstrap import ROOT, enter
from tqdm import tqdm

if TYPE_CHECKING:
    import numpy as np
    from animatediff_flipbook.demo import world
    from comfy.model_patcher import ModelPatcher

MODELS = ROOT / "demo" / "models"
CHECKPOINT = "tiny_ad.safetensors"
MOTION_MODULE = "tiny_mm.safetensors"
ADAPTER = "tiny_adapter.safetensors"
FRAMES = 16
STEPS, CFG = 15, 5.0
DIRECTIONS = ("moving left", "moving right", "moving up", "moving down")
LONG_FRAMES = {"loop": 48, "travel": 64}
OVERLAP = 4
LOOP_OVERLAP = 3  # 48 frames are a multiple of 16 - 4: windows would end at the seam in the first four steps
# MotionLoRA: (what moves, field of world.Camera, rate of its training clips)
CAMERAS = {
    "tiny_zoom_in": ("zoom", "zoom", 0.022),
    "tiny_zoom_out": ("zoom", "zoom", -0.022),
    "tiny_pan_left": ("pan", "pan_x", 2.2),
    "tiny_pan_right": ("pan", "pan_x", -2.2),
    "tiny_roll_clockwise": ("roll", "roll", 1.5),
    "tiny_roll_anticlockwise": ("roll", "roll", -1.5),
}
KINDS = ("zoom", "pan", "roll")
MOVES = {kind: field for kind, field, _ in CAMERAS.values()}


@dataclass(frozen=True)
class Sample:
    """One clip to render."""

    series: str
    """What it is for."""
    number: int
    """Of the scene and the noise; the same number in two series is the same prompt and noise."""
    words: str
    """Motion words of the caption."""
    motion: bool = True
    """Whether the motion module takes part."""
    lora: str | None = None
    """MotionLoRA at strength 1."""
    alpha: float = 0.0
    """Of the domain adapter."""

    @property
    def frames(self) -> int:
        """Length of the clip."""
        return LONG_FRAMES.get(self.series, FRAMES)


def plan(count: int, models: Path) -> list[Sample]:
    """All samples of an evaluation, for the files that there are."""
    samples = []
    for number in range(count):
        words = DIRECTIONS[number % len(DIRECTIONS)]
        samples.append(Sample("motion_off", number, words, motion=False))
        samples.append(Sample("alpha_0", number, words))
        if (models / "loras" / ADAPTER).exists():
            samples += [Sample(f"alpha_{alpha:g}", number, words, alpha=alpha) for alpha in (0.5, 1.0)]
        loras = [
            name for name in CAMERAS if (models / "animatediff_motion_lora" / f"{name}.safetensors").exists()
        ]
        for kind in KINDS:
            names = [name for name in loras if CAMERAS[name][0] == kind]
            if names:
                name = names[number % len(names)]
                samples.append(Sample(name, number, "still", lora=name))
        if number % 8 == 0:
            samples += [Sample(series, number, DIRECTIONS[number // 8 % 4]) for series in LONG_FRAMES]
    return samples


class Renderer:
    """The models, loaded once in a process; everything that changes goes through our nodes."""

    def __init__(self, comfyui: str, models: Path) -> None:
        enter(Path(comfyui))
        import comfy.sd
        import folder_paths
        import torch
        from animatediff_flipbook.demo.tiny_family import model as family
        from animatediff_flipbook.nodes import LoadMotionModule, paths

        torch.set_num_threads(1)
        family.register()
        paths.register_folders()
        for folder in ("animatediff_models", "animatediff_motion_lora", "loras"):
            folder_paths.add_model_folder_path(folder, str(models / folder), is_default=True)
        self.model, self.clip, self.vae, _ = comfy.sd.load_checkpoint_guess_config(
            str(models / "checkpoints" / CHECKPOINT)
        )
        self.module = LoadMotionModule.execute(motion_module=MOTION_MODULE)[0]

    def render(self, sample: Sample, seed: int) -> tuple[np.ndarray, world.Scene]:
        """Frames (F, 128, 128, 3) float32 in 0..1 of a sample, and its scene."""
        import torch
        from animatediff_flipbook.demo import world

        scene = world.scene(seed, sample.number, sample.words)
        with torch.inference_mode():  # as in a server
            return self._sampled(self.model_of(sample), self.texts_of(sample, scene), sample, seed), scene

    def model_of(self, sample: Sample) -> ModelPatcher:
        """The base with what the sample asks for."""
        from animatediff_flipbook import nodes

        model = self.model
        if sample.alpha:
            model = nodes.ApplyDomainAdapter.execute(model=model, domain_adapter=ADAPTER, alpha=sample.alpha)[
                0
            ]
        if sample.motion:
            lora = None
            if sample.lora:
                lora = nodes.LoadMotionLora.execute(motion_lora=f"{sample.lora}.safetensors", strength=1.0)[0]
            model = nodes.ApplyMotionModule.execute(model=model, motion_module=self.module, motion_lora=lora)[
                0
            ]
        if sample.frames > FRAMES:
            loop = sample.series == "loop"
            schedule = "looped_uniform" if loop else "standard_static"
            model = nodes.ContextWindows.execute(
                model=model, schedule=schedule, closed_loop=loop, overlap=LOOP_OVERLAP if loop else OVERLAP
            )[0]
        return model

    def texts_of(self, sample: Sample, scene: world.Scene) -> list:
        """Positive and negative conditioning."""
        from animatediff_flipbook import nodes

        positive, negative = (
            self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text)) for text in (scene.caption, "")
        )
        if sample.series == "travel":
            later = replace(scene, colour=second_colour(scene)).caption
            prompts = f"0:: {scene.caption}\n{sample.frames // 2}:: {later}"
            positive = nodes.PromptSchedule.execute(clip=self.clip, prompts=prompts, frames=sample.frames)[0]
        return [positive, negative]

    def _sampled(self, model: ModelPatcher, texts: list, sample: Sample, seed: int) -> np.ndarray:
        """Sampling and decoding."""
        import comfy.sample
        import torch
        from animatediff_flipbook.demo import world

        latent = torch.zeros(sample.frames, 4, world.SIZE // 8, world.SIZE // 8)
        random = torch.Generator().manual_seed(seed * 1000 + sample.number)
        noise = torch.randn(latent.shape, generator=random)
        settings = {"disable_pbar": True, "seed": sample.number}
        made = comfy.sample.sample(model, noise, STEPS, CFG, "euler", "normal", *texts, latent, **settings)
        return self.vae.decode(made).float().clamp(0, 1).numpy()


def second_colour(scene: world.Scene) -> str:
    """The colour to which a travelling prompt changes: the one opposite on the wheel."""
    from animatediff_flipbook.demo import world

    names = list(world.COLOURS)
    return names[(names.index(scene.colour) + len(names) // 2) % len(names)]


@functools.cache
def renderer(comfyui: str, models: Path) -> Renderer:
    """The process's renderer."""
    return Renderer(comfyui, models)


def look(
    sample: Sample, seed: int, comfyui: str, models: Path, folder: str | None
) -> dict[str, float | bool]:
    """Render a sample and probe it. Runs in a process of its own."""
    frames, scene = renderer(comfyui, models).render(sample, seed)
    from animatediff_flipbook.demo import probes, world

    if folder:
        import numpy as np

        np.save(Path(folder) / f"{sample.series}_{sample.number:03d}.npy", (frames * 255).astype(np.uint8))
    if sample.series == "loop":
        return {"closure": probes.closure(frames)}
    if sample.series == "travel":
        asked = [scene.colour, second_colour(scene)]
        seen = [probes.colour(frame[None]) for frame in frames]
        right = [name == asked[number >= len(seen) // 2] for number, name in enumerate(seen)]
        turned = seen.index(asked[1]) if asked[1] in seen else len(seen)
        return {"travel": sum(right) / len(right), "turned": turned}
    found = {
        "direction": f"moving {probes.direction(frames)}" == sample.words,
        "colour": probes.colour(frames) == scene.colour,
        "shape": probes.shape_of_clip(frames) == scene.shape,
        "one_object": sum(probes.objects(frame) != 1 for frame in frames) <= 1,
        "watermark": probes.watermark(frames),
        "sharpness": probes.sharpness(frames),
    }
    camera = probes.camera(frames) if sample.motion and sample.alpha == 0.0 else world.Camera()
    return found | {field: getattr(camera, field) for field in MOVES.values()}


def figures(results: dict[Sample, dict[str, float | bool]]) -> dict[str, float | int | None]:
    """Means over the series."""

    def mean(series: str, value: str) -> float | None:
        values = [float(found[value]) for sample, found in results.items() if sample.series == series]
        return round(sum(values) / len(values), 5) if values else None

    def middle(series: str, value: str) -> float | None:
        values = [float(found[value]) for sample, found in results.items() if sample.series == series]
        return round(statistics.median(values), 3) if values else None

    def ratio(value: str) -> float | None:
        low, high = mean("alpha_0", value), mean("alpha_1", value)
        return round(low / high, 3) if low is not None and high else None

    def shares(kind: str) -> list[float]:
        """Rates over those of the MotionLoRA's training clips."""
        return [
            found[MOVES[kind]] / CAMERAS[sample.series][2]
            for sample, found in results.items()
            if sample.series in CAMERAS and CAMERAS[sample.series][0] == kind
        ]

    def sign(kind: str) -> float | None:
        found = shares(kind)
        return round(sum(share > 0 for share in found) / len(found), 4) if found else None

    def size(kind: str) -> float | None:
        found = shares(kind)
        return round(sum(found) / len(found), 3) if found else None

    result = {
        "samples": sum(sample.series == "alpha_0" for sample in results),
        "direction_accuracy": mean("alpha_0", "direction"),
        "direction_accuracy_motion_off": mean("motion_off", "direction"),
        "direction_accuracy_alpha_1": mean("alpha_1", "direction"),
        "colour_accuracy": mean("alpha_0", "colour"),
        "shape_accuracy": mean("alpha_0", "shape"),
        "one_object": mean("alpha_0", "one_object"),
        **{f"{kind}_sign": sign(kind) for kind in KINDS},
        **{f"{kind}_size": size(kind) for kind in KINDS},
        "watermark_ratio": ratio("watermark"),
        "sharpness_ratio": ratio("sharpness"),
        "loop_closure": middle("loop", "closure"),
        "travel_accuracy": mean("travel", "travel"),
        "travel_frame": middle("travel", "turned"),
    }
    for series in ("alpha_0", "alpha_0.5", "alpha_1"):
        result |= {f"{value}_{series}": mean(series, value) for value in ("watermark", "sharpness")}
    for field in MOVES.values():
        result[f"{field}_without_lora"] = mean("alpha_0", field)
    for name, (_, field, _) in CAMERAS.items():
        result[f"{field}_{name}"] = mean(name, field)
    return result


def main() -> int:
    """Exit status 0, or 1 with a sentence."""
    parser = argparse.ArgumentParser(prog="run.py evaluate", description="Measure the tiny family.")
    parser.add_argument("--comfyui", required=True, help=argparse.SUPPRESS)  # run.py passes it
    parser.add_argument("--samples", type=int, default=64, help="clips per figure (default 64: 25 to 90 min)")
    parser.add_argument("--seed", type=int, default=5000, help="of scenes and noise; training used 1 and 11")
    parser.add_argument(
        "--only", nargs="+", metavar="SERIES", help="such as alpha_0, motion_off, tiny_zoom_in"
    )
    parser.add_argument("--models", type=Path, default=MODELS, help="folder of the family's files")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--processes", type=int, default=min(os.cpu_count() or 1, 8))
    parser.add_argument("--keep", metavar="DIR", help="also keep the frames there, as .npy")
    options = parser.parse_args()
    models = options.models.resolve()
    needed = [models / "checkpoints" / CHECKPOINT, models / "animatediff_models" / MOTION_MODULE]
    missing = [str(path) for path in needed if not path.exists()]
    if missing or options.samples < 1:
        reason = f"{', '.join(missing)} missing: run demo/train_family.py" if missing else "--samples below 1"
        print(f"Nothing to evaluate: {reason}.", file=sys.stderr)
        return 1
    if options.keep:
        Path(options.keep).mkdir(parents=True, exist_ok=True)
    samples = plan(options.samples, models)
    if options.only:
        samples = [sample for sample in samples if sample.series in options.only]
    os.environ["OMP_NUM_THREADS"] = "1"
    results = {}
    with ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as pool:
        futures = {
            pool.submit(look, sample, options.seed, options.comfyui, models, options.keep): sample
            for sample in samples
        }
        for future in tqdm(as_completed(futures), total=len(samples), unit="clip", desc="evaluate"):
            results[futures[future]] = future.result()
    found = figures(results)
    for name, value in found.items():
        print(f"{name:32} {'no file for it yet' if value is None else value}")
    if options.json:
        print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
