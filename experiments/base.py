"""The image model of the experiments: a UNet of ComfyUI over the pixels of the small world, trained from
nothing, and what stands around it in the forms that the trainer takes over from ComfyUI.

The UNet is ComfyUI's `UNetModel` with SD1.5's topology cut to two levels of width 64 (narrower, and group
normalisation over 32 groups would see one channel a group and lose its mean). Its latents are the pixels
themselves, so that no autoencoder stands between a claim and its measure; texts are frozen word vectors.

Shapes: B pictures, latents (B, 4, 8, 8) of which the fourth channel is empty, context (B, 16, 64).
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.latent_formats
import comfy.model_patcher
import comfy.ops
import comfy.supported_models
import numpy as np
import torch
from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock, UNetModel
from comfy.model_base import ModelType
from safetensors.torch import load_file
from torch import nn
from tqdm import tqdm

from ..motion_core.files.tensor_file import save_tensors
from ..motion_core.module.layers import sinusoidal_positions
from ..motion_core.module.model import MotionModel
from ..motion_core.schedule.beta_schedules import BetaSchedule, alphas_cumprod
from ..training.model.loaded import Loaded, fingerprint
from . import world

SCALE = 4.0
"""Latents are (pixel - 0.5) times this: about unit variance."""
WIDTH, TOKENS = 64, 16
SCHEDULE = BetaSchedule("linear", 0.00085, 0.020)
"""Of the base. Noisier at the end than SD1.5's: 8 frames repeat what they show, and through the noise that
SD1.5's last step leaves one can still read from them which way a ball goes, while sampling starts from noise
without such a trace."""
UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 64,
    "channel_mult": [1, 1],
    "num_res_blocks": [1, 1],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "use_spatial_transformer": True,
    "legacy": False,
    "num_heads": 8,
    "context_dim": WIDTH,
}


class SmallWorldModel(comfy.supported_models.SD15):
    """What ComfyUI is told of the family."""

    unet_config: dict[str, Any] = {}
    latent_format = comfy.latent_formats.LatentFormat
    sampling_settings = {
        "beta_schedule": SCHEDULE.name,
        "linear_start": SCHEDULE.start,
        "linear_end": SCHEDULE.end,
    }

    def model_type(self, state_dict: dict, prefix: str = "") -> ModelType:
        """v prediction (arXiv 2202.00512): what only the prompt decides counts as much as what the noise
        leaves to see, so few steps of training suffice."""
        return ModelType.V_PREDICTION


class Pixels:
    """Stands where a VAE does: the latents are the pixels."""

    device, vae_dtype = torch.device("cpu"), torch.float32

    def __init__(self, patcher: Any) -> None:
        self.patcher = patcher
        self.first_stage_model = SimpleNamespace(encode=lambda x: x)

    def process_input(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels (F, 3, 8, 8) in 0..1 -> latents."""
        return to_latents(pixels)


class WordVectors:
    """Stands where CLIP does: a frozen orthonormal vector for each word, plus its place."""

    cond_stage_model = None

    def __init__(self) -> None:
        self.vocabulary = {word: row for row, word in enumerate(["", *world.words()])}
        random = torch.Generator().manual_seed(0)
        table = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=random))[0]
        self.table = table[: len(self.vocabulary)] * WIDTH**0.5

    def tokenize(self, text: str, disable_weights: bool = True) -> list[int]:
        """Word numbers, padded with the empty word.

        Raises:
            ValueError: a word that the world does not have.
        """
        unknown = [word for word in text.split() if word not in self.vocabulary]
        if unknown:
            raise ValueError(
                f"The small world has no word {unknown[0]!r}; it has {', '.join(world.words())}."
            )
        numbers = [self.vocabulary[word] for word in text.split()]
        return (numbers + [0] * TOKENS)[:TOKENS]

    def encode_from_tokens(self, tokens: list[int], return_dict: bool = True) -> dict[str, Any]:
        """The form in which ComfyUI's CLIP answers; states (1, 16, 64)."""
        states = self.table[tokens] + 0.5 * sinusoidal_positions(TOKENS, WIDTH)[0]
        return {"cond": states[None], "pooled_output": None}

    def __call__(self, texts: list[str]) -> torch.Tensor:
        """Context (B, 16, 64)."""
        return torch.cat([self.encode_from_tokens(self.tokenize(text))["cond"] for text in texts])


def to_latents(pixels: torch.Tensor) -> torch.Tensor:
    """(..., 3, 8, 8) in 0..1 -> (..., 4, 8, 8)."""
    return torch.cat([(pixels - 0.5) * SCALE, torch.zeros_like(pixels[..., :1, :, :])], dim=-3)


def to_pixels(latents: torch.Tensor) -> np.ndarray:
    """(..., 4, 8, 8) -> (..., 8, 8, 3) in 0..1."""
    return (latents[..., :3, :, :] / SCALE + 0.5).clamp(0, 1).movedim(-3, -1).numpy()


def fresh_model(seed: int) -> Any:
    """ComfyUI's model with random weights; residual branches and output begin at zero, as usual."""
    told = SmallWorldModel(dict(UNET))
    told.set_inference_dtype(torch.float32, None)
    told.custom_operations = comfy.ops.disable_weight_init
    model = told.get_model({}, "", device="cpu")
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.diffusion_model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.weight.normal_(std=module.weight[0].numel() ** -0.5, generator=random)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
                module.weight.fill_(1.0), module.bias.zero_()
        for module in model.diffusion_model.modules():
            if isinstance(module, ResBlock):
                module.out_layers[-1].weight.zero_()
            elif isinstance(module, SpatialTransformer):
                module.proj_out.weight.zero_()
        model.diffusion_model.out[-1].weight.zero_()
    return model


def train_base(
    unet: UNetModel, seed: int, steps: int, batch: int, rate: float, domain: str = "image"
) -> None:
    """Train a text-to-image model on stills, in place."""
    pool = [world.still(seed, index, domain) for index in range(4096)]
    pictures = to_latents(torch.from_numpy(np.stack([picture for picture, _ in pool])).movedim(-1, 1))
    words = WordVectors()
    context, empty = words([caption for _, caption in pool]), words([""])
    kept = alphas_cumprod(SCHEDULE).float()
    unet.train().requires_grad_(True)
    average = copy.deepcopy(unet)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=rate, weight_decay=1e-3)
    for step in tqdm(range(steps), desc=f"base, seed {seed}, {domain}", unit="step", mininterval=5):
        random = torch.Generator().manual_seed(seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        which = torch.randint(len(pool), (batch,), generator=random)
        # one timestep in each of as many equal parts of the schedule as there are pictures: a quieter loss
        t = ((torch.arange(batch) + torch.rand(batch, generator=random)) * (1000 / batch)).long()
        clean, noise = pictures[which], torch.randn(batch, 4, 8, 8, generator=random)
        signal, spread = kept[t].sqrt()[:, None, None, None], (1 - kept[t]).sqrt()[:, None, None, None]
        told = torch.where(torch.rand(batch, 1, 1, generator=random) < 0.1, empty, context[which])
        made = unet(signal * clean + spread * noise, t, told)
        loss = (made - (signal * noise - spread * clean)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            decay = min(0.99, (step + 1) / (step + 10))
            torch._foreach_lerp_(list(average.parameters()), list(unet.parameters()), 1 - decay)
    unet.load_state_dict(average.state_dict())
    unet.eval().requires_grad_(False)


def save_base(path: Path, unet: UNetModel) -> None:
    """Write the weights, whole or not at all."""
    save_tensors(path, unet.state_dict(), {"format": "pt"})


def load_base(path: Path) -> Any:
    """ComfyUI's model with the weights of a file."""
    model = fresh_model(0)
    model.diffusion_model.load_state_dict(load_file(path))
    model.diffusion_model.eval().requires_grad_(False)
    return model


def loaded(model: Any, motion: MotionModel | None = None) -> Loaded:
    """What the trainer takes in place of a checkpoint."""
    cpu = torch.device("cpu")
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)
    pixels = comfy.model_patcher.ModelPatcher(nn.Identity(), load_device=cpu, offload_device=cpu)
    # of the encoders alone: latents and texts are the same for every UNet, so one cache serves all
    return Loaded(
        patcher, WordVectors(), Pixels(pixels), motion, fingerprint("pixels of the small world", SCALE)
    )
