"""What a file is, told from its keys: each wrong pick gets a sentence that names the right node."""

import pytest
from animatediff_flipbook.motion_core.files.recognise import KINDS, recognise

MM = "down_blocks.0.motion_modules.0.temporal_transformer"
BLOCK = f"{MM}.transformer_blocks.0.attention_blocks.0"
SPATIAL = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
CASES = {
    "motion_module": [
        [f"{MM}.norm.weight", f"{BLOCK}.to_q.weight"],
        [f"module.{MM}.norm.weight", "module.conv_in.weight", "module.down_blocks.0.resnets.0.conv1.weight"],
        ["down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q.weight"],
        ["down_blocks.0.temporal_attentions.0.proj_in.weight"],
        [f"{MM}.norm.weight", "conv_in.weight"],
        [f"{MM}.norm.weight", "img_encoder.conv.weight"],
    ],
    "motion_lora": [
        [f"{BLOCK}.processor.to_q_lora.down.weight", f"{BLOCK}.processor.to_q_lora.up.weight"],
        [f"unet.{BLOCK}.to_q.lora_A.weight"],
        [f"base_model.model.{BLOCK}.to_q.lora_B.default.weight"],
        ["lora_unet_down_blocks_0_motion_modules_0_transformer_blocks_0_attn1_to_q.lora_down.weight"],
        [f"{BLOCK}.processor.to_q_lora.down.weight", f"{SPATIAL}.processor.to_q_lora.down.weight"],
    ],
    "domain_adapter": [
        [f"{SPATIAL}.processor.to_q_lora.down.weight"],
        [f"unet.{SPATIAL}.to_q.lora.down.weight"],
        ["lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight"],
        ["lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight"],
        ["lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.hada_w1_a"],
    ],
    "sparsectrl": [["controlnet_cond_embedding.weight", f"{MM}.norm.weight"]],
    "cameractrl": [
        ["encoder_down_conv_blocks.0.weight", f"{BLOCK}.processor.qkv_merge.weight"],
        ["pose_encoder_state_dict.encoder_conv_in.weight", f"attention_processor_state_dict.{BLOCK}.x"],
    ],
    "fancyvideo": [[f"{MM}.norm.weight", "fps_embedding.linear.weight", "conv_in.weight"]],
    "controlnet": [
        ["controlnet_cond_embedding.conv_in.weight", "controlnet_mid_block.weight"],
        ["control_model.zero_convs.0.0.weight", "control_model.input_blocks.0.0.weight"],
        ["zero_convs.0.0.weight", "input_blocks.0.0.weight"],
    ],
    "checkpoint": [
        ["model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.decoder.conv_in.weight"],
        ["model.diffusion_model.out.0.weight", "conditioner.embedders.0.transformer.text_model.x"],
    ],
    "unet": [
        ["model.diffusion_model.input_blocks.0.0.weight"],
        ["diffusion_model.input_blocks.0.0.weight"],
        ["input_blocks.0.0.weight", "out.2.weight"],
        ["down_blocks.0.resnets.0.conv1.weight", "conv_in.weight"],
    ],
    "vae": [
        ["encoder.down.0.block.0.conv1.weight", "decoder.up.0.block.0.conv1.weight"],
        ["first_stage_model.encoder.conv_in.weight"],
        ["decoder.conv_in.weight", "encoder.conv_in.weight"],
    ],
    "text_encoder": [
        ["text_model.encoder.layers.0.mlp.fc1.weight"],
        ["transformer.text_model.embeddings.token_embedding.weight"],
    ],
    "embedding": [["emb_params"], ["clip_l", "clip_g"], ["string_to_param.*"]],
    "unknown": [["weight"], ["model.layers.0.self_attn.q_proj.weight"], []],
}


@pytest.mark.parametrize(("kind", "keys"), [(kind, keys) for kind, many in CASES.items() for keys in many])
def test_kinds(kind, keys):
    assert recognise(keys) == kind


def test_every_kind_is_covered_and_has_a_sentence():
    assert set(CASES) == set(KINDS)
    assert all(len(text) > 10 for text in KINDS.values())


@pytest.mark.parametrize("start", ["", "module.", "module.module."])
@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("input_blocks.0.0.weight", "unet"),
        ("down_blocks.0.resnets.0.conv1.weight", "unet"),
        ("diffusion_model.out.0.weight", "unet"),
        ("control_model.input_blocks.0.weight", "controlnet"),
        ("encoder.conv_in.weight", "vae"),
    ],
)
def test_a_wrapper_for_several_gpus_changes_no_kind(start, key, kind):
    assert recognise([f"{start}{key}"]) == kind
