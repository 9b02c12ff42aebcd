"""Each old node, what takes its place, and what differs: the table of the documentation."""

from __future__ import annotations

_WINDOWS = "**Context Windows**"
_LOAD_APPLY = "**Load Motion Module** + **Apply Motion Module** (+ **Context Windows**)"
_APPLY = "**Apply Motion Module**"
_SETTINGS = "**Motion Settings**"
_NO_GUARANTEE = "*guarantee_steps* other than 1"
_NO_OTHER = "factors on what is neither attention nor position"
_VIDEO = "Video Combine of VideoHelperSuite, or ComfyUI's *SaveAnimatedWEBP* where neither that pack nor a "
_VIDEO += "video format is in the graph"
_VIEW = "the *view* widgets of **Context Windows**"

BECOMES: dict[str, tuple[str, str]] = {
    "ADE_AnimateDiffLoaderWithContext": (_LOAD_APPLY, ""),
    "ADE_AnimateDiffLoaderGen1": (_LOAD_APPLY, "strengths of single blocks"),
    "AnimateDiffLoaderV1": (_LOAD_APPLY, "*unlimited_area_hack* (memory only)"),
    "ADE_AnimateDiffLoaderV1Advanced": (_LOAD_APPLY, "*unlimited_area_hack* (memory only)"),
    "ADE_UseEvolvedSampling": ("one **Apply Motion Module** per module (+ **Context Windows**)", ""),
    "ADE_ApplyAnimateDiffModelSimple": (_APPLY, "strengths of single blocks"),
    "ADE_ApplyAnimateDiffModel": (_APPLY, "strengths of single blocks"),
    "ADE_ApplyAnimateDiffModelWithPIA": (
        f"{_APPLY} + **PIA Reference**",
        "values per area, a factor on a preset",
    ),
    "ADE_ApplyAnimateDiffModelWithCameraCtrl": (
        f"{_APPLY} + **Camera Control** and **Camera Poses**",
        "poses from files, more than two motions at once",
    ),
    "ADE_ApplyAnimateLCMI2VModel": (
        f"{_APPLY} + **Image Reference**",
        "reference latents that are no encoded picture",
    ),
    "ADE_LoadAnimateDiffModel": ("**Load Motion Module**", ""),
    "ADE_LoadAnimateLCMI2VModel": ("**Load Motion Module**", ""),
    "ADE_LoadAnimateDiffModelWithCameraCtrl": ("**Load Motion Module** + **Load Camera Control**", ""),
    "ADE_InjectI2VIntoAnimateDiffModel": ("**Load Motion Module**", "the injected weights"),
    "ADE_InjectPIAIntoAnimateDiffModel": ("**Load Motion Module**", "the injected weights"),
    "ADE_AnimateDiffLoRALoader": ("**Load MotionLoRA**", "strengths beyond ±10"),
    "ADE_AnimateDiffUniformContextOptions": (f"{_WINDOWS}, *looped_uniform*", _NO_GUARANTEE),
    "ADE_LoopedUniformContextOptions": (f"{_WINDOWS}, *looped_uniform*", _NO_GUARANTEE),
    "ADE_StandardUniformContextOptions": (f"{_WINDOWS}, *standard_uniform*", _NO_GUARANTEE),
    "ADE_StandardStaticContextOptions": (f"{_WINDOWS}, *standard_static*", _NO_GUARANTEE),
    "ADE_BatchedContextOptions": (f"{_WINDOWS}, *batched*", _NO_GUARANTEE),
    "ADE_ViewsOnlyContextOptions": (f"{_WINDOWS} of 128 frames with views", "clips longer than that"),
    "ADE_StandardStaticViewOptions": (_VIEW, ""),
    "ADE_StandardUniformViewOptions": (_VIEW, "stride"),
    "ADE_LoopedUniformViewOptions": (_VIEW, "stride, closed loop"),
    "ADE_AnimateDiffSamplingSettings": (
        "**Frame Noise** + **Context Sampler**, or **Model Noise** for samplers of other kinds",
        "noise layers, image injection, ancestral options, noise drawn on the GPU",
    ),
    "ADE_IterationOptsDefault": ("nothing (one iteration)", "several iterations"),
    "ADE_IterationOptsFreeInit": (
        "**Model FreeInit**",
        "*sigma_step* below 999, offsets of seed and batch",
    ),
    "ADE_CustomCFGSimple": ("*cfg* of every sampler reached", "*cfg_extras*"),
    "ADE_CustomCFG": ("*cfg* of every sampler reached", "cfg per frame or area, *cfg_extras*"),
    "ADE_SigmaSchedule": ("*beta_schedule* of **Apply Motion Module**", ""),
    "ADE_MultivalDynamic": ("*scale* or *effect* of **Apply Motion Module**, or **Motion Value**", ""),
    "ADE_MultivalDynamicFloatInput": ("a link into *scale* or *effect*, or **Motion Value**", ""),
    "ADE_MultivalDynamicFloats": ("a link into *scale* or *effect*, or **Motion Value**", ""),
    "ADE_MultivalScaledMask": ("**Motion Value**", ""),
    "ADE_AnimateDiffKeyframe": ("**Motion Keyframe**", "strengths of single blocks"),
    "ADE_AnimateDiffSettings": (_SETTINGS, ""),
    "ADE_AdjustPESweetspotStretch": (_SETTINGS, "a second stretch"),
    "ADE_AdjustPEFullStretch": (_SETTINGS, "a second stretch"),
    "ADE_AdjustPEManual": (_SETTINGS, "*final_pe_idx_offset*, a table that is cut"),
    "ADE_AdjustWeightAllMult": (_SETTINGS, ""),
    "ADE_AdjustWeightAllAdd": ("nothing", "adding to weights"),
    "ADE_AdjustWeightIndivMult": (_SETTINGS, _NO_OTHER),
    "ADE_AdjustWeightIndivAdd": ("nothing", "adding to weights"),
    "ADE_AdjustWeightIndivAttnMult": (_SETTINGS, _NO_OTHER),
    "ADE_AdjustWeightIndivAttnAdd": ("nothing", "adding to weights"),
    "ADE_AnimateDiffModelSettings_Release": ("**Motion Value** (its mask)", ""),
    "ADE_AnimateDiffModelSettingsSimple": (f"{_SETTINGS}, **Motion Value** (its mask)", ""),
    "ADE_AnimateDiffModelSettings": (f"{_SETTINGS}, **Motion Value** (its mask)", _NO_OTHER),
    "ADE_AnimateDiffModelSettingsAdvancedAttnStrengths": (
        f"{_SETTINGS}, **Motion Value** (its mask)",
        _NO_OTHER,
    ),
    "ADE_AnimateDiffUnload": ("nothing: it only freed memory", ""),
    "ADE_EmptyLatentImageLarge": ("ComfyUI's *EmptyLatentImage*", "more than 4096 frames"),
    "CheckpointLoaderSimpleWithNoiseSelect": (
        "ComfyUI's *CheckpointLoaderSimple*",
        "its schedule for samplers without a motion module, a scale factor of its own",
    ),
    "ADE_AnimateDiffCombine": (_VIDEO, "loop count of a WEBP"),
    "AnimateDiffSampler": (f"{_APPLY} + *KSampler* (+ **Context Windows**)", "*inject_method* legacy"),
    "AnimateDiffModuleLoader": ("**Load Motion Module**", ""),
    "AnimateDiffLoraLoader": ("**Load MotionLoRA**", ""),
    "AnimateDiffSlidingWindowOptions": (f"{_WINDOWS}, *looped_uniform*", ""),
    "AnimateDiffCombine": (_VIDEO, "loop count of a WEBP"),
}
"""Old node -> (what takes its place, what of it is lost)."""
