"""A small SD1.5-shaped model family for ComfyUI's ordinary checkpoint loader.

Why: the demo and the tests run our published workflows, unchanged, on a checkpoint of 13 MB. SD1.5 is
recognised by its width (320) and text width (768); this subclass is the same architecture with other numbers,
a text model with a vocabulary of words, and a VAE in TAESD's layout, which ComfyUI recognises by itself.
"""

from typing import Any

import comfy.supported_models
import comfy.utils
import torch
from comfy import clip_model, sd1_clip, supported_models_base
from comfy.ldm.modules.attention import optimized_attention
from comfy.model_base import ModelType

from .tokenizer import CONTEXT_LENGTH, END, START, TEXT_WIDTH, TinyTokenizer

VOCABULARY_ROWS = 128  # rows of the embedding table: room for words added later without a new shape
TEXT_CONFIG = {
    "num_hidden_layers": 1,
    "hidden_size": TEXT_WIDTH,
    "num_attention_heads": 4,
    "intermediate_size": 2 * TEXT_WIDTH,
    "hidden_act": "quick_gelu",
    "max_position_embeddings": CONTEXT_LENGTH,
    "eos_token_id": END,
    "vocab_size": VOCABULARY_ROWS,
}


class WordTextModel(clip_model.CLIPTextModel):
    """ComfyUI's CLIP text transformer with an embedding table of our size (its own is fixed to CLIP's)."""

    def __init__(self, config_dict: dict[str, Any], dtype, device, operations) -> None:
        super().__init__(config_dict, dtype, device, operations)
        self.set_input_embeddings(
            operations.Embedding(
                config_dict["vocab_size"], config_dict["hidden_size"], dtype=dtype, device=device
            )
        )


class TinySDClipModel(sd1_clip.SDClipModel):
    """One layer, 64 wide, 32 tokens."""

    def __init__(self, device="cpu", dtype=None, model_options: dict | None = None) -> None:
        super().__init__(
            device=device,
            dtype=dtype,
            max_length=CONTEXT_LENGTH,
            textmodel_json_config=dict(TEXT_CONFIG),
            model_class=WordTextModel,
            special_tokens={"start": START, "end": END, "pad": END},
            return_projected_pooled=False,
            model_options=model_options or {},
        )

    def encode_for_training(self, tokens: torch.Tensor) -> torch.Tensor:
        """Token numbers (B, 32) to context (B, 32, 64), differentiable.

        The same numbers as ComfyUI's own forward, whose layers add in place, which autograd refuses.
        """
        model = self.transformer.text_model
        x = model.embeddings(tokens)
        mask = torch.full((x.shape[1], x.shape[1]), -torch.finfo(x.dtype).max, device=x.device).triu_(1)
        for layer in model.encoder.layers:
            x = x + layer.self_attn(layer.layer_norm1(x), mask, optimized_attention)
            x = x + layer.mlp(layer.layer_norm2(x))
        return model.final_layer_norm(x)


class TinyClipModel(sd1_clip.SD1ClipModel):
    """The text encoder object; `clip_name` keeps the prefix `clip_l` to which the file's keys are mapped."""

    def __init__(self, device="cpu", dtype=None, model_options: dict | None = None) -> None:
        super().__init__(
            device=device,
            dtype=dtype,
            model_options=model_options or {},
            clip_name="l",
            clip_model=TinySDClipModel,
        )


class TinyAD(comfy.supported_models.SD15):
    """SD1.5's architecture at width 64: three levels (64, 64, 128), one residual block each, 3.9 M values.

    Width 64 and not 32: group normalisation over 32 groups would see one channel a group and lose each
    channel's mean, and with it the brightness of a picture.
    """

    unet_config = {
        "context_dim": TEXT_WIDTH,
        "model_channels": 64,
        "use_linear_in_transformer": False,
        "adm_in_channels": None,
        "use_temporal_attention": False,
    }
    # SDXL beta's noise schedule and v prediction, not SD1.5's: through the noise of SD1.5's last step one can
    # still read from 16 frames which way a shape goes, and sampling starts from noise without such a trace.
    # v prediction makes what only the prompt decides count as much as what the noise leaves to see.
    sampling_settings = {"beta_schedule": "linear", "linear_start": 0.00085, "linear_end": 0.020}

    def model_type(self, state_dict: dict[str, torch.Tensor], prefix: str = "") -> ModelType:
        """What the UNet of a checkpoint predicts."""
        return ModelType.V_PREDICTION

    def process_clip_state_dict(self, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Text model keys of the file to ComfyUI's: only the prefix differs (no need of SD1.5's repairs)."""
        return comfy.utils.state_dict_prefix_replace(
            state_dict, {"cond_stage_model.": "clip_l."}, filter_keys=True
        )

    def clip_target(self, state_dict: dict | None = None) -> supported_models_base.ClipTarget:
        """Tokenizer and text model that ComfyUI builds for a checkpoint of this family."""
        return supported_models_base.ClipTarget(TinyTokenizer, TinyClipModel)


def register(family: type[supported_models_base.BASE] = TinyAD) -> None:
    """Make ComfyUI's checkpoint loader know a family. A second call or import does nothing."""
    known = comfy.supported_models.models
    if not any(config.__name__ == family.__name__ for config in known):
        known.append(family)
