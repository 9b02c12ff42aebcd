"""Nodes that sample: where a MODEL ends, and where its seed and cfg stand in a workflow.

What AnimateDiff-Evolved carries on the MODEL (noise kind, cfg) belongs to these nodes elsewhere. ``-`` is
control_after_generate or another value of no interest.
"""

from __future__ import annotations

SAMPLERS: dict[str, str] = {
    # ComfyUI
    "KSampler": "seed - steps cfg sampler_name scheduler denoise",
    "KSamplerAdvanced": "add_noise noise_seed - steps cfg sampler_name scheduler start_at_step end_at_step "
    "return_with_leftover_noise",
    "SamplerCustom": "add_noise noise_seed - cfg",
    "SamplerCustomAdvanced": "",
    # ours
    "FlipbookContextSampler": "seed - steps cfg sampler_name scheduler denoise",
    "FlipbookFreeInitSampler": "seed - steps cfg sampler_name scheduler",
    # Efficiency nodes
    "KSampler (Efficient)": "seed - steps cfg sampler_name scheduler denoise",
    "KSampler Adv. (Efficient)": "add_noise noise_seed - steps cfg sampler_name scheduler start_at_step "
    "end_at_step return_with_leftover_noise",
    "KSampler SDXL (Eff.)": "noise_seed - steps cfg sampler_name scheduler start_at_step refine_at_step",
    # Impact and Inspire packs
    "KSampler //Inspire": "seed - steps cfg sampler_name scheduler denoise",
    "KSamplerAdvanced //Inspire": "add_noise noise_seed - steps cfg sampler_name scheduler",
    "SEGSDetailer": "guide_size guide_size_for max_size seed - steps cfg sampler_name scheduler denoise",
    "SEGSDetailerForAnimateDiff": "guide_size guide_size_for max_size seed - steps cfg sampler_name "
    "scheduler denoise",
    "DetailerForEach": "guide_size guide_size_for max_size seed - steps cfg sampler_name scheduler denoise",
    "DetailerForEachDebug": "guide_size guide_size_for max_size seed - steps cfg sampler_name scheduler "
    "denoise",
    "FaceDetailer": "guide_size guide_size_for max_size seed - steps cfg sampler_name scheduler denoise",
    "ImpactKSamplerBasicPipe": "seed - steps cfg sampler_name scheduler denoise",
    "ImpactKSamplerAdvancedBasicPipe": "add_noise noise_seed - steps cfg sampler_name scheduler",
    "KSamplerProvider": "seed - steps cfg sampler_name scheduler denoise",
    "KSamplerAdvancedProvider": "cfg sampler_name scheduler",
    "TiledKSamplerProvider": "seed - steps cfg sampler_name scheduler denoise",
    # others
    "UltimateSDUpscale": "upscale_by seed - steps cfg sampler_name scheduler denoise",
    "UltimateSDUpscaleNoUpscale": "seed - steps cfg sampler_name scheduler denoise",
    "UltimateSDUpscaleCustomSample": "upscale_by seed - steps cfg sampler_name scheduler denoise",
    "BNK_TiledKSampler": "seed - tile_width tile_height tiling_strategy steps cfg sampler_name scheduler "
    "denoise",
    "BNK_TiledKSamplerAdvanced": "add_noise noise_seed - tile_width tile_height tiling_strategy steps cfg",
    "BNK_Unsampler": "steps end_at_step cfg sampler_name scheduler normalize",
    "KSampler_A1111": "seed - steps cfg sampler_name scheduler denoise",
    "KSampler Cycle": "seed - steps cfg sampler_name scheduler",
    "LatentConsistency": "seed - steps cfg",
    "easy fullkSampler": "steps cfg sampler_name scheduler denoise",
    "SharkSampler": "",
    "ClownsharKSampler": "",
}
"""Type -> widget order, as far as it matters."""

GUIDERS: dict[str, str] = {
    "CFGGuider": "cfg",
    "BasicGuider": "",
    "DualCFGGuider": "cfg_conds cfg_cond2_negative",
    "PerpNegGuider": "cfg neg_scale",
}
"""Guiders, which take the MODEL for SamplerCustomAdvanced."""

MODEL_INPUTS = ("model", "model_opt", "model_optional", "optional_model", "base_model", "refiner_model")
MODEL_INPUTS += ("model1", "model2", "guider", "pipe", "basic_pipe", "detailer_pipe", "context", "base_ctx")
MODEL_INPUTS += ("ksampler", "sdxl_pipe", "upscale_pipe")
"""Names of inputs by which a prompt, which holds no types, shows that a MODEL goes on."""
MODEL_KINDS = ("MODEL", "GUIDER", "KSAMPLER", "KSAMPLER_ADVANCED", "*", "RGTHREE_CONTEXT", "SDXL_TUPLE")
"""Types of outputs in which a MODEL goes on, besides those that end in PIPE or PIPE_LINE."""
SAMPLING_PATCHES = (
    "ModelSamplingDiscrete",
    "ModelSamplingContinuousEDM",
    "ModelSamplingContinuousV",
    "ModelSamplingStableCascade",
    "ModelSamplingSD3",
    "ModelSamplingAuraFlow",
    "ModelSamplingFlux",
)
"""Nodes that put a noise schedule of their own on the MODEL, whatever it has."""
