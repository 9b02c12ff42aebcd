"""Motion module files: every layout in the field in, the original layout out.

Read are the original names (bare, nested, ``module.``-prefixed, or inside a full training checkpoint),
diffusers' MotionAdapter, HotshotXL and AnimateLCM, in any float type, with or without position tables.
Written are the original names with both position tables per attention, because that is what other tools look
for, and metadata, because shapes alone do not tell a file's conventions.
"""

from __future__ import annotations

import math
import os
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..module.config import ModuleShape, MotionModuleConfig
from ..module.layers import sinusoidal_positions
from ..module.model import MotionModel
from .control_parts import NOTES, control_keys, load_control_parts, parts_of, split_weights
from .conventions import configure
from .layouts import MODULE_KEY, expected_weights, one_copy, read_scales
from .recognise import KINDS, recognise
from .tensor_file import TensorFile, save_tensors
from .weights import computable, in_type, require_finite, require_floats
from .words import shown

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
    scale_keys: Mapping[str, str]
    """Original-layout name of each weight that a number beside it multiplies -> that number's key."""
    control_keys: Mapping[str, str]
    """Name of each weight that steers the modules by a picture -> key in the file
    (:mod:`~.control_parts`)."""
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

    @property
    def oddities(self) -> tuple[str, ...]:
        """The notes on the file itself, without those on what to connect in a graph."""
        return tuple(note for note in self.notes if note not in NOTES.values())


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
    notes: list[str] = []
    modules, others = one_copy(source, notes)
    if not modules:
        raise ValueError(f"{source.name} names motion modules in a layout that is not known.")
    shapes, keys, positions, scales, unused = [], {}, {}, {}, []
    for name in sorted(modules, key=_file_order):
        shape, used, tables = _read_shape(source, name, modules[name])
        shapes.append((name, shape))
        keys |= {f"{name}.temporal_transformer.{rest}": modules[name][rest] for rest in used}
        positions |= {f"{name}.temporal_transformer.{rest}": key for rest, key in tables.items()}
        left = modules[name].keys() - used - set(_position_names(modules[name]))
        found, left = read_scales(source, modules[name], left)
        scales |= {f"{name}.temporal_transformer.{rest}": key for rest, key in found.items()}
        unused += [modules[name][rest] for rest in left]
    start = next(iter(modules[shapes[0][0]].values()))
    controls = control_keys(source.shapes, start[: MODULE_KEY.search(start).start()])
    others = [key for key in others if key not in controls.values()]
    if unused:
        notes.append(f"{len(unused)} unknown tensors were ignored, such as {shown(sorted(unused)[0])}.")
    try:
        config = configure(source, tuple(shapes), bool(positions), others, parts_of(controls), notes)
    except ValueError as error:
        raise ValueError(
            f"{source.name} cannot be used: its metadata or sizes are not those of a motion module ({error})"
        ) from error
    if unet_groupnorm is not None:
        config = replace(config, unet_groupnorm=unet_groupnorm)
    notes += [NOTES[part] for part in parts_of(controls)]
    return MotionFile(source, config, keys, positions, scales, controls, tuple(notes))


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
        dtype: type of the weights; by default the file's, see :func:`working_dtype`.
        fused_qkv: see :class:`MotionModel`.
        progress: is told the number of values loaded so far.

    Raises:
        FileNotFoundError, ValueError: as :func:`open_motion_module`; also for weights that are not finite.
    """
    file = path if isinstance(path, MotionFile) else open_motion_module(path)
    if dtype is None:
        dtype = working_dtype(file.dtype)
    # Built without storage, then filled layer by layer: no initialisation to throw away, no second copy.
    model = MotionModel(file.config, operations=operations, dtype=dtype, device="meta", fused_qkv=fused_qkv)
    with file.source.held():
        _fill(model, file, dtype, fused_qkv, progress)
        for name, module in model.named_modules():
            if name.endswith(".pos_encoder"):
                module.pe = _positions(file, name, module.pe.shape)
    return model.requires_grad_(False).eval() if operations is not nn else model


def working_dtype(stored: torch.dtype) -> torch.dtype:
    """The type in which weights of a file are held: its own in 16 and 32 bit, fp32 for fp64, fp16 for fp8."""
    if stored == torch.float64:
        return torch.float32
    return stored if stored in (torch.float16, torch.bfloat16, torch.float32) else torch.float16


def _fill(
    model: MotionModel,
    file: MotionFile,
    dtype: torch.dtype,
    fused_qkv: bool,
    progress: Callable[[int], None] | None,
) -> None:
    """Layer by layer, each weight read once."""
    names = {key: name for name, key in file.scale_keys.items()}
    scales = {names[key]: float(value) for key, value in file.source.read(names)}
    loaded = 0
    for layer, parts in _by_layer(file, fused_qkv).items():
        wanted = {key: name for name, key in parts.items()}
        state, places = _storage(file, parts, dtype)
        for key, tensor in file.source.read(wanted):
            scale = scales.get(wanted[key])
            converted = places[key].copy_(tensor.float() * scale if scale else computable(tensor))
            require_finite(file.source.name, key, tensor, converted)
            loaded += tensor.numel()
        model.get_submodule(layer).load_state_dict(state, strict=True, assign=True)
        if progress is not None:
            progress(loaded)


def _storage(file: MotionFile, parts: Mapping[str, str], dtype: torch.dtype) -> tuple[dict, dict]:
    """Memory for a layer's weights, and the part of it that each key fills: q, k and v that are one weight
    are read into its thirds, not joined by a second copy."""
    keys = defaultdict(list)  # by parameter
    for name, key in parts.items():
        keys[name.rsplit(".", 1)[1]].append(key)
    state, places = {}, {}
    for parameter, joined in keys.items():
        rows = [file.source.shapes[key][0] for key in joined]
        state[parameter] = torch.empty(sum(rows), *file.source.shapes[joined[0]][1:], dtype=dtype)
        places |= zip(joined, state[parameter].split(rows), strict=True)
    return state, places


def motion_state_dict(model: MotionModel) -> dict[str, torch.Tensor]:
    """The weights under the original names, position tables included, q, k and v apart. Parts that steer by
    a picture are not among them (:func:`control_state_dict`)."""
    state = {}
    for key, tensor in split_weights(model, _parameters(model))[0].items():
        if ".to_qkv." in key:
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                state[key.replace(".to_qkv.", f".to_{part}.")] = piece
        else:
            state[key] = tensor
    for name, module in model.named_modules():
        if name.endswith(".pos_encoder"):
            state[f"{name}.pe"] = module.pe
    return state


def control_state_dict(model: MotionModel) -> dict[str, torch.Tensor]:
    """The weights of parts that steer the modules by a picture, by their names in files; none: empty."""
    return split_weights(model, _parameters(model))[1]


def _parameters(model: MotionModel) -> dict[str, torch.Tensor]:
    """Not state_dict(), which hooks of wrappers (sharding) change."""
    return {key: weight.detach() for key, weight in model.named_parameters()}


def load_with_parts(file: MotionFile, **options: Any) -> MotionModel:
    """:func:`load_motion_module`, with the parts that steer the modules by a picture where the file has them.

    Raises:
        ValueError: as there, or a part is incomplete.
    """
    model = load_motion_module(file, **options)
    kinds = {name: value for name, value in options.items() if name in ("operations", "dtype")}
    kinds["dtype"] = kinds.get("dtype") or working_dtype(file.dtype)
    load_control_parts(model, file.source, file.control_keys, **kinds)
    return model


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
    controls: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write a motion module that this pack and the field's other tools read.

    Args:
        path: ``.safetensors``; or ``.ckpt`` for the original repository, which reads nothing else.
        metadata: facts beyond the model's own configuration.
        dtype: type of the weights in the file; by default the model's. Position tables stay fp32.
        controls: weights of parts that steer by a picture and were taken off the model.

    Raises:
        ValueError: values that the type cannot hold; nothing is written.
    """
    weights = {**motion_state_dict(model), **control_state_dict(model), **(controls or {})}
    state = {
        key: tensor if key.endswith(".pe") else in_type(Path(path).name, key, tensor, dtype)
        for key, tensor in weights.items()
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
                f"{source.name} lacks {name}.{shown(rest)}: it is incomplete or of an unknown layout. "
                "Download it again."
            )
        shape = source.shapes[rests[rest]]
        if len(shape) <= dim:
            raise ValueError(f"{source.name}: {shown(rests[rest])} has the shape {shape}, expected a matrix.")
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
            raise ValueError(
                f"{source.name}: {shown(key)} has the shape {table}, expected (1, frames, {inner})."
            )
    lengths = [source.shapes[key][-2] for key in tables.values()]
    shape = ModuleShape(channels, inner, blocks, attentions, ff_inner, min(lengths, default=0))
    expected = expected_weights(shape)
    for rest, wanted in expected.items():
        size(rest, 0)
        if source.shapes[rests[rest]] != wanted:
            raise ValueError(
                f"{source.name}: {shown(rests[rest])} has the shape {source.shapes[rests[rest]]}, expected "
                f"{wanted}."
            )
        require_floats(source.name, rests[rest], source.dtype(rests[rest]))
        if 0 in wanted:
            raise ValueError(f"{source.name}: {shown(rests[rest])} holds no weights. It is damaged.")
    return shape, set(expected), tables


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


def _positions(file: MotionFile, path: str, shape: torch.Size) -> torch.Tensor:
    """The position table of one attention, fp32."""
    formula = sinusoidal_positions(shape[-2], shape[-1])
    key = file.position_keys.get(path)
    if key is None:
        return formula
    ((_, stored),) = file.source.read([key])
    stored = stored.to(torch.float32).reshape(1, *stored.shape[-2:])[:, : shape[-2]]
    require_finite(file.source.name, key, stored, stored)
    # Stored in 16 bit the table is rounded; the original computes it anew, so that is what the weights know.
    close = (stored - formula).abs().amax() <= PE_TOLERANCE.get(file.source.dtype(key), 1e-4)
    return formula if close else stored.clone()


__all__ = [
    "MotionFile",
    "config_metadata",
    "control_state_dict",
    "load_motion_module",
    "load_with_parts",
    "motion_state_dict",
    "open_motion_module",
    "save_motion_module",
]
