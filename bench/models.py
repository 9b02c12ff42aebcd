"""Full-size models with random weights, and diffusers' own model on the same weights.

Shapes: ``F`` frames, ``C`` channels, ``H W`` latent height and width, ``N`` tokens, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import comfy.model_base
import comfy.ops
import comfy.supported_models
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from torch import nn

from ..motion_core.module.config import MotionModuleConfig
from ..motion_core.module.model import MotionModel

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}

_SHARED = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "use_spatial_transformer": True,
    "legacy": False,
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
}


@dataclass(frozen=True)
class Family:
    """One kind of base model, in the words of ComfyUI and of diffusers."""

    title: str
    config: type
    """ComfyUI's class for its checkpoints."""
    unet: dict[str, Any]
    """Arguments of ComfyUI's UNet."""
    diffusers: dict[str, Any]
    """Arguments of diffusers' UNetMotionModel that are not its defaults."""
    generation: str
    """Whose motion module is put on it."""
    width: int
    """Of the token states."""
    vector: int
    """Of SDXL's second condition; 0 without one."""


def sd15(channels: int = 320) -> Family:
    """SD1.5, or its shape at another width."""
    return Family(
        "SD1.5",
        comfy.supported_models.SD15,
        _SHARED
        | {
            "model_channels": channels,
            "num_res_blocks": [2, 2, 2, 2],
            "channel_mult": [1, 2, 4, 4],
            "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
            "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
            "transformer_depth_middle": 1,
            "use_linear_in_transformer": False,
            "adm_in_channels": None,
            "context_dim": 768,
            "num_heads": 8,
            "num_head_channels": -1,
        },
        {
            "block_out_channels": [channels, 2 * channels, 4 * channels, 4 * channels],
            "cross_attention_dim": 768,
        },
        "v3",
        768,
        0,
    )


def sdxl(channels: int = 320) -> Family:
    """SDXL, or its shape at another width."""
    return Family(
        "SDXL",
        comfy.supported_models.SDXL,
        _SHARED
        | {
            "model_channels": channels,
            "num_res_blocks": [2, 2, 2],
            "channel_mult": [1, 2, 4],
            "transformer_depth": [0, 0, 2, 2, 10, 10],
            "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
            "transformer_depth_middle": 10,
            "use_linear_in_transformer": True,
            "num_classes": "sequential",
            "adm_in_channels": 2816,
            "context_dim": 2048,
            "num_head_channels": 64,
        },
        {
            "block_out_channels": [channels, 2 * channels, 4 * channels],
            "down_block_types": ["DownBlockMotion", *["CrossAttnDownBlockMotion"] * 2],
            "up_block_types": [*["CrossAttnUpBlockMotion"] * 2, "UpBlockMotion"],
            "transformer_layers_per_block": [1, 2, 10],
            "num_attention_heads": [channels * n // 64 for n in (1, 2, 4)],
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        "sdxl",
        2048,
        2816,
    )


FAMILIES = {"sd15": sd15, "sdxl": sdxl}


def base_model(family: Family, dtype: torch.dtype, device: torch.device) -> comfy.model_base.BaseModel:
    """ComfyUI's model of a family, with random weights."""
    config = family.config({**family.unet})
    config.set_inference_dtype(dtype, None)
    config.custom_operations = comfy.ops.disable_weight_init  # weights that nobody will load need no start
    model = config.get_model({}, device=device)
    return fill(model.eval().to(device))


def motion_model(
    unet: nn.Module,
    family: Family,
    dtype: torch.dtype,
    device: torch.device,
    operations: Any = comfy.ops.manual_cast,
    **layout: Any,
) -> MotionModel:
    """A motion module for it, with random weights; further arguments as of MotionModuleConfig.for_slots."""
    config = MotionModuleConfig.for_unet(unet, family.generation, **layout)
    return fill(MotionModel(config, operations=operations, dtype=dtype, device=device), seed=1).eval()


@torch.no_grad()
def fill(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights of a size that keeps activations near 1. The same numbers serve all layers, in turn:
    drawing a billion of them would take longer than what is measured."""
    generator = torch.Generator().manual_seed(seed)
    pool = torch.randn(2**20 + 7, generator=generator)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            flat, scale = parameter.view(-1), parameter[0].numel() ** -0.5
            numbers = (pool * scale).to(parameter)
            for start in range(0, flat.numel(), numbers.numel()):
                part = flat[start : start + numbers.numel()]
                part.copy_(numbers[: part.numel()])
        else:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    return model.requires_grad_(False)


def patcher_of(model: comfy.model_base.BaseModel, device: torch.device) -> ModelPatcher:
    """A MODEL as a loader node would give it."""
    return ModelPatcher(model, load_device=device, offload_device=torch.device("cpu"))


def inputs(family: Family, frames: int, latent: int, dtype: torch.dtype, device: torch.device) -> dict:
    """What a UNet call takes for one video: x (F, 4, H, W), timesteps (F,), context (F, 77, D), y (F, A)."""
    generator = torch.Generator().manual_seed(2)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device=device, dtype=dtype)

    given = {
        "x": numbers(frames, 4, latent, latent),
        "timesteps": torch.full((frames,), 500.0, device=device),
        "context": numbers(1, 77, family.width).expand(frames, -1, -1).contiguous(),
    }
    if family.vector:
        # Pooled text and the numbers of SDXL's picture size, the latter as sines.
        given["y"] = numbers(1, family.vector).expand(frames, -1).contiguous()
    return given


# --- diffusers ---


def diffusers_twin(family: Family, unet: nn.Module, motion: MotionModel) -> nn.Module:
    """diffusers' UNetMotionModel on the very tensors of our models: nothing is copied.

    Raises:
        ImportError: diffusers is not installed.
        RuntimeError: its layers have other names or shapes than expected.
    """
    from diffusers import UNetMotionModel

    with torch.device("meta"):
        twin = UNetMotionModel(
            **family.diffusers,
            motion_max_seq_length=motion.config.pe_length,
            use_motion_mid_block=motion.config.mid_block,
        )
    ours, wanted = unet.state_dict(), set(twin.state_dict())
    # ComfyUI's table also has the names of other kinds of models, and of layers that this one lacks.
    state = {
        theirs: ours[name]
        for theirs, name in comfy.utils.unet_to_diffusers(family.unet).items()
        if name in ours and theirs in wanted
    }
    state |= dict(motion_for_diffusers(motion))
    twin.load_state_dict(state, assign=True)
    return twin.eval().requires_grad_(False)


def motion_for_diffusers(motion: MotionModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Our motion module's tensors under diffusers' names."""
    for name, module in motion.motion_modules():
        transformer = module.temporal_transformer
        for part in ("norm", "proj_in", "proj_out"):
            yield from _layer(f"{name}.{part}", getattr(transformer, part))
        for number, block in enumerate(transformer.transformer_blocks):
            prefix = f"{name}.transformer_blocks.{number}"
            for index, (attention, norm) in enumerate(
                zip(block.attention_blocks, block.norms, strict=True), 1
            ):
                yield from _layer(f"{prefix}.norm{index}", norm)
                for key, weight in zip("qkv", attention.to_qkv.weight.chunk(3), strict=True):
                    yield f"{prefix}.attn{index}.to_{key}.weight", weight
                yield from _layer(f"{prefix}.attn{index}.to_out.0", attention.to_out[0])
            yield from _layer(f"{prefix}.norm3", block.ff_norm)
            yield from _layer(f"{prefix}.ff.net.0.proj", block.ff.net[0].proj)
            yield from _layer(f"{prefix}.ff.net.2", block.ff.net[2])
            table = block.attention_blocks[0].pos_encoder.pe
            yield f"{prefix}.pos_embed.pe", table.to(transformer.proj_in.weight)


def _layer(name: str, layer: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Weight and, if there is one, bias."""
    for key, tensor in layer.named_parameters(recurse=False):
        yield f"{name}.{key}", tensor


def diffusers_inputs(given: dict, vector: int) -> dict:
    """The same call for diffusers: one video with the frames on an axis of their own."""
    call = {
        "sample": given["x"].transpose(0, 1).unsqueeze(0).contiguous(),
        "timestep": given["timesteps"][0],
        "encoder_hidden_states": given["context"],
        "return_dict": False,
    }
    if vector:
        # diffusers makes its second condition itself, from pooled text and six numbers.
        pooled = given["y"][:1, : vector - 6 * 256]
        size = given["x"].new_zeros(1, 6)
        call["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": size}
    return call
