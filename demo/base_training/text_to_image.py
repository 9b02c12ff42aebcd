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
from .autoencoder import picture
from .loop import Run
from .settings import STATE, Settings
from .states import read_state, started


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


def captions_of_scene(settings: Settings, scene: int, rng: np.random.Generator) -> list[str]:
    """Captions of a scene's pictures: the same words are left out of all of them."""
    form, shapes = int(rng.integers(2**31)), len(world.SHAPES)
    contents = [picture(settings, scene * shapes + shape)[0] for shape in range(shapes)]
    return [
        caption_for_training(content, np.random.default_rng(form), settings.empty_captions)
        for content in contents
    ]


def family_schedule() -> BetaSchedule:
    """The noise schedule that ComfyUI gives a model of the family."""
    told = TinyAD.sampling_settings
    return BetaSchedule(told["beta_schedule"], told["linear_start"], told["linear_end"])


def train_unet(settings: Settings) -> None:
    """Stage 3. v prediction (arXiv 2202.00512) over the family's noise schedule. Its square error counts an
    error of the picture at every noise level, so the words, which decide where noise hides the rest,
    are learnt soon; under noise prediction that error is weighted by next to nothing there.

    A word for a shape is not learnt so: where noise shows an outline, the network looks at it and not at the
    word, and where noise hides it, noise hides the place as well. So at half of the timesteps it is shown
    another picture of the scene than the caption's: the place is right, and the outline must come from the
    word."""
    torch.manual_seed(settings.seed)
    run = Run("unet", fresh_text_to_image(settings), settings.unet_minutes, settings.unet_rate, settings.ema)
    if run.done:
        return
    latents = read_state(STATE / "latents.safetensors")[0]["latents"]
    shapes = len(world.SHAPES)
    words = tokenizer.WordTokenizer(tokenizer.read_vocabulary())
    kept = alphas_cumprod(family_schedule()).float()
    rank, workers = distributed.get_rank(), distributed.get_world_size()
    groups = settings.unet_batch // shapes // workers

    def loss_of_step(step: int) -> torch.Tensor:
        rng = np.random.default_rng([settings.seed, 7, step, rank])
        random = torch.Generator().manual_seed(settings.seed * 1_000_003 + step * workers + rank)
        scenes = rng.integers(0, len(latents) // shapes, groups)
        tokens = torch.full((groups, shapes, tokenizer.CONTEXT_LENGTH), tokenizer.END)
        # one timestep in each of as many equal parts of the schedule as there are scenes: a quieter loss
        part = torch.arange(groups) * workers + rank
        t = (part + torch.rand(groups, generator=random)) / (groups * workers)
        first, end = settings.focus
        t = torch.where(part % 2 == 0, first + t * (end - first), t * 1000).long()
        clean = latents.unflatten(0, (-1, shapes))[torch.from_numpy(scenes)]
        shown = clean.clone()
        for group, number in enumerate(scenes):
            captions = captions_of_scene(settings, int(number), rng)
            for shape, caption in enumerate(captions):
                numbers = words(caption)["input_ids"]
                tokens[group, shape, : len(numbers)] = torch.tensor(numbers)
            if part[group] % 2 == 0 and len(set(captions)) == shapes:
                shown[group] = clean[group].roll(int(rng.integers(1, shapes)), 0)
        noise = torch.randn(groups, 1, *clean.shape[2:], generator=random)
        a = kept[t].view(-1, 1, 1, 1, 1)
        noisy = a.sqrt() * shown + (1 - a).sqrt() * noise
        made = run.network(noisy.flatten(0, 1), t.repeat_interleave(shapes), tokens.flatten(0, 1))
        # with the noise that would have made of the caption's picture what is shown
        target = a.sqrt() * (noisy - a.sqrt() * clean) / (1 - a).sqrt() - (1 - a).sqrt() * clean
        weight = 1 + (settings.word_weight - 1) * (1 - run.progress)
        return weighted_error(made.unflatten(0, (groups, shapes)) - target, weight)

    run.train(loss_of_step)


def weighted_error(errors: torch.Tensor, weight: float) -> torch.Tensor:
    """Mean square of errors (groups, pictures of a group, ...), with a weight for what differs in a group.

    The pictures of a group have scene, noise and timestep in common and differ in one word. What they all get
    wrong alike, above all a ground that noise hides, says nothing about that word but is nearly all of the
    error; what they get wrong differently is the word's.
    """
    differing = errors - errors.mean(1, keepdim=True)
    return errors.square().mean() + (weight - 1) * differing.square().mean()
