"""Advanced-ControlNet's loaders and apply nodes, which are converted only on demand: they work with ours as
they are. Keyframes, masks and weights stay with that pack."""

from __future__ import annotations

from ..old import Old, number, text

_NAMES = {"cnet": "control_net_name", "_tk_opt": "tk_optional", "timestep_keyframe": "tk_optional"}
_LOADER = Old(
    {"control_net_name": text()}, ("control_net_name",), "tk_optional", _NAMES, output="CONTROL_NET"
)
_DIFF_LOADER = Old(
    {"control_net_name": text()}, ("control_net_name",), "model tk_optional", _NAMES, output="CONTROL_NET"
)
_OPTIONAL = "mask_optional timestep_kf latent_kf_override weights_override model_optional vae_optional"
_STRENGTH = {"strength": number(1.0), "start_percent": number(0.0), "end_percent": number(1.0)}
_APPLY = Old(
    _STRENGTH,
    (" ".join(_STRENGTH),),
    f"positive negative control_net image {_OPTIONAL}",
    output="CONDITIONING",
)
_APPLY_ONE = Old(
    _STRENGTH, (" ".join(_STRENGTH),), f"conditioning control_net image {_OPTIONAL}", output="CONDITIONING"
)

LOADERS = {
    "ControlNetLoaderAdvanced": _LOADER,
    "ACN_ControlNetLoaderAdvanced": _LOADER,
    "DiffControlNetLoaderAdvanced": _DIFF_LOADER,
    "ACN_DiffControlNetLoaderAdvanced": _DIFF_LOADER,
}
"""The first of each kind is what files before July 2026 have."""
APPLIES = {"ACN_AdvancedControlNetApply": _APPLY, "ACN_AdvancedControlNetApply_v2": _APPLY}
"""To both prompts."""
APPLIES_ONE = {
    "ACN_AdvancedControlNetApplySingle": _APPLY_ONE,
    "ACN_AdvancedControlNetApplySingle_v2": _APPLY_ONE,
}
"""To one prompt, and to what stands against it."""
BEYOND = ("mask_optional", "timestep_kf", "latent_kf_override", "weights_override", "tk_optional")
"""Inputs that ComfyUI's own nodes do not have."""
NEUTRAL = "ACN_DefaultUniversalWeights"
"""What it gives, without extras, changes nothing."""
PLAIN_LOADERS = {*LOADERS, "ControlNetLoader", "DiffControlNetLoader", "SetUnionControlNetType"}
"""What a ControlNet that ComfyUI's own node can apply comes from."""
SPECIAL_FILES = ("lllite", "sparsectrl", "ctrlora", "svd", "loosecontrol")
"""Parts of names of files that ComfyUI's loader does not take for a ControlNet."""
