"""AnimateDiff-Evolved: PIA, AnimateLCM-I2V and CameraCtrl, read where they lead to an Apply node."""

from __future__ import annotations

from ..old import Old, choice, number, switch, whole

PIA_SETTINGS: dict[str, str] = {
    f"{theirs} ({size} Motion)": f"{ours} {size.lower()}"
    for theirs, ours in (("Animation", "animation"), ("Loop", "loop"), ("Style Transfer", "style"))
    for size in ("Small", "Medium", "Large")
}
"""preset -> setting of PIA Reference."""
PIA_PRESETS = "ADE_InputPIA_PaperPresets"
PIA_VALUE = "ADE_InputPIA_Multival"
ENCODERS = {"ADE_UpscaleAndVAEEncode": "image", "VAEEncode": "pixels"}
"""Nodes that make a latent of a picture -> the input with the picture."""

_PATH = {"speed": number(1.0), "frame_length": whole(16)}
_SIX = {f"motion_type{n}": choice("Static") for n in range(1, 7)}
_STRENGTHS = {f"strength{n}": number(1.0) for n in range(1, 7)}
_PAIRS = " ".join(f"motion_type{n} strength{n}" for n in range(1, 7))
POSES: dict[str, Old] = {
    "ADE_CameraPoseBasic": Old(
        {"motion_type1": choice("Static"), **_PATH},
        ("motion_type1 speed frame_length",),
        "prev_poses",
        {"motion_type": "motion_type1"},
    ),
    "ADE_CameraPoseCombo": Old({**_SIX, **_PATH}, (f"{' '.join(_SIX)} speed frame_length",), "prev_poses"),
    "ADE_CameraPoseAdvanced": Old(
        {**_SIX, **_STRENGTHS, **_PATH}, (f"{_PAIRS} speed frame_length",), "prev_poses"
    ),
}
"""They may feed video models of other packs, too: those keep them."""
PRESETS = Old(
    {"preset": choice("Animation (Small Motion)"), "batch_index": whole(0), "print_values": switch()},
    ("preset batch_index print_values", "preset batch_index"),
)
