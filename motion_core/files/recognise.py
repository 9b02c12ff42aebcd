"""What a weight file is, told from its keys, so that a file in the wrong node gets a helpful sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable

KINDS = {
    "motion_module": "a motion module: use Load Motion Module",
    "motion_lora": "a MotionLoRA: use Load MotionLoRA",
    "domain_adapter": "a LoRA of the image model (a domain adapter is one): use Apply Domain Adapter, or "
    "Load LoRA",
    "sparsectrl": "a SparseCtrl encoder: use Load SparseCtrl",
    "cameractrl": "a CameraCtrl model: use Load Camera Control",
    "fancyvideo": "a FancyVideo model, whose inputs for frame rate and motion this pack does not have. Use a "
    "PIA or AnimateLCM-I2V module to animate a picture",
    "controlnet": "a ControlNet: use Load ControlNet Model",
    "checkpoint": "a whole checkpoint: use Load Checkpoint",
    "unet": "a UNet without motion modules: use Load Diffusion Model",
    "vae": "a VAE: use Load VAE",
    "text_encoder": "a text encoder: use Load CLIP",
    "embedding": "a textual inversion embedding: name it in the prompt",
    "unknown": "none of the kinds of file that this pack knows",
}
"""Kind of file, and what to do with it."""

LORA_MARKS = re.compile(
    r"(_lora\.(down|up)|\.lora_(down|up)|\.lora_[AB]|\.lora\.(down|up)|\.lora_linear_layer\.|\.hada_|\.lokr_)"
)
MOTION_MARKS = re.compile(r"motion[._]modules|temporal_attentions|temporal_transformer")


def recognise(keys: Iterable[str]) -> str:
    """The kind of file that holds these keys: one of :data:`KINDS`."""
    # A wrapper for several GPUs leaves its name before every key.
    keys = [re.sub(r"^(module\.)+", "", key) for key in keys]

    def has(pattern: str) -> bool:
        return any(re.search(pattern, key) for key in keys)

    if has(r"controlnet_cond_embedding\.|controlnet_mid_block\."):
        return "sparsectrl" if any(MOTION_MARKS.search(key) for key in keys) else "controlnet"
    if has(r"^(unet\.)?(fps_embedding|motion_embedding)\."):
        return "fancyvideo"
    if has(r"qkv_merge|^pose_encoder_state_dict\.|^encoder_down_conv_blocks\."):
        return "cameractrl"
    lora = [key for key in keys if LORA_MARKS.search(key)]
    if lora:
        return "motion_lora" if any(MOTION_MARKS.search(key) for key in lora) else "domain_adapter"
    if any(MOTION_MARKS.search(key) for key in keys):
        return "motion_module"
    if has(r"^control_model\.|zero_convs\."):
        return "controlnet"
    if has(r"^(model\.)?diffusion_model\."):
        return "checkpoint" if has(r"^(first_stage_model|cond_stage_model|conditioner)\.") else "unet"
    if has(r"^(input_blocks|down_blocks)\.\d"):
        return "unet"
    if has(r"^(first_stage_model\.)?(encoder|decoder)\.(down|up|conv_in|mid)"):
        return "vae"
    if has(r"text_model\.|token_embedding"):
        return "text_encoder"
    if has(r"^(emb_params|string_to_param|clip_[lg])"):
        return "embedding"
    return "unknown"
