"""AnimateDiff-Evolved: what its choices and kinds of nodes become.

Its nodes are in :mod:`graphs.rules.evolved_nodes`. What becomes of them:
:mod:`graphs.loaders` (what puts a motion module on a MODEL), :mod:`graphs.carriers`
(what is only read by those) and :data:`BETA_SCHEDULES` here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """What a beta_schedule becomes."""

    choice: str
    """beta_schedule of Apply Motion Module."""
    lcm: bool = False
    """Whether the kind of sampling is LCM: ModelSamplingDiscrete(lcm) goes in front of Apply."""


BETA_SCHEDULES: dict[str, Schedule] = {
    "autoselect": Schedule("auto"),
    "use existing": Schedule("keep"),
    "sqrt_linear (AnimateDiff)": Schedule("sqrt_linear"),
    "linear (AnimateDiff-SDXL)": Schedule("linear_sdxl"),
    "linear (HotshotXL/default)": Schedule("linear"),
    "avg(sqrt_linear,linear)": Schedule("avg(sqrt_linear,linear)"),
    "lcm avg(sqrt_linear,linear)": Schedule("lcm avg(sqrt_linear,linear)", lcm=True),
    "lcm": Schedule("keep", lcm=True),
    "lcm[100_ots]": Schedule("lcm[100_ots]", lcm=True),
    "lcm >> sqrt_linear": Schedule("sqrt_linear", lcm=True),
    "sqrt": Schedule("sqrt"),
    "cosine": Schedule("cosine"),
    "squaredcos_cap_v2": Schedule("squaredcos_cap_v2"),
    # names of its raw list, and of files from 2023
    "linear": Schedule("linear"),
    "sqrt_linear": Schedule("sqrt_linear"),
}

NOISE_KINDS: dict[str, str] = {
    "default": "independent",
    "constant": "constant",
    "repeated_context": "repeated",
    "FreeNoise": "freenoise",
}
"""noise_type -> kind of Frame Noise. ``empty`` is none of them: the sampler then adds no noise."""

WINDOW_TYPES: dict[str, tuple[str, str]] = {
    "ADE_AnimateDiffUniformContextOptions": ("looped_uniform", "flat"),
    "ADE_LoopedUniformContextOptions": ("looped_uniform", "pyramid"),
    "ADE_StandardUniformContextOptions": ("standard_uniform", "pyramid"),
    "ADE_StandardStaticContextOptions": ("standard_static", "pyramid"),
    "ADE_BatchedContextOptions": ("batched", "flat"),
}
"""Context options -> schedule of Context Windows, and fuse where the file has none."""

VIEW_TYPES: dict[str, str] = {
    "ADE_StandardStaticViewOptions": "standard_static",
    "ADE_StandardUniformViewOptions": "standard_uniform",
    "ADE_LoopedUniformViewOptions": "looped_uniform",
}

GEN1 = ("ADE_AnimateDiffLoaderWithContext", "ADE_AnimateDiffLoaderGen1", "ADE_AnimateDiffLoaderV1Advanced")
GEN1 += ("AnimateDiffLoaderV1",)
EVOLVED_SAMPLING = "ADE_UseEvolvedSampling"
APPLIES = (
    "ADE_ApplyAnimateDiffModelSimple",
    "ADE_ApplyAnimateDiffModel",
    "ADE_ApplyAnimateDiffModelWithPIA",
    "ADE_ApplyAnimateDiffModelWithCameraCtrl",
    "ADE_ApplyAnimateLCMI2VModel",
)
"""Nodes that put one motion module into M_MODELS."""
LOADS = (
    "ADE_LoadAnimateDiffModel",
    "ADE_LoadAnimateLCMI2VModel",
    "ADE_LoadAnimateDiffModelWithCameraCtrl",
    "ADE_InjectI2VIntoAnimateDiffModel",
    "ADE_InjectPIAIntoAnimateDiffModel",
)

UNSUPPORTED_INPUTS: dict[str, str] = {
    "per_block": "strengths of single blocks (per_block)",
    "per_block_replace": "strengths of single blocks (per_block_replace)",
    "pia_input": "the picture that PIA starts from",
    "image": "the picture that the clip starts from",
    "ref_latent": "the picture that AnimateLCM-I2V starts from",
    "ref_drift": "the drift from the reference picture",
    "apply_ref_when_disabled": "the reference while the motion module is off",
    "cameractrl_poses": "the camera path (CameraCtrl)",
    "cameractrl_multival": "the strength of CameraCtrl",
    "noise_layers": "noise layers",
    "image_inject": "pictures injected while sampling",
    "ancestral_opts": "the noise kind of ancestral steps",
    "cfg_extras": "guidance extras (cfg_extras)",
}
"""Inputs that nothing takes over -> what to call them."""
