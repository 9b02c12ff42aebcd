"""E0: bit for bit what the image model gives, for a clip and for a single frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..motion_core.module.injection import inserted
from ..motion_core.module.model import MotionCall, MotionModel
from . import base, world
from .bench import Bench
from .results import Outcome, Table, Verdict


def arms(config: dict[str, Any]) -> list[str]:
    """One, without training of motion."""
    return ["fresh"]


def run(arm: str, bench: Bench, config: dict[str, Any]) -> Outcome:
    """Values that differ between the UNet with a fresh module in it and the UNet alone."""
    return Outcome(values=differences(base.load_base(bench.lab.image_model()), bench))


@torch.no_grad()
def differences(image_model: Any, bench: Bench) -> dict[str, float]:
    """How many values of the output and of the base's weights differ; and, to show that these counts can be
    other than zero, how many of the output when the module's output layers are not."""
    unet = image_model.diffusion_model
    before = {name: weight.clone() for name, weight in unet.state_dict().items()}
    values = {}
    for name, frames, motion in (
        ("differing_clip", world.FRAMES, bench.lab.fresh_module),
        ("differing_frame", 1, bench.lab.fresh_module),
        ("differing_control", world.FRAMES, lambda: opened(bench.lab.fresh_module)),
    ):
        x = torch.randn(2 * frames, 4, 8, 8, generator=torch.Generator().manual_seed(bench.lab.seed))
        t, context = torch.full((len(x),), 500.0), base.WordVectors()(["a red ball"] * len(x))
        alone = unet(x, t, context)
        with inserted(unet, [(motion(), MotionCall(frames=frames))]):
            within = unet(x, t, context)
        values[name] = float((alone != within).sum())
    after = unet.state_dict()
    values["differing_weights"] = float(sum((before[name] != after[name]).sum() for name in before))
    return values


def opened(fresh: Callable[[], MotionModel]) -> MotionModel:
    """A fresh module whose output layers let through what they get."""
    motion = fresh()
    for name, weight in motion.named_parameters():
        if name.endswith("proj_out.weight"):
            weight.fill_(0.01)
    return motion


def judge(table: Table, config: dict[str, Any]) -> list[Verdict]:
    """All must be equal, and the module that is no identity must be seen."""
    found = {name: table.mean("fresh", name) for name in table.results[0].values}
    seen = found.pop("differing_control")
    return [
        Verdict(
            "output for 8 frames and for 1 frame, and the base's weights afterwards, equal to the last bit",
            f"{sum(found.values()):.0f} values differ",
            not any(found.values()),
        ),
        Verdict(
            "with output layers that are not zero, the output for 8 frames differs",
            f"{seen:.0f} values differ",
            seen > 0,
        ),
    ]
