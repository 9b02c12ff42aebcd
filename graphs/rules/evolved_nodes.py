"""AnimateDiff-Evolved: its nodes, legacy and deprecated ones too, with every widget order of files."""

from __future__ import annotations

from ..old import Old, choice, number, switch, text, whole
from .evolved import LOADS
from .evolved_settings import OLD_SETTINGS, SETTINGS_NODES

_WINDOW = {
    "context_length": whole(16),
    "context_stride": whole(1),
    "context_overlap": whole(4),
    "closed_loop": switch(),
    "use_on_equal_length": switch(),
    "start_percent": number(0.0),
    "guarantee_steps": whole(1),
}
_WINDOW_TAIL = "fuse_method use_on_equal_length start_percent guarantee_steps"
_WINDOW_SOCKETS = "prev_context view_opts context_extras"
_GEN1_SOCKETS = "model context_options motion_lora ad_settings ad_keyframes sample_settings"
_APPLY_SOCKETS = "motion_model motion_lora scale_multival effect_multival ad_keyframes per_block"
_OLD_APPLY = {
    "motion_m": "motion_model",
    "mm_timestep_kf": "ad_keyframes",
    "strength_multival": "scale_multival",
}


def _window(widgets: str, fuse: str, *olders: str) -> Old:
    """Context options with these widgets, today's order first."""
    kinds = {**_WINDOW, "fuse_method": choice(fuse), "context_schedule": choice("uniform")}
    names = f"{widgets} {_WINDOW_TAIL}".split()
    return Old(
        {name: kinds[name] for name in names},
        (" ".join(names), *olders),
        _WINDOW_SOCKETS,
        output="CONTEXT_OPTIONS",
    )


NODES: dict[str, Old] = {
    # what puts motion on a MODEL
    "ADE_AnimateDiffLoaderWithContext": Old(
        {
            "model_name": text(),
            "beta_schedule": choice("autoselect"),
            "motion_scale": number(1.0),
            "apply_v2_models_properly": switch(True),
        },
        (
            "model_name beta_schedule motion_scale apply_v2_models_properly",
            "model_name beta_schedule motion_scale",
            "model_name beta_schedule -",  # apply_mm_groupnorm_hack, a few days in 2023-10
            "model_name beta_schedule",
        ),
        _GEN1_SOCKETS,
        {**OLD_SETTINGS, "apply_mm_groupnorm_hack": "-"},
        "MODEL",
    ),
    "ADE_AnimateDiffLoaderGen1": Old(
        {"model_name": text(), "beta_schedule": choice("autoselect")},
        ("model_name beta_schedule",),
        f"{_GEN1_SOCKETS} scale_multival effect_multival per_block",
        OLD_SETTINGS,
        "MODEL",
    ),
    "AnimateDiffLoaderV1": Old(
        {
            "model_name": text(),
            "unlimited_area_hack": switch(),
            "beta_schedule": choice("sqrt_linear (AnimateDiff)"),
        },
        (
            "model_name unlimited_area_hack beta_schedule",
            "model_name beta_schedule",
            "model_name unlimited_area_hack",
            "model_name - - unlimited_area_hack",
            "model_name",
        ),
        "model latents",
        output="MODEL",
    ),
    "ADE_AnimateDiffLoaderV1Advanced": Old(
        {
            "model_name": text(),
            "unlimited_area_hack": switch(),
            "context_length": whole(16),
            "context_stride": whole(1),
            "context_overlap": whole(4),
            "context_schedule": choice("uniform"),
            "closed_loop": switch(),
            "beta_schedule": choice("sqrt_linear (AnimateDiff)"),
        },
        (
            "model_name unlimited_area_hack context_length context_stride context_overlap context_schedule "
            "closed_loop beta_schedule",
            "model_name unlimited_area_hack context_length context_stride context_overlap context_schedule "
            "closed_loop",
        ),
        "model latents",
        output="MODEL",
    ),
    "ADE_UseEvolvedSampling": Old(
        {"beta_schedule": choice("autoselect")},
        ("beta_schedule",),
        "model m_models context_options sample_settings",
        output="MODEL",
    ),
    "ADE_ApplyAnimateDiffModelSimple": Old({}, ("",), _APPLY_SOCKETS, _OLD_APPLY, "M_MODELS"),
    "ADE_ApplyAnimateDiffModel": Old(
        {"start_percent": number(0.0), "end_percent": number(1.0), "apply_v2_properly": switch(True)},
        ("start_percent end_percent", "start_percent end_percent apply_v2_properly"),
        f"{_APPLY_SOCKETS} prev_m_models",
        _OLD_APPLY,
        "M_MODELS",
    ),
    "ADE_ApplyAnimateDiffModelWithPIA": Old(
        {"start_percent": number(0.0), "end_percent": number(1.0)},
        ("start_percent end_percent",),
        f"{_APPLY_SOCKETS} prev_m_models image vae pia_input",
        output="M_MODELS",
    ),
    "ADE_ApplyAnimateDiffModelWithCameraCtrl": Old(
        {"start_percent": number(0.0), "end_percent": number(1.0)},
        ("start_percent end_percent",),
        f"{_APPLY_SOCKETS} prev_m_models cameractrl_poses cameractrl_multival",
        output="M_MODELS",
    ),
    "ADE_ApplyAnimateLCMI2VModel": Old(
        {
            "ref_drift": number(0.0),
            "start_percent": number(0.0),
            "end_percent": number(1.0),
            "apply_ref_when_disabled": switch(),
        },
        (
            "ref_drift apply_ref_when_disabled start_percent end_percent",
            "- start_percent end_percent",
            "start_percent end_percent",
        ),
        f"{_APPLY_SOCKETS} prev_m_models ref_latent",
        output="M_MODELS",
    ),
    **{
        name: Old({"model_name": text()}, ("model_name",), "ad_settings", OLD_SETTINGS, "MOTION_MODEL_ADE")
        for name in LOADS
    },
    "ADE_LoadAnimateDiffModelWithCameraCtrl": Old(
        {"model_name": text(), "camera_ctrl": text()},
        ("model_name camera_ctrl",),
        "ad_settings",
        OLD_SETTINGS,
        "MOTION_MODEL_ADE",
    ),
    # what those read
    "ADE_AnimateDiffLoRALoader": Old(
        {"name": text(), "strength": number(1.0)},
        ("name strength",),
        "prev_motion_lora",
        {"lora_name": "name"},
        "MOTION_LORA",
    ),
    "ADE_AnimateDiffUniformContextOptions": _window(
        "context_length context_stride context_overlap context_schedule closed_loop",
        "flat",
        "context_length context_stride context_overlap context_schedule closed_loop fuse_method",
        "context_length context_stride context_overlap context_schedule closed_loop",
    ),
    "ADE_LoopedUniformContextOptions": _window(
        "context_length context_stride context_overlap closed_loop", "pyramid"
    ),
    "ADE_StandardUniformContextOptions": _window(
        "context_length context_stride context_overlap",
        "pyramid",
        "context_length context_stride context_overlap fuse_method",
    ),
    "ADE_StandardStaticContextOptions": _window(
        "context_length context_overlap", "pyramid", "context_length context_overlap fuse_method"
    ),
    "ADE_BatchedContextOptions": Old(
        {name: _WINDOW[name] for name in ("context_length", "start_percent", "guarantee_steps")},
        ("context_length start_percent guarantee_steps", "context_length"),
        _WINDOW_SOCKETS,
        output="CONTEXT_OPTIONS",
    ),
    "ADE_ViewsOnlyContextOptions": Old(
        {name: _WINDOW[name] for name in ("start_percent", "guarantee_steps")},
        ("start_percent guarantee_steps", ""),
        "view_opts_req prev_context context_extras",
        output="CONTEXT_OPTIONS",
    ),
    "ADE_StandardStaticViewOptions": Old(
        {"view_length": whole(16), "view_overlap": whole(4), "fuse_method": choice("pyramid")},
        ("view_length view_overlap fuse_method",),
        output="VIEW_OPTS",
    ),
    "ADE_StandardUniformViewOptions": Old(
        {
            "view_length": whole(16),
            "view_stride": whole(1),
            "view_overlap": whole(4),
            "fuse_method": choice("pyramid"),
        },
        ("view_length view_stride view_overlap fuse_method",),
        output="VIEW_OPTS",
    ),
    "ADE_LoopedUniformViewOptions": Old(
        {
            "view_length": whole(16),
            "view_stride": whole(1),
            "view_overlap": whole(4),
            "closed_loop": switch(),
            "fuse_method": choice("pyramid"),
            "use_on_equal_length": switch(),
        },
        ("view_length view_stride view_overlap closed_loop fuse_method use_on_equal_length",),
        output="VIEW_OPTS",
    ),
    "ADE_AnimateDiffSamplingSettings": Old(
        {
            "batch_offset": whole(0),
            "noise_type": choice("default"),
            "seed_gen": choice("comfy"),
            "seed_offset": whole(0),
            "seed_override": whole(0),
            "adapt_denoise_steps": switch(),
        },
        (
            "batch_offset noise_type seed_gen seed_offset adapt_denoise_steps",
            "batch_offset noise_type seed_gen seed_offset seed_override adapt_denoise_steps",
            "batch_offset noise_type seed_gen seed_offset seed_override",
            "batch_offset noise_type seed_gen seed_override",
            "batch_offset noise_type seed_gen",
            "seed_gen",
        ),
        "noise_layers iteration_opts custom_cfg sigma_schedule image_inject ancestral_opts seed_override",
        {"iter_opts": "iteration_opts"},
        "SAMPLE_SETTINGS",
    ),
    "ADE_IterationOptsDefault": Old(
        {"iterations": whole(1), "iter_batch_offset": whole(0), "iter_seed_offset": whole(0)},
        ("iterations iter_batch_offset iter_seed_offset", "iterations"),
        output="ITERATION_OPTS",
    ),
    "ADE_IterationOptsFreeInit": Old(
        {
            "iterations": whole(2),
            "filter": choice("gaussian"),
            "d_s": number(0.25),
            "d_t": number(0.25),
            "n_butterworth": whole(4),
            "sigma_step": whole(999),
            "apply_to_1st_iter": switch(),
            "init_type": choice("FreeInit [sampler sigma]"),
            "iter_batch_offset": whole(0),
            "iter_seed_offset": whole(1),
        },
        (
            "iterations filter d_s d_t n_butterworth sigma_step apply_to_1st_iter init_type "
            "iter_batch_offset iter_seed_offset",
            "iterations filter d_s d_t n_butterworth sigma_step apply_to_1st_iter init_type",
            "iterations filter d_s d_t n_butterworth sigma_step apply_to_1st_iter",
        ),
        output="ITERATION_OPTS",
    ),
    "ADE_CustomCFGSimple": Old({"cfg": number(8.0)}, ("cfg",), "cfg_extras", output="CUSTOM_CFG"),
    "ADE_CustomCFG": Old({}, ("",), "cfg_multival cfg_extras", output="CUSTOM_CFG"),
    "ADE_SigmaSchedule": Old(
        {"beta_schedule": choice("sqrt_linear (AnimateDiff)")}, ("beta_schedule",), output="SIGMA_SCHEDULE"
    ),
    "ADE_MultivalDynamic": Old(
        {"float_val": number(1.0)}, ("float_val",), "mask_optional", output="MULTIVAL"
    ),
    "ADE_MultivalDynamicFloatInput": Old(
        {"float_val": number(1.0)}, ("float_val",), "mask_optional", output="MULTIVAL"
    ),
    "ADE_MultivalDynamicFloats": Old(
        {"float_val": number(1.0)},
        ("float_val",),
        "mask_optional",
        {"floats": "float_val"},
        output="MULTIVAL",
    ),
    "ADE_MultivalScaledMask": Old(
        {"min_float_val": number(0.0), "max_float_val": number(1.0), "scaling": choice("absolute")},
        ("min_float_val max_float_val scaling", "min_float_val max_float_val"),
        "mask",
        output="MULTIVAL",
    ),
    "ADE_AnimateDiffKeyframe": Old(
        {"start_percent": number(0.0), "inherit_missing": switch(True), "guarantee_steps": whole(1)},
        ("start_percent inherit_missing guarantee_steps",),
        "prev_ad_keyframes scale_multival effect_multival per_block_replace",
        {"guarantee_usage": "guarantee_steps"},
        "AD_KEYFRAMES",
    ),
    **SETTINGS_NODES,
    # the rest
    "ADE_AnimateDiffUnload": Old({}, ("",), "model", output="MODEL"),
    "ADE_EmptyLatentImageLarge": Old(
        {"width": whole(512), "height": whole(512), "batch_size": whole(1)},
        ("width height batch_size",),
        output="LATENT",
    ),
    "CheckpointLoaderSimpleWithNoiseSelect": Old(
        {
            "ckpt_name": text(),
            "beta_schedule": choice("use existing"),
            "use_custom_scale_factor": switch(),
            "scale_factor": number(0.18215),
        },
        ("ckpt_name beta_schedule use_custom_scale_factor scale_factor", "ckpt_name beta_schedule"),
        output="MODEL",
    ),
    "ADE_AnimateDiffCombine": Old(
        {
            "frame_rate": whole(8),
            "loop_count": whole(0),
            "filename_prefix": text("AnimateDiff"),
            "format": choice("image/gif"),
            "pingpong": switch(),
            "save_image": switch(True),
        },
        (
            "frame_rate loop_count filename_prefix format pingpong save_image",
            "frame_rate loop_count save_image filename_prefix pingpong",
            "frame_rate loop_count save_image filename_prefix",
        ),
        "images",
        output="GIF",
    ),
}
