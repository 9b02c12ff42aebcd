"""Settings of the image model, the motion module and low-rank layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class BaseConfig:
    """The frozen image model."""

    checkpoint: str
    """A checkpoint file that ComfyUI's "Load Checkpoint" takes (UNet, text encoder and VAE in one)."""
    comfyui: str = ""
    """ComfyUI's folder. Empty: the environment variable COMFYUI_PATH."""
    custom_nodes: tuple[str, ...] = ()
    """Folders or files of custom node packs to load first, for bases that a pack makes known to ComfyUI."""
    domain_adapter: str = ""
    """A stage 1 file that stages 2 and 3 train on top of."""
    domain_adapter_strength: float = 1.0
    """Its strength while training; 1 as in the paper, so that motion need not learn what the adapter
    knows."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes a GPU if there is one."""


@dataclass(frozen=True, kw_only=True)
class MotionConfig:
    """The motion module: trained in stage 2, carried by stage 3."""

    file: str = ""
    """A motion module to start from (stage 2) or to train on top of (stage 3). Empty: a fresh one."""
    generation: Literal["v1", "v2", "v3", "sdxl"] = "v3"
    """Whose conventions a fresh module takes: noise schedule, GroupNorm modes, mid block, length."""
    pe_length: int = 0
    """Rows of the position table = most frames in one call. 0: the generation's."""
    mid_block: Literal["auto", "yes", "no"] = "auto"
    """A module in the UNet's middle block too. auto: as the generation has it (only v2)."""
    unet_groupnorm: Literal["auto", "joint", "per_frame"] = "auto"
    """Statistics of the UNet's norms, over a video's frames together (v1) or each frame by itself."""
    module_groupnorm: Literal["auto", "joint", "per_frame"] = "auto"
    """The same for the motion module's own norm (joint only in the SDXL beta)."""
    num_heads: int = 8
    """Attention heads."""


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank layers of stages 1 and 3."""

    rank: int = 16
    """Rank r; a layer in -> out costs r * (in + out) values."""
    alpha: float = 0.0
    """Scale alpha / r. 0: alpha = r. Folded into the exported weights."""
    dropout: float = 0.0
    """Dropout before the low-rank product, 0..1."""
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    """Which layers of each attention get one."""
    file: str = ""
    """Start from this LoRA file instead of from zero. Its rank must be the one above."""
