"""SparseCtrl (Guo et al., ECCV 2024): a ControlNet that is shown pictures for some frames of a clip.

The encoder is the UNet's way down with motion modules of one attention each, whose noisy input is zeros:
what it sees is the condition alone, pictures where there are any, zeros elsewhere, and a mask that says
which. So a clip without pictures is a condition, too, and has residuals.

``rgb`` takes pictures as latents, ``scribble`` as pixels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..files.words import shown

EMBEDDING = "controlnet_cond_embedding."
SPREADS = ("even", "start", "end", "middle")
"""Where pictures go of which only the number is known: over the whole clip with both its ends, from its
start, up to its end, or without its ends."""


@dataclass(frozen=True)
class SparseLayout:
    """What an encoder is made of, read from its file."""

    kind: str
    """``rgb`` or ``scribble``."""
    widths: tuple[int, ...]
    """Channels of the levels."""
    depths: tuple[tuple[int, ...], ...]
    """By level and ResBlock: blocks of the spatial transformer behind it, 0 for none."""
    middle_depth: int
    context_dim: int
    linear_projections: bool
    embedding: tuple[tuple[int, int], ...]
    """Channels in and out of the condition's convolutions, the outermost first."""

    @property
    def condition_channels(self) -> int:
        """Of a picture, without its mask."""
        return self.embedding[0][0] - 1

    @property
    def condition_scale(self) -> int:
        """Height of a condition for one of the latent."""
        return 1 if self.kind == "rgb" else 2 ** ((len(self.embedding) - 2) // 2)

    def unet_config(self) -> dict:
        """Arguments of ComfyUI's ControlNet and UNet of this layout."""
        depths = [depth for level in self.depths for depth in level]
        return {
            "image_size": 32,
            "in_channels": 4,
            "model_channels": self.widths[0],
            "num_res_blocks": [len(level) for level in self.depths],
            "channel_mult": [width // self.widths[0] for width in self.widths],
            "transformer_depth": depths,
            "transformer_depth_middle": self.middle_depth,
            "context_dim": self.context_dim,
            "num_heads": 8,
            "num_head_channels": -1,
            "use_spatial_transformer": True,
            "use_linear_in_transformer": self.linear_projections,
            "legacy": False,
        }


def read_layout(shapes: Mapping[str, tuple[int, ...]]) -> SparseLayout:
    """The layout of an encoder file.

    Args:
        shapes: of its tensors, by their names in the original.

    Raises:
        ValueError: it is no such file, or tensors are missing.
    """
    rgb = shapes.get(f"{EMBEDDING}weight")
    scribble = shapes.get(f"{EMBEDDING}conv_in.weight")
    if rgb is not None:
        kind, embedding = "rgb", [rgb]
    elif scribble is not None:
        blocks = sorted(
            (int(m[1]), shape)
            for key, shape in shapes.items()
            if (m := re.match(rf"{re.escape(EMBEDDING)}blocks\.(\d+)\.weight$", key))
        )
        kind = "scribble"
        embedding = [scribble, *(shape for _, shape in blocks), shapes.get(f"{EMBEDDING}conv_out.weight", ())]
    else:
        raise ValueError("The file has no condition embedding: it is no SparseCtrl encoder.")

    def find(pattern: str) -> list[re.Match]:
        return [m for key in shapes if (m := re.match(pattern, key))]

    resnets = {(int(m[1]), int(m[2])) for m in find(r"down_blocks\.(\d+)\.resnets\.(\d+)\.conv1\.weight$")}
    attention = r"down_blocks\.(\d+)\.attentions\.(\d+)\.transformer_blocks\.(\d+)\.attn2\.to_k\.weight$"
    transformers = [(int(m[1]), int(m[2])) for m in find(attention)]
    try:
        levels = range(1 + max(level for level, _ in resnets))
        counts = [sum(1 for level, _ in resnets if level == wanted) for wanted in levels]
        widths = tuple(shapes[f"down_blocks.{level}.resnets.0.conv1.weight"][0] for level in levels)
        context = next(shapes[m[0]][1] for m in find(r".*attn2\.to_k\.weight$"))
        projection = next(shapes[m[0]] for m in find(r".*\.attentions\.\d+\.proj_in\.weight$"))
        pairs = tuple((shape[1], shape[0]) for shape in embedding)
    except (KeyError, IndexError, ValueError, StopIteration) as error:
        raise ValueError("The SparseCtrl encoder is incomplete. Download it again.") from error
    return SparseLayout(
        kind=kind,
        widths=widths,
        depths=tuple(
            tuple(transformers.count((level, index)) for index in range(counts[level])) for level in levels
        ),
        middle_depth=len(find(r"mid_block\.attentions\.0\.transformer_blocks\.\d+\.attn2\.to_k\.weight$")),
        context_dim=context,
        linear_projections=len(projection) == 2,
        embedding=pairs,
    )


class ConditionEmbedding(nn.Module):
    """Pictures and mask at the size of the latent, in the width of the UNet.

    Named as in the original: one convolution for latents; for pixels several, each second of the middle ones
    halving the size.
    """

    def __init__(self, layout: SparseLayout, operations: Any = nn, **factory: Any) -> None:
        super().__init__()

        def convolution(pair: tuple[int, int], stride: int = 1) -> nn.Module:
            return operations.Conv2d(*pair, 3, padding=1, stride=stride, **factory)

        first, *between, last = (*layout.embedding, None) if layout.kind == "rgb" else layout.embedding
        if layout.kind == "rgb":
            self.single = convolution(first)
        else:
            self.conv_in = convolution(first)
            self.blocks = nn.ModuleList(
                convolution(pair, 1 + index % 2) for index, pair in enumerate(between)
            )
            self.conv_out = convolution(last)

    def forward(self, condition: torch.Tensor, *_: Any) -> torch.Tensor:
        """``condition`` (F, C + 1, H, W), the mask last. What else ComfyUI's ControlNet hands over is not
        needed."""
        if hasattr(self, "single"):
            return self.single(condition)
        h = F.silu(self.conv_in(condition))
        for block in self.blocks:
            h = F.silu(block(h))
        return self.conv_out(h)


def pictures_at(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Pictures at the size of the clip: cut to its shape around their centre, then scaled.

    Args:
        images: ``(n, C, H, W)``, pixels in 0..1, with one channel, three, or more, of which the first three
            count.

    Returns:
        ``(n, 3, height, width)``.
    """
    images = (images[:, :3] if images.shape[1] >= 3 else images[:, :1].expand(-1, 3, -1, -1)).float()
    rows, columns = images.shape[-2:]
    if rows * width > columns * height:
        kept = max(1, round(columns * height / width))
        images = images.narrow(-2, (rows - kept) // 2, kept)
    elif rows * width < columns * height:
        kept = max(1, round(rows * width / height))
        images = images.narrow(-1, (columns - kept) // 2, kept)
    if images.shape[-2:] == (height, width):
        return images
    return F.interpolate(images, (height, width), mode="bilinear", antialias=True).clamp_(0.0, 1.0)


def normalised_strokes(images: torch.Tensor) -> torch.Tensor:
    """Scribbles as the encoder was trained on them: each grey, its darkest point 0 and its brightest 1.

    ``images`` (n, 3, H, W) -> the same shape. A picture of one colour becomes black.
    """
    grey = images.mean(dim=1, keepdim=True)
    grey = grey - grey.amin(dim=(2, 3), keepdim=True)
    brightest = grey.amax(dim=(2, 3), keepdim=True)
    return (grey / torch.where(brightest > 0, brightest, 1.0)).expand(-1, 3, -1, -1)


def sparse_condition(images: torch.Tensor, places: Sequence[int], frames: Sequence[int]) -> torch.Tensor:
    """The condition of some frames of a clip, ``(F, C + 1, H, W)``: pictures at their places, zeros
    elsewhere, and a mask.

    Args:
        images: ``(n, C, H, W)``, latents in model scale or pixels in 0..1.
        places: frame of the clip for each picture; from :func:`frames_of_pictures`.
        frames: those wanted, by their number in the clip: all of them, or those of one or several context
            windows.
    """
    count, channels, height, width = images.shape
    if count != len(places):
        raise ValueError(f"There are {count} pictures for {len(places)} frames.")
    picture_at = dict(zip(places, images, strict=True))
    condition = images.new_zeros(len(frames), channels + 1, height, width)
    for row, frame in zip(condition, frames, strict=True):
        if frame in picture_at:
            row[:channels] = picture_at[frame]
            row[channels] = 1.0
    return condition


def frames_from_text(text: str) -> tuple[int, ...]:
    """Frames from words such as ``0, 8, -1``.

    Raises:
        ValueError: nothing is named, or something that is no whole number.
    """
    words = text.replace(",", " ").replace(";", " ").split()
    if not words:
        raise ValueError(
            "frames is empty; expected the frame of each picture, such as 0, 8, -1 (-1 is the last frame)."
        )
    for word in words:
        if not re.fullmatch(r"[+-]?[0-9]{1,9}", word):
            raise ValueError(f"frames holds {shown(word)}; expected whole numbers such as 0, 8, -1.")
    return tuple(map(int, words))


def frames_of_pictures(chosen: str | Sequence[int], pictures: int, frames: int) -> list[int]:
    """The frame of each picture.

    Args:
        chosen: one of :data:`SPREADS`, or frames, of which negative ones count from the end.
        pictures: how many there are.
        frames: of the clip.

    Raises:
        ValueError: a frame outside of the clip or named twice, or another number of frames than pictures.
    """
    if isinstance(chosen, str):
        if chosen not in SPREADS:
            raise ValueError(f"Unknown spread {chosen!r}; expected one of {', '.join(SPREADS)}.")
        if pictures > frames:
            raise ValueError(
                f"There are {pictures} pictures for a clip of {frames} frames; expected at most one for each."
            )
        if pictures == frames:
            return list(range(frames))
        if chosen == "middle" and pictures > 1 and frames - pictures < 3:
            chosen = "start"  # as Advanced-ControlNet has it: there is no room on both sides
        before = int(chosen in ("end", "middle"))
        after = int(chosen in ("start", "middle"))
        steps = max(1, before + pictures + after - 1)
        # A product of rounded steps, as numpy's linspace makes it: that decides where graphs made for
        # Advanced-ControlNet have their pictures.
        stops = [int(stop * ((frames - 1) / steps)) for stop in range(steps)] + [frames - 1]
        return stops[before : before + pictures]
    places = []
    for frame in chosen:
        if not -frames <= frame < frames:
            raise ValueError(
                f"A picture is meant for frame {frame} of a clip of {frames} frames; expected {-frames} to "
                f"{frames - 1}."
            )
        places.append(frame % frames)
    if len(set(places)) != len(places):
        raise ValueError(f"Two pictures are meant for one frame: {list(chosen)}.")
    if len(places) != pictures:
        raise ValueError(f"{len(places)} frames are named for {pictures} pictures; expected one for each.")
    return places
