"""How well a setup foretells the noise in drawn clips: the loss that the trainer minimises, at fixed noise
and timesteps, so that two setups are compared clip by clip. It falls before samples show what was learnt.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch

from ..motion_core.files.lora import read_lora
from ..motion_core.module.injection import inserted
from ..motion_core.module.model import MotionCall
from ..motion_core.schedule.beta_schedules import alphas_cumprod
from ..training.model.adapters import merge_domain_adapter
from . import base, world
from .sampling import Setup, add_loras

TIMESTEPS = (100, 300, 500, 700, 900)


@torch.no_grad()
def losses(setup: Setup, scenes: Sequence[world.Scene], camera: world.Camera, seed: int) -> list[float]:
    """Mean squared error of the predicted v (arXiv 2202.00512) on the scenes as videos that this camera took,
    one figure for each."""
    unet = base.load_base(setup.base).diffusion_model
    if setup.adapter is not None:
        merge_domain_adapter(unet, read_lora(setup.adapter), setup.alpha)
    motion = copy.deepcopy(setup.motion)
    add_loras(motion, setup.loras)
    kept = alphas_cumprod(setup.schedule).float()
    clips = np.stack([world.render(scene, "video", camera) for scene in scenes])
    clean = base.to_latents(torch.from_numpy(clips).movedim(-1, 2)).flatten(0, 1)
    context = base.WordVectors()([scene.caption for scene in scenes]).repeat_interleave(world.FRAMES, 0)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    total = torch.zeros(len(scenes))
    with inserted(unet, [(motion, MotionCall(frames=world.FRAMES))]):
        for step in TIMESTEPS:
            signal, spread = kept[step].sqrt(), (1 - kept[step]).sqrt()
            made = unet(signal * clean + spread * noise, torch.full((len(clean),), float(step)), context)
            total += (
                (made - signal * noise + spread * clean)
                .square()
                .unflatten(0, (len(scenes), -1))
                .mean((1, 2, 3, 4))
            )
    return [round(float(value), 6) for value in total / len(TIMESTEPS)]
