"""One training step of each stage, with and without gradient checkpointing."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..motion_core.schedule.beta_schedules import SQRT_LINEAR
from ..training import randomness
from ..training.config import from_dict
from ..training.model.base_model import BaseModel, autocast
from ..training.model.denoiser import Denoiser, build, trained_tensors
from ..training.model.loaded import Loaded
from ..training.run.objective import Objective
from ..training.run.optimizing import make_optimizer
from .machine import GIB, Measured, Meter, gib
from .models import Family, base_model, motion_model, patcher_of
from .rows import Row
from .sizes import Budget, TooLarge, climb, highest, measured_at, ratio, rounds_after, times
from .steps import require_weights

STAGES = ("motion_module", "motion_lora", "domain_adapter")
"""In this order they can share a base: the last one puts layers into it."""
NO_TRAINER = "no comparison: diffusers has no training of motion modules"
ADAM = 16
"""Bytes that a trained value takes: weight, gradient and two moments in fp32."""


class Trainer:
    """A frozen base in the run's precision, shared by the stages."""

    def __init__(self, family: Family, precision: str, meter: Meter, budget: Budget, frames: int) -> None:
        self.family, self.precision, self.meter, self.frames = family, precision, meter, frames
        cpu = torch.device("cpu")
        # Where the base is on the CPU already, two of it are there while it is copied.
        self.held = require_weights(family, torch.bfloat16, meter, budget, 2 if meter.device == cpu else 1)
        base = base_model(family, torch.bfloat16, cpu)
        motion = motion_model(base.diffusion_model, family, torch.bfloat16, cpu)
        loaded = Loaded(patcher_of(base, cpu), None, None, motion, "")
        config = from_dict(self._tree("motion_module", False)).base
        self.base = BaseModel(config, meter.device, precision, encoders=False, loaded=loaded)
        base.diffusion_model = None  # the trainer has its copy, and memory is short
        self.values = sum(p.numel() for p in motion.parameters())

    def _tree(self, stage: str, recompute: bool) -> dict:
        return {
            "stage": stage,
            "name": "bench",
            "output": ".",
            "base": {"checkpoint": "random weights", "device": self.meter.device.type},
            "motion": {"file": "random weights" if stage == "motion_lora" else ""},
            "data": {"sources": [{"path": "."}], "frames": 1 if stage == "domain_adapter" else self.frames},
            "lora": {"rank": 128 if stage == "domain_adapter" else 64},
            "train": {"precision": self.precision, "gradient_checkpointing": recompute},
        }

    def require_memory(self, stage: str, budget: Budget) -> None:
        """Raises TooLarge where weights, gradients and moments alone do not fit."""
        free = min(budget.memory - self.held, self.meter.free())
        need = ADAM * self.values if stage == "motion_module" else 0
        if need > free:
            raise TooLarge(
                f"left out: {need / GIB:.1f} GiB of weights, gradients and moments, and {free / GIB:.1f} GiB "
                "are free"
            )

    def stage(self, stage: str) -> Stage:
        """One stage, ready for steps."""
        config = from_dict(self._tree(stage, False))
        return Stage(self, config, build(config, self.base))


class Stage:
    """A stage in training."""

    def __init__(self, trainer: Trainer, config, denoiser: Denoiser) -> None:
        self.trainer, self.config, self.denoiser = trainer, config, denoiser
        self.weights = trained_tensors(denoiser)
        self.optimizer = make_optimizer(denoiser.trained, config.optimizer)
        self.objective = Objective(config.objective, SQRT_LINEAR, "eps")

    @property
    def values(self) -> int:
        """That are trained."""
        return sum(weight.numel() for weight in self.weights.values())

    def step(self, pixels: int) -> None:
        """Forward, backward and update for one clip of random numbers, or as many single frames."""
        trainer, frames, device = self.trainer, self.config.frames, self.trainer.meter.device
        clips = trainer.frames // frames
        latents = randomness.gaussian((clips, frames, 4, pixels // 8, pixels // 8), "latents").to(device)
        context = randomness.gaussian((clips, 77, trainer.family.width), "context").to(device)
        y = None
        if trainer.family.vector:
            y = randomness.gaussian((clips, trainer.family.vector), "vector").to(device)
        noised = self.objective.noised(latents, [(0, clip, 0) for clip in range(clips)])
        with self.denoiser.attached(frames):
            with autocast(device, trainer.precision):
                prediction = self.denoiser(noised.latents, noised.timesteps, context, y)
            self.objective.losses(prediction, noised).mean().backward()
        torch.nn.utils.clip_grad_norm_(self.weights.values(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def measure_stage(row: Row, trainer: Trainer, stage: str, pixels: int, budget: Budget) -> None:
    """Fill a row of the part ``train``."""
    trainer.require_memory(stage, budget)
    running, meter = trainer.stage(stage), trainer.meter

    def step(size: int, recompute: bool) -> None:
        running.denoiser.recompute = recompute
        running.step(size)

    def calls(size: int) -> dict[str, Callable[[], None]]:
        return {"off": lambda: step(size, False), "on": lambda: step(size, True)}

    def trial(size: int) -> dict[str, Measured]:
        return {name: meter.measure(call) for name, call in calls(size).items()}

    running.step(min(64, pixels))  # gradients' and moments' memory is taken, and libraries are warm
    taken = climb(pixels, trial, budget, meter, rounds_after(meter.device), trainer.held)
    found = measured_at(taken, calls(taken.pixels), meter, budget, row)
    off, on = found["off"], found["on"]
    least, most = highest(on), highest(off)
    row.figures |= {
        "px": taken.pixels,
        "million values": running.values / 1e6,
        **times("step", off, meter),
        **times("checkpointing", on, meter),
        "time on / off": ratio(on, off),
        "peak GiB": gib(most),
        "checkpointing peak GiB": gib(least),
        "memory on / off": least / most if most and least is not None else None,
    }
    row.notes += [NO_TRAINER, *([taken.note] if taken.note else [])]
