"""LoRA files for motion modules (MotionLoRA) and for the image model (domain adapter): any spelling in, one
out.

``W' = W + strength * (alpha / rank) * up @ down``, with ``down`` (rank, in) and ``up`` (out, rank); a file
without alpha has the factor 1. Layers are named as the original and diffusers name them:

- ``down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.to_q``
- ``down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0``
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from ..module.model import MotionModel
from .layouts import FIELD_NAMES
from .peft_scaling import METADATA_KEY, read_peft_scaling
from .recognise import KINDS, MOTION_MARKS, recognise
from .tensor_file import TensorFile, save_tensors
from .weights import computable, in_type, require_finite, require_floats
from .words import shown

SUFFIXES: tuple[tuple[str, str], ...] = (
    (r"_lora\.down\.weight$", "down"),
    (r"_lora\.up\.weight$", "up"),
    (r"\.lora_down\.weight$", "down"),
    (r"\.lora_up\.weight$", "up"),
    (r"\.lora_A(\.(?!bias$)[A-Za-z]\w*)?(\.weight)?$", "down"),
    (r"\.lora_B(\.(?!bias$)[A-Za-z]\w*)?(\.weight)?$", "up"),
    (r"\.lora\.down\.weight$", "down"),
    (r"\.lora\.up\.weight$", "up"),
    (r"\.lora_linear_layer\.down\.weight$", "down"),
    (r"\.lora_linear_layer\.up\.weight$", "up"),
    (r"\.alpha$", "alpha"),
    (r"\.lora_mid\.weight$", "mid"),
)
"""Ends of keys in the field (original, kohya, peft with any adapter name, diffusers) and what they hold."""

PREFIXES = (
    "base_model.model.",
    "base_model.",
    "model.diffusion_model.",
    "diffusion_model.",
    "module.",
    "unet.",
)
"""Starts of keys that only say which model is meant."""

KOHYA_PREFIX = "lora_unet_"
KOHYA_WORD = (
    r"(down_blocks|up_blocks|mid_block|motion_modules|temporal_attentions|temporal_transformer|attentions|"
    r"transformer_blocks|attention_blocks|attn\d|ff|net|proj_in|proj_out|proj|to_q|to_k|to_v|to_out|\d+)(?:_|$)"
)
"""Parts of layers' names. kohya writes the dots between them as underscores, of which they have some too."""

OF_A_BLOCK = re.compile(r"(down_blocks|mid_block|up_blocks)\.")
"""Start of the names that can be written."""


@dataclass(frozen=True)
class LoraLayer:
    """Factors for one layer."""

    up: torch.Tensor
    """(out, rank)."""
    down: torch.Tensor
    """(rank, in)."""
    alpha: float | None = None
    """Scale numerator; None means the factor is 1."""

    @property
    def rank(self) -> int:
        return self.down.shape[0]


@dataclass(frozen=True)
class LoraFile:
    """A LoRA file: factors by layer name."""

    name: str
    """File name, for messages."""
    kind: str
    """``motion_lora`` or ``domain_adapter``."""
    layers: Mapping[str, LoraLayer]
    """By dotted layer name; underscored ones of kohya that are no diffusers' names stay as they are."""
    ignored: tuple[str, ...] = ()
    """Keys that belong to no complete pair of factors."""
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LoraMatch:
    """What of a LoRA file finds its layer in a model."""

    layers: Mapping[str, LoraLayer]
    """By the model's layer name."""
    unmatched: tuple[str, ...]
    """The file's layers that the model does not have."""


def read_lora(path: str | os.PathLike) -> LoraFile:
    """Read a LoRA of any spelling.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, is no LoRA (the message says what it is), or holds values that are
            not finite.
    """
    source = TensorFile(path)
    kind = recognise(source.shapes)
    if kind not in ("motion_lora", "domain_adapter"):
        raise ValueError(f"{source.name} is not a LoRA. It is {KINDS[kind]}.")
    parts: dict[str, dict[str, torch.Tensor]] = {}
    stems: dict[str, str] = {}
    ignored = []
    for key, tensor in source.read(source.shapes):
        role = next((what for pattern, what in SUFFIXES if re.search(pattern, key)), None)
        if role is None:
            ignored.append(key)
            continue
        if role != "alpha":  # a number of any type
            require_floats(source.name, key, tensor.dtype)
        tensor = computable(tensor).clone()
        require_finite(source.name, key, tensor, tensor)
        pattern = next(pattern for pattern, _ in SUFFIXES if re.search(pattern, key))
        stem = re.sub(pattern, "", key)
        own = parts.setdefault(layer_name(stem), {})
        if role in own:
            raise ValueError(
                f"{source.name} holds the {role} factor of {shown(layer_name(stem))} twice, the second as "
                f"{shown(key)}, and does not say which counts. Use a file with one of each."
            )
        stems[layer_name(stem)] = stem
        own[role] = tensor
    peft = read_peft_scaling(source.path, source.metadata)
    layers = {}
    for name, found in parts.items():
        # Between the factors of some convolutions (LoCon) stands a third, without which they say nothing.
        if "up" not in found or "down" not in found or "mid" in found:
            ignored += [f"{name} ({role})" for role in found]
            continue
        up, down = found["up"], found["down"]
        matrices = up.ndim == down.ndim >= 2 and up.numel() and down.numel()
        if not matrices or up.shape[1] != down.shape[0]:
            raise ValueError(
                f"{source.name}: the factors of {shown(name)} do not fit: up {tuple(up.shape)}, down "
                f"{tuple(down.shape)}."
            )
        if "alpha" in found and found["alpha"].numel() != 1:
            raise ValueError(
                f"{source.name}: the alpha of {shown(name)} has the shape {tuple(found['alpha'].shape)}, "
                "expected one number. The file is damaged."
            )
        alpha = float(found["alpha"]) if "alpha" in found else peft.of(stems[name], down.shape[0])
        layers[name] = LoraLayer(up, down, alpha)
    if not layers:
        raise ValueError(
            f"{source.name} has keys of a LoRA but no complete pair of factors, such as {shown(ignored[0])}. "
            "It is damaged, or of a kind (LoHa, LoKr) that only Load LoRA takes."
        )
    return LoraFile(source.name, kind, layers, tuple(ignored), source.metadata)


def left_out(keys: Sequence[str]) -> str:
    """The end of a line about a LoRA: what in its file is no pair of factors."""
    return f"; {len(keys)} tensors of no known use were left out, such as {shown(keys[0])}" if keys else ""


def require_mergeable(name: str, layer: str, factors: LoraLayer, strength: float, largest: float) -> None:
    """Refuse a LoRA whose product is more than the weights can hold, before it ends in pictures of NaN.

    Args:
        name, layer: of the file and its layer, for messages.
        strength: the user's.
        largest: value of the weights' type.

    Raises:
        ValueError: strength * (alpha / rank) * up @ down is larger.
    """
    scale = abs(strength) * (1.0 if factors.alpha is None else abs(factors.alpha) / factors.rank)
    up, down = factors.up.flatten(1).double(), factors.down.flatten(1).double()
    # A bound first; the product is only made where it says nothing.
    most = scale * float(up.abs().sum(1).max()) * float(down.abs().max())
    if most > largest and scale * float((up @ down).abs().max()) > largest:
        raise ValueError(
            f"{name}: at strength {strength:g} the change of {shown(layer)} is larger than its weights can "
            "hold. Lower the strength, or use another copy: no LoRA has such values or such an alpha."
        )


def image_layers(lora: LoraFile) -> LoraFile:
    """The part of a LoRA that is for the image model, out of a file that may hold both kinds.

    Raises:
        ValueError: there is none.
    """
    layers = {name: layer for name, layer in lora.layers.items() if not MOTION_MARKS.search(name)}
    if not layers:
        raise ValueError(f"{lora.name} is not a domain adapter. It is {KINDS['motion_lora']}.")
    return replace(lora, layers=layers)


def layer_name(stem: str) -> str:
    """The layer that a key without its suffix means: no prefixes, no ``processor.``, the original's names."""
    changed = True
    while changed:
        changed = False
        for prefix in PREFIXES:
            if stem.startswith(prefix):
                stem, changed = stem[len(prefix) :], True
    words = stem.removeprefix(KOHYA_PREFIX)
    if words != stem and re.fullmatch(f"(?:{KOHYA_WORD})+", words):
        stem = ".".join(re.findall(KOHYA_WORD, words))
    stem = stem.replace(".processor.", ".")
    stem = re.sub(r"\.to_out$", ".to_out.0", stem)
    match = re.match(
        r"(.+?\.)(motion_modules|temporal_attentions)\.(\d+)\.(?:temporal_transformer\.)?(.+)$", stem
    )
    if match is None:
        return stem
    rest = f"{match[4]}."
    for pattern, name in FIELD_NAMES:
        rest = re.sub(pattern, name, rest)
    return f"{match[1]}motion_modules.{match[3]}.temporal_transformer.{rest.rstrip('.')}"


def match_layers(lora: LoraFile, targets: Iterable[str]) -> LoraMatch:
    """Find the layers of a model that a LoRA means.

    Args:
        targets: dotted names of the model's layers, in the original's spelling.
    """
    known = set(targets)
    matched = {name: layer for name, layer in lora.layers.items() if name in known}
    unmatched = [name for name in lora.layers if name not in known]
    return LoraMatch(matched, tuple(unmatched))


@dataclass(frozen=True)
class LoraTarget:
    """A layer of a motion model that a LoRA can change."""

    key: str
    """Its weight in the model's state dict."""
    shape: tuple[int, int]
    """(out, in) of the layer."""
    rows: tuple[int, int] | None
    """``(first, number)`` of the weight's rows that are this layer, where q, k and v are one product."""


def lora_targets(model: MotionModel) -> dict[str, LoraTarget]:
    """Every linear layer of a motion model, under the name that files use for it."""
    targets = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, torch.nn.Linear):
            continue
        width, inner = layer.weight.shape
        if name.endswith(".to_qkv"):
            width //= 3
            for number, part in enumerate("qkv"):
                targets[f"{name[: -len('qkv')]}{part}"] = LoraTarget(
                    f"{name}.weight", (width, inner), (number * width, width)
                )
        else:
            targets[name] = LoraTarget(f"{name}.weight", (width, inner), None)
    return targets


def plain_factors(
    lora: LoraFile, dtype: torch.dtype | None = None
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """``(down, up)`` by layer name with every alpha in ``up``, for files that have no place for one.

    Where a factor or another type changes the numbers, powers of two go from one matrix to the other until
    both are of one size: that is exact, and fp16 keeps small values that it would round or lose.

    Args:
        dtype: of the factors; by default as they are.

    Raises:
        ValueError: values that the type cannot hold.
    """
    layers = {}
    for name, layer in lora.layers.items():
        wanted = dtype or layer.up.dtype
        scale = 1.0 if layer.alpha is None else layer.alpha / layer.rank
        down, up = layer.down, layer.up
        if scale != 1.0 or {down.dtype, up.dtype} != {wanted}:
            down, up = down.double(), up.double() * scale
            sizes = [float(one.abs().max()) for one in (down, up)]
            if wanted == torch.float16 and all(sizes):
                power = round(math.log2(sizes[0] / sizes[1]) / 2)
                down, up = down * 2.0**-power, up * 2.0**power
        layers[name] = tuple(in_type(lora.name, name, one, wanted) for one in (down, up))
    return layers


def save_motion_lora(
    path: str | os.PathLike,
    layers: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a MotionLoRA in the original's spelling.

    Args:
        layers: ``(down, up)`` by layer name; a scale other than 1 must be folded into ``up``.
        metadata: facts about the training.
    """
    _save(path, layers, {**(metadata or {}), "format": "motion_lora"})


def save_domain_adapter(
    path: str | os.PathLike,
    layers: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a domain adapter in the original's spelling; arguments as for :func:`save_motion_lora`."""
    _save(path, layers, {**(metadata or {}), "format": "domain_adapter"})


def _save(path: str | os.PathLike, layers: Mapping, metadata: Mapping[str, str]) -> None:
    tensors = {}
    # Of the factors as they were read; a scale that stayed here would be applied once more.
    metadata = {key: value for key, value in metadata.items() if key != METADATA_KEY}
    for name, (down, up) in layers.items():
        # The attention's layers as the original names them. Of a motion module's others no file is published;
        # tools find them by the same ending.
        stem = re.sub(r"\.(to_[qkv]|to_out)(?:\.0)?$", r".processor.\1", name)
        if not OF_A_BLOCK.match(name) or (stem == name and not MOTION_MARKS.search(name)):
            raise ValueError(
                f"Cannot write a LoRA of {shown(name)}: files of this kind have names for layers of "
                "diffusers' blocks, of the image model for its to_q, to_k, to_v and to_out only. "
                "Train on these; a LoRA that has others, Load LoRA takes as it is."
            )
        for factor, tensor in (("down", down), ("up", up)):
            tensors[f"{stem}_lora.{factor}.weight"] = tensor
    save_tensors(path, tensors, metadata)
