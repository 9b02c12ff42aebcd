"""E3: position tables of zeros, in training and at inference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from ..motion_core.module.injection import inserted
from ..motion_core.module.model import MotionCall, MotionModel
from . import base, world
from .bench import Bench
from .judging import compared
from .results import Outcome, Table, Verdict


def arms(config: dict[str, Any]) -> list[str]:
    """With and without."""
    return ["with_positions", "without_positions"]


def run(arm: str, bench: Bench, config: dict[str, Any]) -> Outcome:
    """Samples, and how far the module's answer for shuffled frames is from its shuffled answer."""
    setup = bench.setup("attention" if arm == "with_positions" else "no_positions")
    found = bench.shoot(setup, bench.scenes())
    return replace(found, values={"order_matters": order_matters(bench, setup.motion)})


@torch.no_grad()
def order_matters(bench: Bench, motion: MotionModel) -> float:
    """Largest difference between the answer for shuffled frames and the shuffled answer."""
    unet = base.load_base(bench.lab.image_model()).diffusion_model
    random = torch.Generator().manual_seed(bench.lab.seed)
    x = torch.randn(world.FRAMES, 4, 8, 8, generator=random)
    order = torch.randperm(world.FRAMES, generator=random)
    t, context = torch.full((len(x),), 500.0), base.WordVectors()(["a red ball moving left"] * len(x))
    with inserted(unet, [(motion, MotionCall(frames=world.FRAMES))]):
        return float((unet(x, t, context)[order] - unet(x[order], t, context)).abs().max())


def judge(table: Table, config: dict[str, Any]) -> list[Verdict]:
    """The specification's limits; chance leaves 25 %, and 10 points for the small number of samples."""
    right = [table.mean(arm, "direction") for arm in arms(config)]
    exact = [table.mean(arm, "order_matters") for arm in arms(config)]
    return [
        Verdict(
            "right directions without positions at chance (at most 35 %), with them at least 30 points more",
            compared(table, *arms(config), "direction"),
            right[1] <= 0.35 and right[0] - right[1] >= 0.3,
            gate=config["follows"],
        ),
        Verdict(
            "without positions the order of the frames makes no difference (below 1e-4)",
            f"{exact[1]:.1e}, with positions {exact[0]:.1e}",
            exact[1] < 1e-4 < exact[0],
        ),
    ]
