"""Checkpoints of the tiny family: its three networks with random weights, and their layout in one file.

`write_random_checkpoint` serves tests and first runs, which need a model of the right shape and not a good
one; the training script builds and writes its networks with the same functions.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import comfy.ops
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.taesd.taesd import TAESD
from safetensors.torch import save_file
from torch import nn

from .model import TinyAD, TinySDClipModel

UNET_SHAPE = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 1, 2],
    "transformer_depth": [1, 1, 0],  # as in SD1.5 the deepest level has no attention on the way down and up
    "transformer_depth_output": [1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "use_spatial_transformer": True,
    "legacy": False,
    "num_heads": 8,
    "model_channels": TinyAD.unet_config["model_channels"],
    "context_dim": TinyAD.unet_config["context_dim"],
}


@dataclass
class TinyNetworks:
    """The trained parts of a checkpoint."""

    unet: UNetModel
    """Denoiser: latents (B, 4, H, W), timesteps (B), context (B, N, 64) to noise (B, 4, H, W)."""
    text: TinySDClipModel
    """Text model: token numbers (B, 32) to context (B, 32, 64)."""
    vae: TAESD
    """Autoencoder: pictures (B, 3, 8H, 8W) in -1..1 to latents (B, 4, H, W) and back."""


def _initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Fresh weights from the generator. ComfyUI's layers leave theirs uninitialised, for speed of loading."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, std=fan_in**-0.5, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=module.weight.shape[1] ** -0.5, generator=generator)


def build_networks(seed: int = 0) -> TinyNetworks:
    """Fresh fp32 networks on the CPU; the same seed gives the same weights."""
    generator = torch.Generator().manual_seed(seed)
    networks = TinyNetworks(
        unet=UNetModel(**UNET_SHAPE, operations=comfy.ops.disable_weight_init),
        text=TinySDClipModel(
            dtype=torch.float32, model_options={"custom_operations": comfy.ops.disable_weight_init}
        ),
        vae=TAESD(latent_channels=4),
    )
    with torch.no_grad():
        for network in (networks.unet, networks.text, networks.vae):
            _initialise(network, generator)
    return networks


def write_checkpoint(path: Path, networks: TinyNetworks, metadata: dict[str, str] | None = None) -> None:
    """Write the networks as one fp16 safetensors checkpoint with SD1.5's key names, whole or not at all."""
    state = {}
    parts = (
        ("model.diffusion_model.", networks.unet),
        ("cond_stage_model.", networks.text),
        ("first_stage_model.", networks.vae),
    )
    for prefix, network in parts:
        for key, value in network.state_dict().items():
            state[prefix + key] = value.detach().to(torch.float16).contiguous()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    save_file(state, temporary, metadata={"format": "pt", **(metadata or {})})
    os.replace(temporary, path)


def write_random_checkpoint(path: Path, seed: int = 0) -> None:
    """Write a checkpoint of the tiny family with random weights: right shape, meaningless pictures."""
    write_checkpoint(path, build_networks(seed), {"family": "tiny_ad", "weights": f"random, seed {seed}"})
