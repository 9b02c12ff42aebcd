"""Make the tiny family from nothing, stage by stage: base, clips, domain adapter, motion module, MotionLoRAs.

    python demo/train_family.py                        # everything that is missing
    python demo/train_family.py --stage motion_module  # one stage (its inputs must be there)
    python demo/train_family.py --stage zoom_in train.steps=300      # settings of the recipe replaced
    python demo/train_family.py --models NEW --start OLD   # another folder, beginning with an earlier family

The base has its own script (`train_base.py`); the other stages are this project's trainer with the recipes
in `demo/recipes`, fed from ordinary folders of videos with captions. A stage whose file is there is skipped,
and one that was interrupted goes on from its last state.

Time on two CPU cores with nothing else to do: base an hour, clips 1 min, encoding them 4 min, domain adapter
2 to 4 min, motion module half an hour to an hour. MotionLoRAs 15 to 30 min each and two thirds of that where
they begin with an opposite, on one core: with `--processes 1` two of them run side by side.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from bootstrap import ROOT, enter

RECIPES = ROOT / "demo" / "recipes"
MODELS = ROOT / "demo" / "models"
SEED = 11  # of the training clips; evaluation takes others
# folder of clips: number, first scene, camera of `world.Camera`; "any": another one in every clip
FOLDERS: dict[str, tuple[int, int, dict[str, float] | str]] = {
    "first": (112, 0, {}),
    "second": (176, 1000, {}),
    "cameras": (112, 6000, "any"),
    "zoom_in": (64, 2000, {"zoom": 0.022}),
    "zoom_out": (64, 3000, {"zoom": -0.022}),
    "pan_left": (64, 4000, {"pan_x": 2.2}),  # the camera goes left, so the picture's content goes right
    "pan_right": (64, 5000, {"pan_x": -2.2}),
    "roll_clockwise": (64, 7000, {"roll": 1.5}),
    "roll_anticlockwise": (64, 8000, {"roll": -1.5}),
}
CAMERAS = list(FOLDERS)[3:]
TRAIN = ROOT / ".flipbook" / "train"
CLIPS = TRAIN / "clips"
CHECKPOINT = "checkpoints/tiny_ad.safetensors"
ADAPTER = "loras/tiny_adapter.safetensors"
MODULE = "animatediff_models/tiny_mm.safetensors"
# stage: (recipe, file that it makes in the folder of models)
STAGES = {
    "domain_adapter": ("domain_adapter", ADAPTER),
    "motion_module": ("motion_module", MODULE),
    **{name: ("motion_lora", f"animatediff_motion_lora/tiny_{name}.safetensors") for name in CAMERAS},
}
# A movement the other way begins with the negative of the one that has been learnt, and takes fewer steps.
OPPOSITES = {"zoom_out": "zoom_in", "pan_right": "pan_left", "roll_anticlockwise": "roll_clockwise"}
# Published stronger than learnt: from pure noise a MotionLoRA makes less of the movement than its clips have.
STRONGER = {"pan_left": 1.4, "pan_right": 1.4}
# Runs in parts: settings in place of the recipe's, and the step after which a part ends (0: by itself).
# What moves where is learnt last and slowest, from steps so noisy that one frame alone does not tell: one
# part has such steps alone.
PARTS = {
    "motion_module": (
        (("objective.timestep_shift=2.0",), 900),
        (("objective.min_timestep=700", "objective.timestep_shift=1.0"), 1500),
        ((), 0),
    ),
    **dict.fromkeys(OPPOSITES, ((("train.steps=800",), 0),)),
}


def write_clips() -> None:
    """Render the video-domain clips, all seven motions in turn."""
    enter()
    from animatediff_flipbook.demo import clip_files, world

    for name, (count, first, camera) in FOLDERS.items():
        print(f"clips: {name}", flush=True)
        mover = camera if isinstance(camera, str) else world.Camera(**camera)
        folder, domain = CLIPS / name, "image" if name in CAMERAS else "video"
        clip_files.write_clips(folder, SEED, count, domain, world.MOTIONS, mover, first=first)


def settings_of(stage: str, models: Path, start: Path | None) -> list[str]:
    """What a stage's recipe leaves open: `key="value"` of files and folders."""
    recipe, name = STAGES[stage]
    file = models / name
    settings = {
        "name": file.stem,
        "output": f".flipbook/train/{stage}",
        "base.checkpoint": models / CHECKPOINT,
        "export.folder": "" if stage in STRONGER else file.parent,
    }
    if recipe == "motion_module":
        settings["base.domain_adapter"] = models / ADAPTER
    if recipe == "motion_lora":
        settings["motion.file"] = models / MODULE
        other = OPPOSITES.get(stage)
        folder = models if other else start
        if folder and (other or (folder / name).exists()):  # an earlier family may have fewer movements
            begun_with = folder / STAGES[other or stage][1]
            factor = (-1.0 if other else 1.0) / STRONGER.get(other or stage, 1.0)
            settings["lora.file"] = write_scaled(begun_with, factor, TRAIN / "begun_with" / file.name)
    elif start:
        settings["motion.file" if recipe == "motion_module" else "lora.file"] = start / name
    written = [f'{key}="{value}"' for key, value in settings.items()]
    if recipe == "motion_lora":
        written.append(f'data.sources=[{{path=".flipbook/train/clips/{stage}"}}]')
    return written


def write_scaled(file: Path, factor: float, target: Path) -> Path:
    """A LoRA file with this many times the effect, -1 the opposite one: `up` multiplied. Returns `target`."""
    if not file.exists():
        raise FileNotFoundError(f"{file} is missing, of which this stage needs a copy. Train it first.")
    enter()
    from animatediff_flipbook.motion_core.files.tensor_file import TensorFile, save_tensors

    opened = TensorFile(file)
    scaled = {key: value * factor if ".up." in key else value for key, value in opened.read(opened.shapes)}
    save_tensors(target, scaled, opened.metadata)
    return target


def run_trainer(command: str, settings: list[str], recipe: str, processes: int) -> None:
    """Run `train` or `cache` of the trainer for a stage, in processes of one thread each.

    Raises subprocess.CalledProcessError if it fails; its own message says why.
    """
    arguments = [command, str(RECIPES / f"{recipe}.toml"), *settings]
    if command == "train":
        arguments.append("--resume")
    launch = [sys.executable]
    if processes > 1:
        # --multi_gpu is accelerate's word for several local processes; its --cpu starts only one
        launch += ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines=1"]
        launch += ["--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"]
        launch += [f"--num_processes={processes}"]
    environment = os.environ | {
        "COMFYUI_PATH": str(enter()),
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": "1",
    }
    subprocess.run([*launch, __file__, "--trainer", *arguments], check=True, cwd=ROOT, env=environment)


def main() -> int:
    """Run the asked stages in order; returns the exit status."""
    if sys.argv[1:2] == ["--trainer"]:  # this file as the trainer's process: the pack loaded as ComfyUI does
        enter()
        arguments = sys.argv[2:]
        if "--bfloat16" in arguments:
            from comfy.cli_args import args

            args.bf16_vae = True
            arguments.remove("--bfloat16")
        from animatediff_flipbook.training.__main__ import main as trainer

        return trainer(arguments)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stage", choices=("all", "base", "clips", *STAGES), default="all")
    parser.add_argument("--processes", type=int, default=2, help="of the trainer, one CPU thread each")
    parser.add_argument("--cache-only", action="store_true", help="only encode the stage's clips")
    parser.add_argument("--models", type=Path, default=MODELS, help="folder of the files that are made")
    parser.add_argument("--start", type=Path, help="folder of an earlier family to begin with")
    parser.add_argument("--bfloat16", action="store_true", help="for processors with matrix units for it")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="in place of the recipe's settings")
    options = parser.parse_args()
    models, bfloat16 = options.models.resolve(), ["--bfloat16"] if options.bfloat16 else []
    start = options.start.resolve() if options.start else None
    if options.stage in ("all", "base") and not (models / CHECKPOINT).exists():
        base = ["--output", str(models / CHECKPOINT), *bfloat16]
        base += ["--start", str(start / CHECKPOINT)] if start else []
        subprocess.run([sys.executable, str(ROOT / "demo" / "train_base.py"), *base], check=True, cwd=ROOT)
    if options.stage in ("all", "clips"):
        write_clips()
    for stage, (recipe, name) in STAGES.items():
        if options.stage not in ("all", stage):
            continue
        settings = [*settings_of(stage, models, start), *bfloat16]
        if options.cache_only:
            run_trainer("cache", [*settings, *options.overrides], recipe, options.processes)
        elif (models / name).exists():
            print(f"{stage}: done", flush=True)
        else:
            for part, end in PARTS.get(stage, (((), 0),)):
                more = [*settings, *part, f"train.stop_at={end}", *options.overrides]
                run_trainer("train", more, recipe, options.processes)
            if stage in STRONGER:
                write_scaled(TRAIN / stage / Path(name).name, STRONGER[stage], models / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
