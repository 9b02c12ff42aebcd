"""LoRA layers for stages 1 and 3: put in by peft, exported under the field's names.

Stage 1 changes the image model's self- and cross-attention (the domain adapter), stage 3 the motion
module's attention (MotionLoRA). ``W' = W + alpha / rank * up @ down``; the factor is folded into ``up`` on
export, because the field's files have no alpha.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

import torch
from peft import LoraConfig as PeftConfig
from peft import inject_adapter_in_model
from peft.tuners.lora import LoraLayer as PeftLayer
from torch import nn

from ...motion_core.files.lora import LoraFile, left_out, match_layers
from ...motion_core.module.model import MotionModel
from ...motion_core.module.unet import unet_slots
from .. import randomness
from ..config import LoraConfig

log = logging.getLogger(__name__)

MOTION_ATTENTION = (
    r".*motion_modules\.\d+\.temporal_transformer\.transformer_blocks\.\d+\.attention_blocks\.\d+\."
)
IMAGE_ATTENTION = (
    r"(input_blocks\.\d+\.\d+|middle_block\.\d+|output_blocks\.\d+\.\d+)\.transformer_blocks\.\d+\.attn[12]\."
)


class LoraSet(nn.Module):
    """The LoRA layers that peft has put into a model, as a module of their own: what is trained and saved.

    Args:
        model: the UNet or the motion model; its layers are exchanged in place.
        pattern: regular expression of the attention layers' names, up to the projection.
        config: rank, alpha, targets.
        seed: of the fresh ``down`` factors.
        names: name in the model -> name in files.

    Raises:
        ValueError: no layer has such a name.
    """

    def __init__(
        self, model: nn.Module, pattern: str, config: LoraConfig, seed: int, names: Mapping[str, str]
    ) -> None:
        super().__init__()
        targets = "|".join(re.escape(target) for target in config.targets)
        self.scale = (config.alpha or config.rank) / config.rank
        if not any(re.fullmatch(f"{pattern}({targets})", name) for name, _ in model.named_modules()):
            raise ValueError(
                f"No layer of {type(model).__name__} is called {pattern}({targets}); nothing to train."
            )
        peft = PeftConfig(
            r=config.rank,
            lora_alpha=config.alpha or config.rank,
            lora_dropout=config.dropout,
            # One string is matched as a whole; a list would match endings and catch other attentions too.
            target_modules=f"{pattern}({targets})",
        )
        inject_adapter_in_model(peft, model)
        self._names: dict[str, str] = {}
        for path, layer in model.named_modules():
            if not isinstance(layer, PeftLayer):
                continue
            down, up = layer.lora_A["default"], layer.lora_B["default"]
            # peft follows the type of the base; in 16 bit small updates would vanish.
            down.float(), up.float()
            with torch.no_grad():
                bound = down.in_features**-0.5
                uniform = randomness.stream(seed, "lora", path).random(
                    tuple(down.weight.shape), dtype="float32"
                )
                down.weight.copy_(bound * (2 * torch.from_numpy(uniform) - 1))
                up.weight.zero_()
            key = path.replace(".", "/")
            self.add_module(key, nn.ModuleDict({"down": down, "up": up}))
            self._names[key] = names.get(path, path)
        self.requires_grad_(True)

    def layers(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """``(down, up)`` by file name, the scale folded into ``up``."""
        return {
            self._names[key]: (pair["down"].weight.detach(), self.scale * pair["up"].weight.detach())
            for key, pair in self.named_children()
        }

    @torch.no_grad()
    def start_from(self, file: LoraFile) -> None:
        """Take the factors of a LoRA file.

        Raises:
            ValueError: another rank, or layers that are missing here or there.
        """
        match = match_layers(file, self._names.values())
        missing = sorted(set(self._names.values()) - set(match.layers))
        if missing or match.unmatched:
            raise ValueError(
                f"lora.file: {file.name} does not fit: {len(missing)} layers are missing, "
                f"{len(match.unmatched)} unknown "
                f"(for example {(missing or list(match.unmatched))[0]})."
            )
        for key, pair in self.named_children():
            layer = match.layers[self._names[key]]
            if layer.down.shape != pair["down"].weight.shape:
                raise ValueError(
                    f"lora.file: {file.name} has rank {layer.rank}, the run lora.rank = "
                    f"{pair['down'].weight.shape[0]}. "
                    "Set lora.rank to the file's."
                )
            factor = 1.0 if layer.alpha is None else layer.alpha / layer.rank
            pair["down"].weight.copy_(layer.down)
            pair["up"].weight.copy_(layer.up * (factor / self.scale))


def attention_names(unet: nn.Module) -> dict[str, str]:
    """Name of each attention projection of a UNet in ComfyUI -> its name in AnimateDiff's and diffusers'
    files."""
    names = {}
    for slot in unet_slots(unet):
        if slot.attention_path is None:
            continue
        for name, layer in unet.get_submodule(slot.attention_path).named_modules():
            if isinstance(layer, nn.Linear) and re.search(r"attn[12]\.(to_[qkv]|to_out\.0)$", name):
                names[f"{slot.attention_path}.{name}"] = f"{slot.attention}.{name}"
    return names


def add_domain_adapter(unet: nn.Module, config: LoraConfig, seed: int) -> LoraSet:
    """Fresh stage 1 layers in a UNet."""
    return LoraSet(unet, IMAGE_ATTENTION, config, seed, attention_names(unet))


def add_motion_lora(motion: MotionModel, config: LoraConfig, seed: int) -> LoraSet:
    """Fresh stage 3 layers in a motion model with separate q, k and v."""
    return LoraSet(motion, MOTION_ATTENTION, config, seed, {})


@torch.no_grad()
def merge_domain_adapter(unet: nn.Module, file: LoraFile, strength: float) -> int:
    """Add a stage 1 adapter to the frozen weights; returns how many layers it changed.

    Raises:
        ValueError: the file is no domain adapter, or none of its layers is in this UNet.
    """
    if file.kind != "domain_adapter":
        raise ValueError(f"base.domain_adapter: {file.name} is a {file.kind}, expected a domain adapter.")
    if file.ignored:
        log.warning("%s%s", file.name, left_out(file.ignored))
    names = attention_names(unet)
    match = match_layers(file, names.values())
    if not match.layers or match.unmatched:
        raise ValueError(
            f"base.domain_adapter: {len(match.unmatched)} of {len(file.layers)} layers of {file.name} are "
            "not in this "
            "base model. Was it trained for another family?"
        )
    for path, name in names.items():
        if name in match.layers:
            layer = match.layers[name]
            factor = strength * (1.0 if layer.alpha is None else layer.alpha / layer.rank)
            weight = unet.get_submodule(path).weight
            delta = factor * (layer.up.float() @ layer.down.float())
            weight.copy_(weight.float() + delta.to(weight.device))
    return len(match.layers)
