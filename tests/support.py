"""Shared by the tests: golden tensors, small models, and one model call as ComfyUI's sampler makes it.

Everything here goes through ComfyUI's own classes; nothing of the code under test is repeated.
"""

import json
from pathlib import Path

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.ops
import comfy.samplers
import comfy.supported_models
import torch
from animatediff_flipbook.motion_core.module.config import MotionModuleConfig
from animatediff_flipbook.motion_core.module.model import MotionModel
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from safetensors.torch import load_file
from torch import nn

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = ("v1", "v2", "v3")


def relative_error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """Relative L2 distance, computed in fp64."""
    got, wanted = got.double(), wanted.double()
    return float((got - wanted).norm() / wanted.norm())


def fold(x: torch.Tensor) -> torch.Tensor:
    """(B, C, F, H, W) as the original has it -> (B*F, C, H, W), video-major, as ComfyUI has it."""
    return x.transpose(1, 2).flatten(0, 1)


def unfold(x: torch.Tensor, videos: int) -> torch.Tensor:
    """Back again."""
    return x.unflatten(0, (videos, -1)).transpose(1, 2)


# -- golden --


def golden_config() -> dict:
    return json.loads((GOLDEN / "unet_config.json").read_text())


def golden_meta(version: str) -> dict:
    return json.loads((GOLDEN / version / "meta.json").read_text())


def golden_io(version: str) -> dict[str, torch.Tensor]:
    return {key: value.float() for key, value in load_file(GOLDEN / version / "io.safetensors").items()}


def golden_weights() -> dict[str, torch.Tensor]:
    state = load_file(GOLDEN / "unet.safetensors")
    return {key.removeprefix("model.diffusion_model."): value.float() for key, value in state.items()}


def golden_unet(dtype: torch.dtype = torch.float32, operations=comfy.ops.disable_weight_init) -> UNetModel:
    unet = UNetModel(**golden_config(), dtype=dtype, operations=operations)
    unet.load_state_dict(golden_weights(), strict=True)
    return unet.eval()


def golden_patcher(
    dtype: torch.dtype = torch.float32, cast: torch.dtype | None = None
) -> comfy.model_patcher.ModelPatcher:
    """The golden UNet as a MODEL. ``dtype`` of its weights, ``cast``: the type it computes in, if another."""
    return as_patcher(golden_config(), golden_weights(), dtype, cast)


# -- small models --


def as_patcher(
    unet_config: dict,
    weights: dict[str, torch.Tensor],
    dtype: torch.dtype = torch.float32,
    cast: torch.dtype | None = None,
) -> comfy.model_patcher.ModelPatcher:
    """A UNet as CheckpointLoaderSimple hands it on, on the CPU."""
    config = comfy.supported_models.SD15({**unet_config, "dtype": dtype})
    config.set_inference_dtype(dtype, cast)
    base = comfy.model_base.BaseModel(config, device="cpu")
    base.diffusion_model.load_state_dict(weights, strict=True)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(base, load_device=cpu, offload_device=cpu)


def initialise(module: nn.Module, seed: int = 0, scale: float = 1.0) -> nn.Module:
    """Random weights everywhere, norms included, so that no part of a formula can hide behind a zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if value.ndim > 1:
                value.copy_(noise * scale * value[0].numel() ** -0.5)
            elif "norm" in name and name.endswith("weight"):
                value.copy_(1 + 0.1 * noise)
            else:
                value.copy_(0.1 * noise)
    return module


def small_unet(**changes) -> UNetModel:
    """A UNet of SD1.5's kind, 32 channels and two levels unless told otherwise, with random weights."""
    shape = {**golden_config(), **changes}
    return initialise(UNetModel(**shape, operations=comfy.ops.disable_weight_init), seed=1).eval()


def motion_for(unet: nn.Module, generation: str = "v3", seed: int = 7, **options) -> MotionModel:
    """A motion model for a UNet with random weights, proj_out too, so that it changes every frame."""
    build = {
        key: options.pop(key) for key in ("operations", "dtype", "device", "fused_qkv") if key in options
    }
    config = MotionModuleConfig.for_unet(unet, generation, **options)
    return initialise(MotionModel(config, **build), seed).requires_grad_(False).eval()


def snapshot(module: nn.Module) -> dict[str, torch.Tensor]:
    """Names and values of a model, copied."""
    return {key: value.clone() for key, value in module.state_dict().items()}


def assert_untouched(module: nn.Module, before: dict[str, torch.Tensor]) -> None:
    """Same names in the same order, same bits, same layers."""
    after = module.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], value) for key, value in before.items())
    kinds = {type(layer).__module__ for layer in module.modules()}
    assert not any("animatediff_flipbook" in kind for kind in kinds), "one of our layers was left in the UNet"


# -- one call, as the sampler makes it --


class BareSampling(nn.Module):
    """A model_sampling that hands everything through: noise levels are timesteps, outputs are the UNet's."""

    def calculate_input(self, sigma, noise):
        return noise

    def timestep(self, sigma):
        return sigma

    def calculate_denoised(self, sigma, model_output, model_input):
        return model_output

    def percent_to_sigma(self, percent):
        return 1000.0 * (1.0 - percent)


def bare(patcher: comfy.model_patcher.ModelPatcher) -> comfy.model_patcher.ModelPatcher:
    """A clone whose model calls show the UNet's own output."""
    patcher = patcher.clone()
    patcher.add_object_patch("model_sampling", BareSampling())
    return patcher


def call_model(
    patcher: comfy.model_patcher.ModelPatcher,
    x: torch.Tensor,
    timestep: torch.Tensor | float,
    context: torch.Tensor,
    conds: int = 1,
    load=None,
) -> torch.Tensor:
    """One ``apply_model`` with everything that a MODEL carries: loaded weights, patches, wrappers.

    ``conds``: how many conds are folded into the batch. ``load``: how to load instead of completely.
    """
    models = [patcher, *patcher.get_nested_additional_models()]
    if load is None:
        comfy.model_management.load_models_gpu(models)
    else:
        load(models)
    options = comfy.model_patcher.create_model_options_clone(patcher.model_options)
    comfy.sampler_helpers.prepare_model_patcher(patcher, {}, options)
    transformer_options = {**options["transformer_options"], "cond_or_uncond": list(range(conds))}
    timestep = torch.as_tensor(timestep, dtype=torch.float32).flatten().expand(x.shape[0])
    context = context.repeat_interleave(x.shape[0] // context.shape[0], dim=0)
    try:
        patcher.pre_run()
        with torch.inference_mode():
            return patcher.model.apply_model(
                x, timestep, c_crossattn=context, transformer_options=transformer_options
            )
    finally:
        patcher.cleanup()
