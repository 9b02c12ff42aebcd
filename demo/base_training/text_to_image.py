"""Stage 3: UNet and text encoder, trained together on the latents."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as distributed
from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
from torch import nn

from ...motion_core.schedule.beta_schedules import BetaSchedule, alphas_cumprod
from .. import world
from ..tiny_family import build, tokenizer
from ..tiny_family.model import TinyAD
from .autoencoder import FIRST_LATENT
from .loop import Run
from .settings import STATE, Settings
from .states import read_state, started

PLACE_IS_SEEN = 700
"""Timestep below which noise shows where the shape is. Above it a weight would make shapes of the ground."""
SURROUNDINGS = (1.3, 5.0)
"""How far they reach from the shape's centre: so many radii and so many pixels more. The same for all shapes,
so that the weight does not tell them apart."""


class TextToImage(nn.Module):
    """UNet and text model, trained together."""

    def __init__(self, networks: build.TinyNetworks, bfloat16: bool) -> None:
        super().__init__()
        self.unet, self.text = networks.unet, networks.text.requires_grad_(True)
        self.bfloat16 = bfloat16

    def forward(self, latents: torch.Tensor, timesteps: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Predicted v (B, 4, H, W)."""
        context = self.text.encode_for_training(tokens)
        options = {"optimized_attention_override": full_precision} if self.bfloat16 else {}
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            return self.unet(latents, timesteps, context, transformer_options=options).float()


def full_precision(attention: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *more, **options):
    """ComfyUI's attention in fp32: for heads this narrow, PyTorch's backward pass in bfloat16 takes five
    times as long."""
    with torch.autocast("cpu", enabled=False):
        return attention(q.float(), k.float(), v.float(), *more, **options)


def fresh_text_to_image(settings: Settings) -> TextToImage:
    """The networks to train: an earlier checkpoint's, or new ones whose residual branches and output begin at
    zero, as usual for diffusion UNets."""
    model = TextToImage(build.build_networks(settings.seed), settings.bfloat16)
    if settings.start:
        model.unet.load_state_dict(started(settings, "model.diffusion_model."))
        model.text.load_state_dict(started(settings, "cond_stage_model."))
        return model
    with torch.no_grad():
        model.unet.out[-1].weight.zero_()
        for module in model.unet.modules():
            if isinstance(module, ResBlock):
                module.out_layers[-1].weight.zero_()
            elif isinstance(module, SpatialTransformer):
                module.proj_out.weight.zero_()
    return model


def caption_for_training(content: world.Scene, rng: np.random.Generator, empty: float) -> str:
    """The scene's caption, at times empty, partial, or with words in front that the vocabulary lacks."""
    if rng.random() < empty:
        return ""
    words = [content.colour, content.shape, content.motion, f"on a {content.texture} background"]
    if rng.random() < 0.15:
        words = [word for word in words if rng.random() < 0.6]
    caption = " ".join(words if not words or words[0].startswith("on") else ["a", *words])
    if rng.random() < 0.1:
        caption = "unknown " * int(rng.integers(1, 4)) + caption
    return caption


def surroundings(view: tuple[world.Scene, float, world.Camera]) -> torch.Tensor:
    """Which places of a still's latents lie within the surroundings of its shape: (16, 16) bool."""
    x, y, radius = world.seen_at(*view)
    radii, more = SURROUNDINGS
    centres = torch.arange(world.SIZE // 8) * 8.0 + 4.0
    return torch.hypot(centres[None, :] - x, centres[:, None] - y) < radii * radius + more


def family_schedule() -> BetaSchedule:
    """The noise schedule that ComfyUI gives a model of the family."""
    told = TinyAD.sampling_settings
    return BetaSchedule(told["beta_schedule"], told["linear_start"], told["linear_end"])


def train_unet(settings: Settings) -> None:
    """Stage 3. v prediction (arXiv 2202.00512) over the family's noise schedule. Its square error counts an
    error of the picture at every noise level, so the words, which decide where noise hides the rest,
    are learnt soon; under noise prediction that error is weighted by next to nothing there."""
    torch.manual_seed(settings.seed)
    run = Run("unet", fresh_text_to_image(settings), settings.unet_minutes, settings.unet_rate, settings.ema)
    if run.done:
        return
    latents = read_state(STATE / "latents.safetensors")[0]["latents"]
    views = [world.still_view(settings.seed, FIRST_LATENT + i, settings.look) for i in range(len(latents))]
    near = torch.stack([surroundings(view) for view in views])
    words = tokenizer.WordTokenizer(tokenizer.read_vocabulary())
    kept = alphas_cumprod(family_schedule()).float()
    rank, workers = distributed.get_rank(), distributed.get_world_size()
    batch = settings.unet_batch // workers

    def loss_of_step(step: int) -> torch.Tensor:
        rng = np.random.default_rng([settings.seed, 7, step, rank])
        random = torch.Generator().manual_seed(settings.seed * 1_000_003 + step * workers + rank)
        which = rng.integers(0, len(latents), batch)
        captions = [caption_for_training(views[i][0], rng, settings.empty_captions) for i in which]
        tokens = torch.full((batch, tokenizer.CONTEXT_LENGTH), tokenizer.END)
        for row, caption in enumerate(captions):
            numbers = words(caption)["input_ids"]
            tokens[row, : len(numbers)] = torch.tensor(numbers)
        # one timestep in each of as many equal parts of the schedule as there are latents: a quieter loss
        part = torch.arange(batch) * workers + rank
        t = (part + torch.rand(batch, generator=random)) / (batch * workers)
        first, end = settings.focus
        t = torch.where(part % 2 == 0, first + t * (end - first), t * 1000).long()
        clean = latents[torch.from_numpy(which)]
        noise = torch.randn(clean.shape, generator=random)
        a = kept[t].view(-1, 1, 1, 1)
        noisy = a.sqrt() * clean + (1 - a).sqrt() * noise
        made = run.network(noisy, t, tokens)
        target = a.sqrt() * noise - (1 - a).sqrt() * clean
        weighted = near[torch.from_numpy(which)] & (t < PLACE_IS_SEEN).view(-1, 1, 1)
        weight = torch.where(weighted, settings.shape_weight, 1.0)[:, None]
        return ((made - target).square() * weight).mean()

    run.train(loss_of_step)
