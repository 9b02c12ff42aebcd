"""The scale of a LoRA that peft made: its tensors hold none, the adapter's configuration does.

diffusers stores that configuration as JSON in the file's metadata, peft itself as `adapter_config.json`
beside the weights. peft's factor is ``alpha / rank``, or ``alpha / sqrt(rank)`` for rank-stabilised LoRA
(Kalajdzievski, arXiv 2312.03732), and ``alpha_pattern`` names layers with an alpha of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .side_files import finite_number, json_file, json_object

METADATA_KEY = "lora_adapter_metadata"
CONFIG_FILE = "adapter_config.json"
WEIGHT_NAMES = ("adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True)
class PeftScaling:
    """What a configuration says; without one, layers have no alpha."""

    alpha: float | None = None
    """Of every layer that no pattern names."""
    patterns: Mapping[str, float] = field(default_factory=dict)
    """Alpha by the end of a layer's name."""
    rank_stabilised: bool = False
    """Whether the factor is alpha / sqrt(rank)."""

    def of(self, layer: str, rank: int) -> float | None:
        """The alpha that, over the rank, is peft's factor for a layer of this name; None is factor 1."""
        # peft takes patterns for regular expressions. Files of strangers do not get to run those here: a
        # pattern is a whole name or the end of one, which is what peft's own tools write.
        named = [value for end, value in self.patterns.items() if layer == end or layer.endswith(f".{end}")]
        alpha = named[0] if named else self.alpha
        return alpha * math.sqrt(rank) if alpha is not None and self.rank_stabilised else alpha


def read_peft_scaling(path: Path, metadata: Mapping[str, str]) -> PeftScaling:
    """The scaling of a weight file, from its metadata or else from the configuration beside it.

    Args:
        path: the file; a configuration beside it counts only for the names that peft gives its files, because
            a folder of LoRAs may hold many.
        metadata: the file's own.

    Raises:
        ValueError: a configuration is there and cannot be understood; the weights would have another scale.
    """
    text = metadata.get(METADATA_KEY)
    beside = path.with_name(CONFIG_FILE)
    if text is not None and text.strip():
        where = f"{path.name}: its metadata {METADATA_KEY}"
        return _scaling(json_object(text, where), where)
    if path.name in WEIGHT_NAMES and beside.is_file():
        return _scaling(json_file(beside), f"{beside.name} beside the weights")
    return PeftScaling()


def _scaling(config: dict[str, Any], where: str) -> PeftScaling:
    """The fields of interest; diffusers puts the component's name before each, as in `unet.lora_alpha`, and
    has those of text encoders, which are not for our layers, in the same table."""
    fields = {
        key.rsplit(".", 1)[-1]: value for key, value in config.items() if not key.startswith("text_encoder")
    }
    alpha, patterns = fields.get("lora_alpha"), fields.get("alpha_pattern")
    if patterns is not None and not isinstance(patterns, dict):
        raise ValueError(f"{where}: alpha_pattern is a {type(patterns).__name__}, expected an object.")
    return PeftScaling(
        alpha=None if alpha is None else finite_number(alpha, f"{where}: lora_alpha"),
        patterns={
            end.removeprefix("^").removesuffix("$"): finite_number(value, f"{where}: an alpha_pattern")
            for end, value in (patterns or {}).items()
        },
        rank_stabilised=fields.get("use_rslora") is True,
    )
