"""Apply Domain Adapter: LoRA in the attention of the image model (AnimateDiff, section 4.1).

The adapter learnt what video frames have and pictures have not, blur and watermarks, so that the motion
module did not have to. In training alpha was 1; at inference it is dropped (0) or scaled.
"""

from __future__ import annotations

import logging
from pathlib import Path

import comfy.lora
import torch
from comfy_api.latest import io

from ...motion_core.files.lora import LoraFile, image_layers, left_out, read_lora, require_mergeable
from ...motion_core.files.words import shown
from .. import paths
from ..checks import check_inputs
from ..compat import logger, make_schema, show_on_node
from ..types import CATEGORY
from .motion_lora import comfy_adapter


class ApplyDomainAdapter(io.ComfyNode):
    """Patches a domain adapter into the image model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlipbookApplyDomainAdapter",
            display_name="Apply Domain Adapter",
            category=CATEGORY,
            description=(
                "Applies a domain adapter (v3_sd15_adapter, or one of your own) from models/loras to the "
                "image model."
            ),
            search_aliases=["AnimateDiff adapter", "v3_sd15_adapter"],
            inputs=[
                io.Model.Input("model", tooltip="The image model."),
                io.Combo.Input(
                    "domain_adapter",
                    options=paths.choices(paths.LORAS),
                    tooltip="The file. v3_sd15_adapter belongs to the v3 motion module.",
                ),
                io.Float.Input(
                    "alpha",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip=(
                        "1: frames look like the videos of the training, with their blur and watermarks. 0: "
                        "the adapter is left out and frames look as the checkpoint paints."
                    ),
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The image model with the adapter.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, domain_adapter: str | None = None) -> bool | str:
        return paths.check(paths.LORAS, domain_adapter)

    @classmethod
    def fingerprint_inputs(cls, domain_adapter: str, alpha: float = 1.0, model: object = None) -> str:
        return f"{paths.fingerprint(paths.LORAS, domain_adapter)}:{alpha}"

    @classmethod
    def execute(cls, model: io.Model.Type, domain_adapter: str, alpha: float = 1.0) -> io.NodeOutput:
        check_inputs(cls, locals())
        path = paths.full_path(paths.LORAS, domain_adapter)
        model, line = with_domain_adapter(model, path, domain_adapter, alpha)
        show_on_node(cls, line)
        return io.NodeOutput(model)


def with_domain_adapter(
    model: io.Model.Type, path: Path, name: str, alpha: float
) -> tuple[io.Model.Type, str]:
    """A clone of a model with the adapter of a file, and a line for the user.

    Raises:
        ValueError: the file is no adapter, or does not fit the model.
    """
    adapter = image_layers(read_lora(path))
    patches, unmatched = _match(model, adapter, alpha)
    line = f"{name} at alpha {alpha:g}: {len(patches)} of {len(adapter.layers)} layers"
    line += left_out(adapter.ignored)
    if unmatched:
        line += f"; this model has no place for the others, such as {shown(unmatched[0])}"
    logger.log(logging.WARNING if unmatched or adapter.ignored else logging.INFO, "Domain adapter %s", line)
    model = model.clone()
    if alpha != 0.0:
        model.add_patches(patches, alpha)
    return model, line


def _match(model: io.Model.Type, adapter: LoraFile, alpha: float) -> tuple[dict[str, object], list[str]]:
    """Weight patches by the model's keys, and the layers that found none.

    Raises:
        ValueError: no layer of the file is in the model, or one has another width.
    """
    key_map = comfy.lora.model_lora_keys_unet(model.model, {})
    weights = model.model.state_dict()
    patches, unmatched = {}, []
    for name, layer in adapter.layers.items():
        spellings = (name, f"unet.{name}", f"diffusion_model.{name}", f"lora_unet_{name.replace('.', '_')}")
        key = next((key_map[spelling] for spelling in spellings if spelling in key_map), None)
        if key is None:
            unmatched.append(name)
            continue
        shape = tuple(weights[key].shape)
        got = (layer.up.shape[0], layer.down[0].numel())
        if got != (shape[0], weights[key][0].numel()):
            raise ValueError(
                f"{adapter.name} does not fit this checkpoint: {shown(name)} is {got[0]} x {got[1]} in the "
                f"adapter and {' x '.join(map(str, shape))} in the model. Use an adapter made for this base "
                "(SD1.5 or SDXL)."
            )
        require_mergeable(adapter.name, name, layer, alpha, _largest(weights[key].dtype))
        patches[key] = comfy_adapter(name, layer)
    if not patches:
        raise ValueError(
            f"{adapter.name} changes nothing in this checkpoint: none of its {len(adapter.layers)} layers is "
            f"there (the first is {shown(next(iter(adapter.layers)))}). Use an adapter made for this base."
        )
    return patches, unmatched


def _largest(dtype: torch.dtype) -> float:
    """Value of a weight: fp8 weights are merged in a larger type."""
    return torch.finfo(dtype if dtype.itemsize > 1 else torch.float16).max
