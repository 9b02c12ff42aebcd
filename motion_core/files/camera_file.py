"""CameraCtrl files: the authors' checkpoint with its two parts, or their union that tools write."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..control.camera_encoder import MERGE_KEY, PREFIX, CameraModel, merge_layers, pose_encoder_for
from .control_parts import read_weights
from .recognise import KINDS, recognise
from .tensor_file import TensorFile

ENCODER_KEY = re.compile(rf"(?:^|\.)({PREFIX}(?:conv_in|down_conv_blocks|down_attention_blocks)\..+)$")


@dataclass(frozen=True)
class CameraFile:
    """A CameraCtrl file, looked at but not loaded."""

    source: TensorFile
    keys: Mapping[str, str]
    """Name of each weight without what is put before it -> key in the file."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.source.dtype(next(iter(self.keys.values())))

    @property
    def num_values(self) -> int:
        """Number of weights."""
        return sum(torch.Size(self.source.shapes[key]).numel() for key in self.keys.values())


def open_camera_file(path: str | os.PathLike) -> CameraFile:
    """Look at a CameraCtrl file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or is something else; the message says what, and which node takes it.
    """
    source = TensorFile(path)
    found = recognise(source.shapes)
    if found != "cameractrl":
        raise ValueError(f"{source.name} is not a CameraCtrl model. It is {KINDS[found]}.")
    keys = {}
    for key in source.shapes:
        if match := ENCODER_KEY.search(key) or MERGE_KEY.search(key):
            # Both patterns end with the name; a module's begins with the module's.
            keys[match[1] if match.re is ENCODER_KEY else key[match.start() :]] = key
    return CameraFile(source, keys)


def load_camera_model(
    file: CameraFile, *, operations: Any = nn, dtype: torch.dtype | None = None
) -> CameraModel:
    """Load a CameraCtrl model.

    Args:
        file: from :func:`open_camera_file`.
        operations: where layers come from.
        dtype: of the weights; by default the file's.

    Raises:
        ValueError: a part is missing, or values are no weights.
    """
    dtype = dtype or file.dtype
    with file.source.held():
        state = read_weights(file.source, file.keys, dtype)
    try:
        encoder = pose_encoder_for(state, operations=operations, dtype=dtype)
        layers = merge_layers(state, operations=operations, dtype=dtype)
    except ValueError as error:
        raise ValueError(f"{file.source.name} cannot be used. {error}") from error
    return CameraModel(encoder, layers).requires_grad_(False).eval()
