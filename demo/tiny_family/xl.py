"""The tiny family's SDXL: ComfyUI's SDXL with other numbers, for the workflows of SDXL's motion modules.

SDXL is recognised by its width (320), its text width (2048) and its vector of text and sizes (2816). Here the
same classes run with widths of 64, 128 and 256 and two text models of the tiny family. No trained weights
exist; the tests write random ones.
"""

import comfy.supported_models
import comfy.utils
import torch
from comfy import sdxl_clip, supported_models_base

from .model import TinySDClipModel
from .tokenizer import TEXT_WIDTH, TinySDTokenizer

SIZE_WIDTH = 256  # ComfyUI's embedding of each of SDXL's six sizes
ADM_WIDTH = TEXT_WIDTH + 6 * SIZE_WIDTH


class TinyXLTokenizer(sdxl_clip.SDXLTokenizer):
    """Two tokenizers, as SDXL has them."""

    def __init__(self, embedding_directory=None, tokenizer_data: dict | None = None) -> None:
        both = {"embedding_directory": embedding_directory, "tokenizer_data": tokenizer_data}
        self.clip_l = TinySDTokenizer(**both)
        self.clip_g = TinySDTokenizer(**both)


class TinyXLClipModel(sdxl_clip.SDXLClipModel):
    """Two text models side by side, the second one's pooled output for the vector."""

    def __init__(self, device="cpu", dtype=None, model_options: dict | None = None) -> None:
        torch.nn.Module.__init__(self)
        both = {"device": device, "dtype": dtype, "model_options": model_options}
        self.clip_l = TinySDClipModel(**both)
        self.clip_g = TinySDClipModel(**both)
        self.dtypes = {dtype}


class TinyXL(comfy.supported_models.SDXL):
    """Three levels, each twice as wide as the one before, 64-wide heads, deeper transformers further down."""

    unet_config = {
        "model_channels": 64,
        "use_linear_in_transformer": True,
        "context_dim": 2 * TEXT_WIDTH,
        "adm_in_channels": ADM_WIDTH,
        "use_temporal_attention": False,
    }

    def process_clip_state_dict(self, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Text model keys of the file to ComfyUI's."""
        prefixes = {"conditioner.embedders.0.": "clip_l.", "conditioner.embedders.1.": "clip_g."}
        return comfy.utils.state_dict_prefix_replace(state_dict, prefixes, filter_keys=True)

    def clip_target(self, state_dict: dict | None = None) -> supported_models_base.ClipTarget:
        """Tokenizer and text models that ComfyUI builds for it."""
        return supported_models_base.ClipTarget(TinyXLTokenizer, TinyXLClipModel)
