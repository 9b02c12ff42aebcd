"""Every training of the experiments, made once and kept: a seed's image model, adapter, motion modules and
MotionLoRAs.

All but the image model come from this project's trainer, through the door that its nodes use
(`train(config, loaded=...)`), from ordinary folders of frames with captions. A file that is there is taken if
it was trained so, which a record beside it says; if not, it is trained anew. An interrupted run goes on from
its last state.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from tqdm import tqdm

from ..motion_core.files.checkpoint import load_motion_module
from ..motion_core.module.config import MotionModuleConfig
from ..motion_core.module.model import MotionModel
from ..motion_core.schedule.beta_schedules import BetaSchedule
from ..training.config import (
    BaseConfig,
    CacheConfig,
    CheckpointConfig,
    DataConfig,
    ExportConfig,
    LoraConfig,
    MotionConfig,
    ObjectiveConfig,
    OptimizerConfig,
    RunConfig,
    SourceConfig,
    TrainConfig,
    ValidationConfig,
    to_dict,
)
from ..training.files import read_json, write_json
from ..training.run.train import train
from ..training.run.watching import Watcher
from . import base, world
from .convolution import ConvolutionModel

HERE = Path(__file__).parent
RECORD = "trained.json"
"""Beside an exported file: the digest of what it was trained from, and the commits of the code that did."""


class Bar(Watcher):
    """A bar of progress for each training."""

    def __init__(self, name: str, steps: int) -> None:
        self._bar = tqdm(total=steps, desc=name, unit="step", mininterval=5)

    def stepped(self, step: int, values: Any) -> None:
        """One more is done."""
        self._bar.update(step - self._bar.n)

    def close(self) -> None:
        """Leave the last line standing."""
        self._bar.close()


@dataclass(frozen=True)
class Lab:
    """What one seed has trained."""

    folder: Path
    """Of all seeds; everything in it can be made again."""
    seed: int
    settings: dict[str, dict[str, Any]]
    """`settings.toml` of one size: tables base, adapter, module, lora, data."""
    commit: str = "unknown"
    """Of the code that runs now."""
    used: set[str] = field(default_factory=set, compare=False)
    """Commits of the code that trained what has been asked for so far."""

    @cached_property
    def common(self) -> Path:
        """Of all seeds with these image models and this world."""
        return self.folder / _digest(self.settings["base"], "world.py", "base.py")

    @cached_property
    def home(self) -> Path:
        """Of this seed under these settings."""
        return self.common / f"{_digest(self.settings, 'convolution.py')}-seed{self.seed}"

    # --- data ---

    def clips(
        self, name: str, count: int, first: int, domain: str, motion: str = "", **camera: float
    ) -> Path:
        """A folder of clips, each a folder of frames with its caption. Others of that name go."""
        folder = self.home / "clips" / name
        facts = {"count": count, "first": first, "domain": domain, "motion": motion, "camera": camera}
        if _clip_facts(folder) == facts:
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        for index in range(count):
            scene = world.scene(100 + self.seed, first + index, motion or None)
            place = folder / f"{index:04d}"
            place.mkdir(parents=True)
            frames = world.render(scene, domain, world.Camera(**camera))
            for number, frame in enumerate(np.round(frames * 255).astype(np.uint8)):
                Image.fromarray(frame).save(place / f"{number}.png")
            (place / "caption.txt").write_text(scene.caption, encoding="utf-8")
        write_json(folder / "done", facts)
        return folder

    def video(self) -> Path:
        """The clips that adapter and motion modules learn from."""
        return self.clips("video", self.settings["data"]["clips"], 0, "video")

    # --- image models ---

    def image_model(self, domain: str = "image") -> Path:
        """The image model; `style` is a second one, fine-tuned from it on stills of another look. All seeds
        have the same, as all motion modules of the field have: what is trained on top of it differs."""
        path = self.common / f"base-{domain}.safetensors"
        if not path.exists():
            told = self.settings["base"]
            if domain == "image":
                model, steps, rate = base.fresh_model(told["seed"]), told["steps"], told["lr"]
            else:
                model, steps, rate = (
                    base.load_base(self.image_model()),
                    told["tuning_steps"],
                    told["tuning_lr"],
                )
            base.train_base(model.diffusion_model, told["seed"], steps, told["batch"], rate, domain)
            base.save_base(path, model.diffusion_model)
            write_json(path.with_suffix(".json"), {"commits": [self.commit]})
        self.used.update(_read(path.with_suffix(".json")).get("commits", ["unknown"]))
        return path

    # --- the three stages ---

    def adapter(self) -> Path:
        """Stage 1: LoRA in the image model's attention, on single frames of the video domain."""
        told = self.settings["adapter"]
        return self._train(
            "adapter", "domain_adapter", told, self.video(), lora=LoraConfig(rank=told["rank"])
        )

    def module(
        self,
        kind: str = "attention",
        adapter: bool = True,
        schedule: BetaSchedule = base.SCHEDULE,
        clips: Path | None = None,
        name: str = "module",
        steps: int = 0,
        domain: str = "image",
    ) -> Path:
        """Stage 2: a motion module, on top of the adapter.

        kind: `attention`, `no_positions` (its position tables are zero) or `convolution`.
        domain: of the image model that it is trained on.
        """
        told = dict(self.settings["module"])
        told["steps"] = steps or told["steps"]
        held = self.clips("held", told["held"], 50_000, "video")
        return self._train(
            *(name, "motion_module", told, clips or self.video()),
            motion=self.fresh_module(kind, schedule),
            fresh=f"{kind}, {schedule}" + (f", on {domain}" if domain != "image" else ""),
            code=("world.py", "base.py", *(["convolution.py"] if kind == "convolution" else [])),
            adapter=adapter,
            image_model=self.image_model(domain),
            validation=ValidationConfig(
                every=told["steps"], sources=(SourceConfig(path=str(held), frame_folders=True),)
            ),
        )

    def motion_lora(
        self,
        name: str,
        rank: int = 0,
        clips: int = 0,
        debiased: float = 0.0,
        lr: float = 0.0,
        **camera: float,
    ) -> Path:
        """Stage 3: one camera movement, on top of adapter and motion module, from clips of balls at rest."""
        told = dict(self.settings["lora"])
        told["lr"] = lr or told["lr"]
        count = clips or told["clips"]
        facts = "-".join(f"{key}{value:+g}" for key, value in sorted(camera.items()))
        folder = self.clips(f"camera-{facts}-{count}", count, 20_000, "video", "still", **camera)
        module = self.module()
        return self._train(
            *(name, "motion_lora", told, folder),
            lora=LoraConfig(rank=rank or told["rank"]),
            motion=load_motion_module(module, fused_qkv=False),
            motion_file=str(module),
            adapter=True,
            objective={"debiased": debiased},
        )

    def fresh_module(self, kind: str = "attention", schedule: BetaSchedule = base.SCHEDULE) -> MotionModel:
        """An untrained motion model, the identity; the same seed gives the same weights."""
        unet = base.fresh_model(0).diffusion_model
        layout = MotionModuleConfig.for_unet(unet, "v3", beta_schedule=schedule, mid_block=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            if kind == "convolution":
                return ConvolutionModel(layout)
            motion = MotionModel(layout, fused_qkv=False)
        if kind == "no_positions":
            for name, table in motion.named_modules():
                if name.endswith(".pos_encoder"):
                    table.pe = torch.zeros_like(table.pe)
        return motion

    def load_module(self, path: Path, kind: str = "attention") -> MotionModel:
        """A trained motion model, for sampling."""
        if kind != "convolution":
            return load_motion_module(path, fused_qkv=False)
        motion = self.fresh_module(kind)
        motion.load_state_dict(load_file(path))
        return motion.requires_grad_(False).eval()

    def validation_loss(self, module: Path) -> float:
        """Of a motion module on clips of the video domain that it has not seen."""
        lines = (module.parent / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return next(
            v for v in (json.loads(x).get("validation/loss") for x in reversed(lines)) if v is not None
        )

    def _train(
        self,
        name: str,
        stage: str,
        told: dict[str, Any],
        clips: Path,
        *,
        motion: MotionModel | None = None,
        motion_file: str = "",
        fresh: str = "",
        code: tuple[str, ...] = ("world.py", "base.py"),
        adapter: bool = False,
        lora: LoraConfig | None = None,
        validation: ValidationConfig | None = None,
        objective: dict[str, float] | None = None,
        image_model: Path | None = None,
    ) -> Path:
        """One run of the trainer; its exported file.

        fresh: which untrained motion model this one is.
        code: files of this folder that say what is trained on what.
        """
        output = self.home / name
        path = output / f"{name}.safetensors"
        config = RunConfig(
            stage=stage,
            name=name,
            output=str(output),
            seed=self.seed,
            base=BaseConfig(
                checkpoint="small world", device="cpu", domain_adapter=str(self.adapter()) if adapter else ""
            ),
            motion=MotionConfig(file=motion_file),
            lora=lora or LoraConfig(),
            data=DataConfig(
                sources=(SourceConfig(path=str(clips), frame_folders=True),),
                resolutions=((world.SIZE, world.SIZE),),
                frames=world.FRAMES,
            ),
            cache=CacheConfig(folder=str(self.home / "cache")),
            objective=ObjectiveConfig(timestep_shift=told["shift"], **(objective or {})),
            optimizer=OptimizerConfig(
                lr=told["lr"], schedule="cosine", final_lr=told["lr"] / 50, warmup_steps=told["steps"] // 20
            ),
            train=TrainConfig(steps=told["steps"], batch_size=told["batch"], ema_decay=told["ema"]),
            checkpoints=CheckpointConfig(every=max(told["steps"] // 4, 1), keep=1),
            validation=validation or ValidationConfig(every=0),
            export=ExportConfig(dtype="float32"),
        )
        self._claim(output, _digest([_told(config), fresh], *code))
        if path.exists():
            return path
        model = base.load_base(image_model or self.image_model())
        bar = Bar(f"seed {self.seed}, {name}", told["steps"])
        try:
            done = train(config, resume=True, loaded=base.loaded(model, motion), watcher=bar)
        finally:
            bar.close()
        if done.file is None:
            raise KeyboardInterrupt
        shutil.rmtree(output / "checkpoints", ignore_errors=True)
        return path

    def _claim(self, output: Path, digest: str) -> None:
        """Make a folder that of this training: what another has left in it is removed. A run that is still to
        be made or to be finished is this code's too."""
        found = _read(output / RECORD)
        if found.get("digest") != digest:
            if output.exists():
                print(
                    f"seed {self.seed}, {output.name}: was trained from something else, so anew", flush=True
                )
                shutil.rmtree(output)
            found = {"digest": digest, "commits": []}
        finished = (output / f"{output.name}.safetensors").exists()
        if not finished and self.commit not in found["commits"]:
            found["commits"].append(self.commit)
            write_json(output / RECORD, found)
        self.used.update(found["commits"])


def _told(config: RunConfig) -> dict[str, Any]:
    """A run's configuration, with what lies in its files in place of where they lie."""
    told = to_dict(config)
    for key in ("output", "cache"):
        del told[key]
    del told["base"]["device"]
    for table, key in ((told["base"], "domain_adapter"), (told["motion"], "file")):
        table[key] = _read(Path(table[key]).parent / RECORD)["digest"] if table[key] else ""
    for source in (*told["data"]["sources"], *told["validation"]["sources"]):
        source["path"] = _clip_facts(Path(source["path"]))
    return told


def _clip_facts(folder: Path) -> dict[str, Any]:
    """What a folder of clips was drawn from; empty where it is not whole."""
    return _read(folder / "done")


def _read(path: Path) -> dict[str, Any]:
    """A small file of facts; empty where there is none."""
    return read_json(path) if path.exists() else {}


def _digest(facts: Any, *files: str) -> str:
    """Of settings and of the code that gives them meaning."""
    data = json.dumps(facts, sort_keys=True).encode() + b"".join((HERE / name).read_bytes() for name in files)
    return hashlib.sha256(data).hexdigest()[:10]


def state_folder() -> Path:
    """Where everything that can be made again lies."""
    return Path(os.environ.get("FLIPBOOK_EXPERIMENTS") or HERE.parent / ".flipbook" / "experiments")
