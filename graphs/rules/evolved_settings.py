"""AnimateDiff-Evolved: the nodes that lead to AD_SETTINGS, with every widget order that files hold."""

from __future__ import annotations

from ..old import Old, number, switch, whole

OLD_SETTINGS = {"motion_model_settings": "ad_settings"}
_SCALE_MASK = {"min_motion_scale": number(1.0), "max_motion_scale": number(1.0)}
_OLD_MASK = {
    "min_scale": "min_motion_scale",
    "max_scale": "max_motion_scale",
    "mask": "mask_motion_scale",
    "mask_attn_scale": "mask_motion_scale",
}
_POSITIONS = "motion_pe_stretch cap_initial_pe_length interpolate_pe_to_length initial_pe_idx_offset"
_POSITIONS += " final_pe_idx_offset"
_PE = {name: whole(0) for name in _POSITIONS.split()}
_STRENGTHS = {name: number(1.0) for name in ("pe_strength", "attn_strength", "other_strength")}
_ATTN_STRENGTHS = {f"attn_{name}_strength": number(1.0) for name in ("q", "k", "v", "out_weight", "out_bias")}


def _adjust(widgets: dict, socket: str, output: str) -> Old:
    """A link in a chain of adjustments."""
    return Old(
        {**widgets, "print_adjustment": switch()},
        (" ".join((*widgets, "print_adjustment")),),
        socket,
        output=output,
    )


def _factors(names: str, default: float, ending: str) -> Old:
    return _adjust(
        {f"{name}_{ending}": number(default) for name in names.split()}, "prev_weight_adjust", "WEIGHT_ADJUST"
    )


_INDIV = "pe attn other"
_INDIV_ATTN = "pe attn attn_q attn_k attn_v attn_out_weight attn_out_bias other"

SETTINGS_NODES: dict[str, Old] = {
    "ADE_AnimateDiffSettings": Old({}, ("",), "pe_adjust weight_adjust", output="AD_SETTINGS"),
    "ADE_AdjustPESweetspotStretch": _adjust(
        {"sweetspot": whole(16), "new_sweetspot": whole(16)}, "prev_pe_adjust", "PE_ADJUST"
    ),
    "ADE_AdjustPEFullStretch": _adjust({"pe_stretch": whole(0)}, "prev_pe_adjust", "PE_ADJUST"),
    "ADE_AdjustPEManual": _adjust(
        {name: whole(0) for name in _POSITIONS.split()[1:]}, "prev_pe_adjust", "PE_ADJUST"
    ),
    "ADE_AdjustWeightAllMult": _factors("all", 1.0, "MULT"),
    "ADE_AdjustWeightAllAdd": _factors("all", 0.0, "ADD"),
    "ADE_AdjustWeightIndivMult": _factors(_INDIV, 1.0, "MULT"),
    "ADE_AdjustWeightIndivAdd": _factors(_INDIV, 0.0, "ADD"),
    "ADE_AdjustWeightIndivAttnMult": _factors(_INDIV_ATTN, 1.0, "MULT"),
    "ADE_AdjustWeightIndivAttnAdd": _factors(_INDIV_ATTN, 0.0, "ADD"),
    "ADE_AnimateDiffModelSettings_Release": Old(
        _SCALE_MASK,
        ("min_motion_scale max_motion_scale",),
        "mask_motion_scale",
        _OLD_MASK,
        "AD_SETTINGS",
    ),
    "ADE_AnimateDiffModelSettingsSimple": Old(
        {"motion_pe_stretch": whole(0), **_SCALE_MASK},
        ("motion_pe_stretch min_motion_scale max_motion_scale", "motion_pe_stretch"),
        "mask_motion_scale",
        _OLD_MASK,
        "AD_SETTINGS",
    ),
    "ADE_AnimateDiffModelSettings": Old(
        {**_STRENGTHS, **_PE, **_SCALE_MASK},
        (
            f"pe_strength attn_strength other_strength {_POSITIONS} min_motion_scale max_motion_scale",
            f"pe_strength attn_strength other_strength {_POSITIONS}",
            f"pe_strength attn_strength other_strength {_POSITIONS.removeprefix('motion_pe_stretch ')}",
            "pe_strength attn_strength other_strength cap_initial_pe_length interpolate_pe_to_length "
            "initial_pe_idx_offset",
        ),
        "mask_motion_scale",
        _OLD_MASK,
        "AD_SETTINGS",
    ),
    "ADE_AnimateDiffModelSettingsAdvancedAttnStrengths": Old(
        {**_STRENGTHS, **_ATTN_STRENGTHS, **_PE, **_SCALE_MASK},
        (
            f"pe_strength attn_strength {' '.join(_ATTN_STRENGTHS)} other_strength {_POSITIONS} "
            "min_motion_scale max_motion_scale",
            f"pe_strength attn_strength {' '.join(_ATTN_STRENGTHS)} other_strength {_POSITIONS}",
        ),
        "mask_motion_scale",
        _OLD_MASK,
        "AD_SETTINGS",
    ),
}
