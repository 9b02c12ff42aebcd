"""The names that motion modules' weights have in the field, and which of a file's tensors are the weights."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping

from ..module.config import ModuleShape
from .tensor_file import TensorFile
from .words import shown

MODULE_KEY = re.compile(
    r"(?P<block>down_blocks\.\d+|mid_block|up_blocks\.\d+)\.(?:motion_modules|temporal_attentions)\.(?P<index>\d+)\."
    r"(?:temporal_transformer\.)?(?P<rest>.+)$"
)

FIELD_NAMES: tuple[tuple[str, str], ...] = (
    (r"(?<=transformer_blocks\.)(\d+)\.attn1\.", r"\1.attention_blocks.0."),
    (r"(?<=transformer_blocks\.)(\d+)\.attn2\.", r"\1.attention_blocks.1."),
    (r"(?<=transformer_blocks\.)(\d+)\.norm1\.", r"\1.norms.0."),
    (r"(?<=transformer_blocks\.)(\d+)\.norm2\.", r"\1.norms.1."),
    (r"(?<=transformer_blocks\.)(\d+)\.norm3\.", r"\1.ff_norm."),
    (r"pos_encoder\.(positional_encoding|pos_encoding)$", "pos_encoder.pe"),
    (r"pos_embed\.pe$", "pos_embed.pe"),
)
"""Other layouts' names within a module -> the original's. diffusers' one ``pos_embed.pe`` serves all
attentions."""

SCALES = re.compile(r"(?P<weight>.+)\.(scale_weight|weight_scale)$")
"""Numbers beside scaled fp8 weights, by which these are multiplied."""
OF_NO_USE = re.compile(r"\.(scale_input|input_scale|scaled_fp8|comfy_quant)$|^scaled_fp8$")
"""Beside scaled fp8 weights, for products in fp8."""
PACKED = re.compile(r"absmax|quant_map|quant_state|bitsandbytes|qweight|qzeros|weight_scale_2|zero_point")
"""Beside weights that are packed in a way that only the program that made them unpacks."""


def one_copy(source: TensorFile, notes: list[str]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """``module -> (weight -> key)`` and the other keys.

    Of a file that holds the weights several times, under other beginnings (``module.``, ``ema_unet.``,
    ``model_ema.``), one copy is taken whole: the fullest, of these one that is no average, of these the one
    with the shortest beginning.
    """
    copies: dict[str, dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    others = []
    for key in source.shapes:
        match = MODULE_KEY.search(key)
        if match is None:
            others.append(key)
            continue
        rest = match["rest"]
        for pattern, name in FIELD_NAMES:
            rest = re.sub(pattern, name, rest)
        copies[key[: match.start()]][f"{match['block']}.motion_modules.{match['index']}"][rest] = key
    if len(copies) > 1:
        sizes = {start: sum(map(len, modules.values())) for start, modules in copies.items()}
        best = min(copies, key=lambda start: (-sizes[start], "ema" in start.lower(), len(start), start))
        rest = ", ".join(f"{shown(start) or 'none'!r}" for start in sorted(copies) if start != best)
        notes.append(
            f"The file holds the weights {len(copies)} times, under several beginnings of their names: those "
            f"with {shown(best) or 'none'!r} were taken, not those with {rest}."
        )
        return copies[best], others
    return next(iter(copies.values()), {}), others


def read_scales(
    source: TensorFile, keys: Mapping[str, str], left: set[str]
) -> tuple[dict[str, str], list[str]]:
    """``weight -> key of its scale`` among tensors that are no weights, and what is left of these.

    Raises:
        ValueError: the weights are packed, or a scale is no single number.
    """
    scales, unknown = {}, []
    for rest in sorted(left):
        if PACKED.search(rest):
            raise ValueError(
                f"{source.name} is quantised in a way that is not read here ({shown(keys[rest])} says so). "
                "Use an fp16, bf16, fp32 or fp8 version of it."
            )
        match = SCALES.match(rest)
        if match and f"{match['weight']}.weight" in keys:
            if math.prod(source.shapes[keys[rest]]) != 1:
                raise ValueError(
                    f"{source.name}: {shown(keys[rest])} has the shape {source.shapes[keys[rest]]}, expected "
                    "one number. Use an fp16, bf16, fp32 or fp8 version of the file."
                )
            scales[f"{match['weight']}.weight"] = keys[rest]
        elif not OF_NO_USE.search(rest):
            unknown.append(rest)
    return scales, unknown


def expected_weights(shape: ModuleShape) -> dict[str, tuple[int, ...]]:
    """Every weight of a module in the original layout, with its shape."""
    c, d, ff = shape.channels, shape.inner, shape.ff_inner
    weights: dict[str, tuple[int, ...]] = {
        "norm.weight": (c,),
        "norm.bias": (c,),
        "proj_in.weight": (d, c),
        "proj_in.bias": (d,),
        "proj_out.weight": (c, d),
        "proj_out.bias": (c,),
    }
    for block in range(shape.num_blocks):
        path = f"transformer_blocks.{block}"
        for attention in range(shape.num_attentions):
            layer = f"{path}.attention_blocks.{attention}"
            weights |= {f"{layer}.to_{part}.weight": (d, d) for part in "qkv"}
            weights |= {f"{layer}.to_out.0.weight": (d, d), f"{layer}.to_out.0.bias": (d,)}
            weights |= {f"{path}.norms.{attention}.{part}": (d,) for part in ("weight", "bias")}
        weights |= {f"{path}.ff_norm.{part}": (d,) for part in ("weight", "bias")}
        weights |= {f"{path}.ff.net.0.proj.weight": (2 * ff, d), f"{path}.ff.net.0.proj.bias": (2 * ff,)}
        weights |= {f"{path}.ff.net.2.weight": (d, ff), f"{path}.ff.net.2.bias": (d,)}
    return weights
