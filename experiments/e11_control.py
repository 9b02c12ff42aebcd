"""E11: a small hint encoder, trained on stills with the image model alone, tells where the ball shall be; its
residuals enter the UNet where those of ComfyUI's ControlNets do. The motion module has never met it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from tqdm import tqdm

from ..motion_core.files.tensor_file import save_tensors
from ..motion_core.schedule.beta_schedules import alphas_cumprod
from . import base, probes, world
from .bench import Bench
from .judging import compared, higher
from .results import Outcome, Table, Verdict

WIDTH = 64
AGAINST = {"left": "right", "right": "left", "up": "down", "down": "up"}
"""Direction of a caption -> that of its hints: were they the same, following the caption would pass for
following the hint."""


class HintEncoder(nn.Module):
    """A picture of where the ball is, (B, 1, 8, 8), to residuals for skips and middle; zero at first."""

    def __init__(self) -> None:
        super().__init__()
        self.large = nn.Sequential(
            nn.Conv2d(1, WIDTH, 3, padding=1), nn.SiLU(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.SiLU()
        )
        self.small = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1), nn.SiLU())
        self.to_skips = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 1) for _ in range(4))
        self.to_middle = nn.Conv2d(WIDTH, WIDTH, 1)
        for layer in (*self.to_skips, self.to_middle):
            nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)

    def forward(self, hint: torch.Tensor) -> dict[str, list[torch.Tensor]]:
        """As ComfyUI's UNet takes them, which empties the lists."""
        large = self.large(hint)
        small = self.small(large)
        levels = (large, large, small, small)
        skips = [layer(x) for layer, x in zip(self.to_skips, levels, strict=True)]
        return {"output": skips, "middle": [self.to_middle(small)]}


def hints(scenes: Sequence[world.Scene]) -> torch.Tensor:
    """Where the ball is in every frame of the scenes, (N, F, 1, 8, 8)."""
    maps = [probes.ball(world.render(scene)) for scene in scenes]
    return torch.from_numpy(np.stack(maps)).float().unsqueeze(2)


def encoder(bench: Bench, steps: int) -> HintEncoder:
    """Trained on stills, or read from where the last run has put it."""
    path = Path(bench.lab.home) / f"hints-{steps}.safetensors"
    torch.manual_seed(bench.lab.seed)
    net = HintEncoder()
    if path.exists():
        net.load_state_dict(load_file(path))
        return net.requires_grad_(False)
    unet = base.load_base(bench.lab.image_model()).diffusion_model
    scenes = [world.scene(bench.lab.seed, 70_000 + n) for n in range(300)]
    clips = np.stack([world.render(scene) for scene in scenes])
    pictures = base.to_latents(torch.from_numpy(clips).movedim(-1, 2))
    maps, context = hints(scenes), base.WordVectors()([scene.caption for scene in scenes])
    kept = alphas_cumprod(base.SCHEDULE).float()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    for step in tqdm(range(steps), desc=f"seed {bench.lab.seed}, hints", unit="step", mininterval=5):
        random = torch.Generator().manual_seed(bench.lab.seed * 1_000_003 + step)
        which = torch.randint(len(scenes), (32,), generator=random)
        frame = torch.randint(world.FRAMES, (32,), generator=random)
        t = ((torch.arange(32) + torch.rand(32, generator=random)) * (1000 / 32)).long()
        noise = torch.randn(32, 4, 8, 8, generator=random)
        signal, spread = kept[t].sqrt()[:, None, None, None], (1 - kept[t]).sqrt()[:, None, None, None]
        clean = pictures[which, frame]
        made = unet(signal * clean + spread * noise, t, context[which], control=net(maps[which, frame]))
        loss = F.mse_loss(made, signal * noise - spread * clean)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_tensors(path, net.state_dict(), {"format": "pt"})
    return net.requires_grad_(False)


def arms(config: dict[str, Any]) -> list[str]:
    """The method without control, with it, and the image model with it, frame by frame."""
    return ["without_control", "with_control", "per_frame_with_control"]


def run(arm: str, bench: Bench, config: dict[str, Any]) -> Outcome:
    """Moving captions and hints that lead the other way; `distance` is how far the ball is from its hint."""
    scenes = bench.scenes()
    led = [replace(scene, motion=f"moving {AGAINST[scene.motion.split()[-1]]}") for scene in scenes]
    maps = hints(led).flatten(0, 1)
    setup = bench.setup()
    if arm == "per_frame_with_control":
        setup = replace(setup, motion=None)
    if arm != "without_control":
        net = encoder(bench, config["steps"])
        setup = replace(setup, control=lambda x, t, context: net(maps.repeat(len(x) // len(maps), 1, 1, 1)))
    found = bench.shoot(setup, scenes)
    apart = [
        float(np.hypot(*(probes.track(clip) - probes.track(world.render(scene))).T).mean())
        for clip, scene in zip(found.clips, led, strict=True)
    ]
    obeys = [
        float(probes.direction(clip) == scene.motion.split()[-1])
        for clip, scene in zip(found.clips, led, strict=True)
    ]
    more = {"distance": [round(value, 5) for value in apart], "obeys": obeys}
    return replace(found, samples={**found.samples, **more})


def judge(table: Table, config: dict[str, Any]) -> list[Verdict]:
    """The ball must be where the hint is, and the frames as much alike as the module makes them."""
    ours, alone, frames = "with_control", "without_control", "per_frame_with_control"
    far = [table.mean(arm, "distance") for arm in (alone, ours)]
    return [
        Verdict(
            "within a pixel of a hint that leads against the caption, at most 0.6 of the way off without it",
            compared(table, ours, alone, "distance", ".2f"),
            far[1] <= min(1.0, 0.6 * far[0]),
        ),
        Verdict(
            "neighbouring frames more alike than the image model's with the same hints",
            compared(table, ours, frames, "smoothness"),
            higher(table, ours, frames, "smoothness"),
        ),
        Verdict(
            "path rougher than theirs by less than 0.1 px/frame²",
            compared(table, ours, frames, "roughness", ".2f"),
            table.difference(ours, frames, "roughness").high < 0.1,
        ),
        Verdict(
            "text within 10 points of that without control",
            compared(table, ours, alone, "text"),
            table.difference(ours, alone, "text").mean >= -0.1,
        ),
    ]
