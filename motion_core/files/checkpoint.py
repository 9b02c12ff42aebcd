"""Motion module files: every layout in the field in, the original layout out.

Read are the original names (bare, nested, ``module.``-prefixed, or inside a full training checkpoint),
diffusers' MotionAdapter, HotshotXL and AnimateLCM, in any float type, with or without position tables.
Written are the original names with both position tables per attention, because that is what other tools look
for, and metadata, because shapes alone do not tell a file's conventions.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ..module.config import GENERATIONS, GROUPNORM_MODES, ModuleShape, MotionModuleConfig, base_of
from ..module.layers import sinusoidal_positions
from ..module.model import MotionModel
from ..schedule.beta_schedules import BetaSchedule
from .recognise import KINDS, recognise
from .tensor_file import TensorFile, save_tensors

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

MAX_PE_LENGTH = 4096
"""Frames for which a file's metadata may ask position tables."""

PE_TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 2e-2}
"""How far a stored position table may be off the formula by rounding alone; 1e-4 in fp32."""


@dataclass(frozen=True)
class MotionFile:
    """A motion module file, looked at but not loaded."""

    source: TensorFile
    config: MotionModuleConfig
    keys: Mapping[str, str]
    """Original-layout name of each weight -> key in the file."""
    position_keys: Mapping[str, str]
    """Module name + path of each attention -> key of its position table, where the file has one."""
    notes: tuple[str, ...]
    """What was guessed, ignored or found odd, a sentence each."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.source.dtype(next(iter(self.keys.values())))

    @property
    def num_values(self) -> int:
        """Number of weights, position tables not counted."""
        return sum(torch.Size(self.source.shapes[key]).numel() for key in self.keys.values())


def open_motion_module(
    path: str | os.PathLike, *, unet_groupnorm: str | None = None, kind: str = "motion_module"
) -> MotionFile:
    """Look at a motion module file: what it is and what it wants.

    Args:
        path: the file.
        unet_groupnorm: overrides what the file says or is known for.
        kind: ``sparsectrl`` for the motion modules of an encoder file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, is something else (the message says what, and which node takes it),
            or lacks tensors.
    """
    source = TensorFile(path)
    found = recognise(source.shapes)
    if found != kind:
        wanted = "a motion module" if kind == "motion_module" else "a SparseCtrl encoder"
        raise ValueError(f"{source.name} is not {wanted}. It is {KINDS[found]}.")
    modules: dict[str, dict[str, str]] = defaultdict(dict)
    others = []
    for key in source.shapes:
        match = MODULE_KEY.search(key)
        if match is None:
            others.append(key)
            continue
        rest = match["rest"]
        for pattern, name in FIELD_NAMES:
            rest = re.sub(pattern, name, rest)
        modules[f"{match['block']}.motion_modules.{match['index']}"][rest] = key
    if not modules:
        raise ValueError(f"{source.name} names motion modules in a layout that is not known.")
    shapes, keys, positions, unused = [], {}, {}, []
    for name in sorted(modules, key=_file_order):
        shape, used, tables = _read_shape(source, name, modules[name])
        shapes.append((name, shape))
        keys |= {f"{name}.temporal_transformer.{rest}": modules[name][rest] for rest in used}
        positions |= {f"{name}.temporal_transformer.{rest}": key for rest, key in tables.items()}
        unused += [
            modules[name][rest] for rest in modules[name].keys() - used - set(_position_names(modules[name]))
        ]
    notes = []
    if unused:
        notes.append(f"{len(unused)} unknown tensors were ignored, such as {sorted(unused)[0]}.")
    try:
        config = _configure(source, tuple(shapes), bool(positions), others, notes)
    except ValueError as error:
        raise ValueError(
            f"{source.name} cannot be used: its metadata or sizes are not those of a motion module ({error})"
        ) from error
    if unet_groupnorm is not None:
        config = replace(config, unet_groupnorm=unet_groupnorm)
    return MotionFile(source, config, keys, positions, tuple(notes))


def load_motion_module(
    path: str | os.PathLike | MotionFile,
    *,
    operations: Any = nn,
    dtype: torch.dtype | None = None,
    fused_qkv: bool = True,
    progress: Callable[[int], None] | None = None,
) -> MotionModel:
    """Load a motion module, in memory hardly more than its weights.

    Args:
        path: the file, or one already opened.
        operations: where layers come from (``torch.nn``, or ComfyUI's).
        dtype: type of the weights; by default the file's (16 or 32 bit; other types become fp16).
        fused_qkv: see :class:`MotionModel`.
        progress: is told the number of values loaded so far.

    Raises:
        FileNotFoundError, ValueError: as :func:`open_motion_module`; also for weights that are not finite.
    """
    file = path if isinstance(path, MotionFile) else open_motion_module(path)
    if dtype is None:
        dtype = file.dtype if file.dtype in (torch.float16, torch.bfloat16, torch.float32) else torch.float16
    # Built without storage, then filled layer by layer: no initialisation to throw away, no second copy.
    model = MotionModel(file.config, operations=operations, dtype=dtype, device="meta", fused_qkv=fused_qkv)
    loaded = 0
    for layer, parts in _by_layer(file, fused_qkv).items():
        wanted = {key: name for name, key in parts.items()}
        tensors: dict[str, list[torch.Tensor]] = defaultdict(list)
        for key, tensor in file.source.read(wanted):
            parameter = wanted[key].rsplit(".", 1)[1]
            converted = tensor.to(dtype=dtype, copy=True)
            _require_finite(file, key, tensor, converted)
            tensors[parameter].append(converted)
            loaded += tensor.numel()
        state = {name: torch.cat(many) if len(many) > 1 else many[0] for name, many in tensors.items()}
        model.get_submodule(layer).load_state_dict(state, strict=True, assign=True)
        if progress is not None:
            progress(loaded)
    for name, module in model.named_modules():
        if name.endswith(".pos_encoder"):
            module.pe = _positions(file, name, module.pe.shape)
    return model.requires_grad_(False).eval() if operations is not nn else model


def motion_state_dict(model: MotionModel) -> dict[str, torch.Tensor]:
    """The weights under the original names, position tables included, q, k and v apart."""
    state = {}
    # Not state_dict(), which hooks of wrappers (sharding) change.
    for key, weight in model.named_parameters():
        tensor = weight.detach()
        if ".to_qkv." in key:
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                state[key.replace(".to_qkv.", f".to_{part}.")] = piece
        else:
            state[key] = tensor
    for name, module in model.named_modules():
        if name.endswith(".pos_encoder"):
            state[f"{name}.pe"] = module.pe
    return state


def config_metadata(config: MotionModuleConfig) -> dict[str, str]:
    """The facts about a motion module that its tensors do not show."""
    return {
        "format": "motion_module",
        "base": config.base,
        "version": config.generation,
        "pe_length": str(config.pe_length),
        "mid_block": str(config.mid_block).lower(),
        "num_heads": str(config.num_heads),
        "norm_groups": str(config.norm_groups),
        "unet_groupnorm": config.unet_groupnorm,
        "module_groupnorm": config.module_groupnorm,
        "beta_schedule": config.beta_schedule.name,
        "beta_start": repr(config.beta_schedule.start),
        "beta_end": repr(config.beta_schedule.end),
    }


def save_motion_module(
    path: str | os.PathLike,
    model: MotionModel,
    metadata: Mapping[str, str] | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a motion module that this pack and the field's other tools read.

    Args:
        path: ``.safetensors``; or ``.ckpt`` for the original repository, which reads nothing else.
        metadata: facts beyond the model's own configuration.
        dtype: type of the weights in the file; by default the model's. Position tables stay fp32.
    """
    state = {
        key: tensor if key.endswith(".pe") or dtype is None else tensor.to(dtype)
        for key, tensor in motion_state_dict(model).items()
    }
    save_tensors(path, state, {**(metadata or {}), **config_metadata(model.config)})


def _file_order(name: str) -> tuple[int, int, int]:
    """Down, middle, up, each from the outermost number in: the order of the original's files."""
    side = ("down", "mid", "up").index(name.split("_", 1)[0])
    numbers = [int(part) for part in name.split(".") if part.isdigit()]
    return side, numbers[0] if len(numbers) == 2 else 0, numbers[-1]


def _position_names(rests: Mapping[str, str]) -> list[str]:
    return [rest for rest in rests if rest.endswith(".pe")]


def _read_shape(
    source: TensorFile, name: str, rests: Mapping[str, str]
) -> tuple[ModuleShape, set[str], dict[str, str]]:
    """Sizes of one module, the weights it must have, and its position tables by attention."""

    def size(rest: str, dim: int) -> int:
        if rest not in rests:
            raise ValueError(
                f"{source.name} lacks {name}.{rest}: it is incomplete or of an unknown layout. Download it "
                "again."
            )
        shape = source.shapes[rests[rest]]
        if len(shape) <= dim:
            raise ValueError(f"{source.name}: {rests[rest]} has the shape {shape}, expected a matrix.")
        return shape[dim]

    def count(pattern: str) -> int:
        return len({m[0] for rest in rests if (m := re.match(pattern, rest))})

    inner, channels = size("proj_in.weight", 0), size("proj_in.weight", 1)
    blocks = count(r"transformer_blocks\.\d+(?=\.)")
    attentions = count(r"transformer_blocks\.0\.attention_blocks\.\d+(?=\.)")
    if not blocks or not attentions:
        raise ValueError(f"{source.name}: {name} has no attention; its layout is not known.")
    ff_inner = size("transformer_blocks.0.ff.net.2.weight", 1)
    tables = {}
    for block in range(blocks):
        for attention in range(attentions):
            path = f"transformer_blocks.{block}.attention_blocks.{attention}.pos_encoder"
            shared = f"transformer_blocks.{block}.pos_embed.pe"
            own = rests.get(f"{path}.pe") or rests.get(shared)
            if own:
                tables[path] = own
    for key in tables.values():
        table = source.shapes[key]
        if not (len(table) >= 2 and table[-1] == inner and math.prod(table[:-1]) == table[-2] > 0):
            raise ValueError(f"{source.name}: {key} has the shape {table}, expected (1, frames, {inner}).")
    lengths = [source.shapes[key][-2] for key in tables.values()]
    shape = ModuleShape(channels, inner, blocks, attentions, ff_inner, min(lengths, default=0))
    expected = _expected(shape)
    for rest, wanted in expected.items():
        size(rest, 0)
        if source.shapes[rests[rest]] != wanted:
            raise ValueError(
                f"{source.name}: {rests[rest]} has the shape {source.shapes[rests[rest]]}, expected {wanted}."
            )
        if not source.dtype(rests[rest]).is_floating_point or 0 in wanted:
            raise ValueError(f"{source.name}: {rests[rest]} holds no weights. It is damaged.")
    return shape, set(expected), tables


def _expected(shape: ModuleShape) -> dict[str, tuple[int, ...]]:
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


def _configure(
    source: TensorFile,
    shapes: tuple[tuple[str, ModuleShape], ...],
    has_positions: bool,
    others: list[str],
    notes: list[str],
) -> MotionModuleConfig:
    """Conventions: the file's metadata where it has them, else what is known of the release it looks like."""
    metadata = source.metadata
    generation = metadata.get("version", "")
    if generation not in GENERATIONS:
        generation = _guess_generation(source, shapes, has_positions, others, notes)
    known = GENERATIONS[generation]
    if not has_positions:
        length = int(metadata.get("pe_length", known.pe_length))
        if not 0 < length <= MAX_PE_LENGTH:
            raise ValueError(f"pe_length is {length} frames, expected 1 to {MAX_PE_LENGTH}")
        shapes = tuple((name, replace(shape, pe_length=length)) for name, shape in shapes)
        notes.append(
            f"The file has no position tables; the standard ones for up to {length} frames are used."
        )
    if others and generation != "pia":
        notes.append(
            f"{len(others)} tensors that belong to no motion module were left out, such as {others[0]}."
        )
    schedule = known.beta_schedule
    if "beta_schedule" in metadata:
        schedule = BetaSchedule(
            metadata["beta_schedule"],
            float(metadata.get("beta_start", schedule.start)),
            float(metadata.get("beta_end", schedule.end)),
        )
    heads, groups = _heads_and_groups(source)
    return MotionModuleConfig(
        modules=shapes,
        generation=generation,
        num_heads=heads,
        norm_groups=groups,
        unet_groupnorm=_mode(source, "unet_groupnorm", known.unet_groupnorm),
        module_groupnorm=_mode(source, "module_groupnorm", known.module_groupnorm),
        beta_schedule=schedule,
    )


def _guess_generation(
    source: TensorFile,
    shapes: tuple[tuple[str, ModuleShape], ...],
    has_positions: bool,
    others: list[str],
    notes: list[str],
) -> str:
    """The release a file without our metadata looks like."""
    if recognise(source.shapes) == "sparsectrl":
        return "v3"
    if any("temporal_attentions" in key for key in source.shapes):
        return "hotshotxl"
    if source.shapes.get("conv_in.weight", (0, 0))[1] == 9:
        notes.append(
            "This is a PIA model: its motion modules are used, its image input (conv_in) is not, so it "
            "animates the prompt, not an image."
        )
        return "pia"
    mid_block = any(name.startswith("mid_block.") for name, _ in shapes)
    levels = {name.split(".")[1] for name, _ in shapes if name.startswith("down_blocks.")}
    if len(levels) == 3 and not mid_block:
        if base_of((name, shape.channels) for name, shape in shapes) != "sdxl":
            notes.append(
                "Taken for a relative of AnimateDiff's SDXL beta, because it has three levels and no middle "
                "block."
            )
        return "sdxl"
    if not has_positions:
        guess = "animatelcm" if mid_block else "v1"
        why = (
            "AnimateLCM is published so"
            if mid_block
            else "the original trainer writes such files, in v1 mode"
        )
        notes.append(
            "Without position tables or metadata the file does not say what it is; taken for "
            f"{GENERATIONS[guess].title} ({why}). Set `groupnorm` if it was trained otherwise."
        )
        return guess
    if mid_block:
        return "v2"
    return "v1" if min(shape.pe_length for _, shape in shapes) <= 24 else "v3"


def _mode(source: TensorFile, switch: str, default: str) -> str:
    mode = source.metadata.get(switch, default)
    if mode not in GROUPNORM_MODES:
        raise ValueError(
            f"{source.name}: its metadata says {switch} = {mode!r}, expected one of {GROUPNORM_MODES}."
        )
    return mode


def _heads_and_groups(source: TensorFile) -> tuple[int, int]:
    """Attention heads and norm groups: metadata, a diffusers config beside the file, or 8 and 32."""
    heads, groups = 8, 32
    beside = source.path.parent / "config.json"
    if beside.is_file():
        try:
            config = json.loads(beside.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            config = {}
        if isinstance(config, dict) and config.get("_class_name") == "MotionAdapter":
            heads = int(config.get("motion_num_attention_heads", heads))
            groups = int(config.get("motion_norm_num_groups", groups))
    return int(source.metadata.get("num_heads", heads)), int(source.metadata.get("norm_groups", groups))


def _by_layer(file: MotionFile, fused_qkv: bool) -> dict[str, dict[str, str]]:
    """Layer of the model -> its weights (name -> key in the file), q, k and v in this order where they are
    one."""
    layers: dict[str, dict[str, str]] = defaultdict(dict)
    for name in sorted(file.keys, key=lambda name: (name.rsplit(".to_", 1)[0], "qkvo".find(name[-8:-7]))):
        layer = name.rsplit(".", 1)[0]
        if fused_qkv:
            layer = re.sub(r"\.to_[qkv]$", ".to_qkv", layer)
        layers[layer][name] = file.keys[name]
    return layers


def _require_finite(file: MotionFile, key: str, stored: torch.Tensor, converted: torch.Tensor) -> None:
    # The extremes are NaN or infinite exactly when some value is; one pass, no mask in memory.
    low, high = torch.aminmax(converted)
    if not (torch.isfinite(low) and torch.isfinite(high)):
        if converted.dtype != stored.dtype and torch.isfinite(stored.to(torch.float64)).all():
            raise ValueError(
                f"{file.source.name}: {key} holds values too large for {converted.dtype}. Load it as fp32 "
                "(ComfyUI's option --fp32-unet)."
            )
        raise ValueError(
            f"{file.source.name}: {key} holds values that are not finite numbers. The file is damaged or its "
            "training diverged; use another copy."
        )


def _positions(file: MotionFile, path: str, shape: torch.Size) -> torch.Tensor:
    """The position table of one attention, fp32."""
    formula = sinusoidal_positions(shape[-2], shape[-1])
    key = file.position_keys.get(path)
    if key is None:
        return formula
    ((_, stored),) = file.source.read([key])
    stored = stored.to(torch.float32).reshape(1, *stored.shape[-2:])[:, : shape[-2]]
    _require_finite(file, key, stored, stored)
    # Stored in 16 bit the table is rounded; the original computes it anew, so that is what the weights know.
    close = (stored - formula).abs().amax() <= PE_TOLERANCE.get(file.source.dtype(key), 1e-4)
    return formula if close else stored.clone()


__all__ = [
    "MotionFile",
    "config_metadata",
    "load_motion_module",
    "motion_state_dict",
    "open_motion_module",
    "save_motion_module",
]
