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


def sparse_condition(images: torch.Tensor, places: Sequence[int], frames: int) -> torch.Tensor:
    """The condition of a whole clip, ``(F, C + 1, H, W)``: pictures at their places, zeros elsewhere, and a
    mask.

    Args:
        images: ``(n, C, H, W)``, latents in model scale or pixels in 0..1.
        places: frame of each picture; from :func:`frames_of_pictures`.
        frames: of the clip.
    """
    count, channels, height, width = images.shape
    if count != len(places):
        raise ValueError(f"There are {count} pictures for {len(places)} frames.")
    condition = images.new_zeros(frames, channels + 1, height, width)
    for picture, place in zip(images, places, strict=True):
        condition[place, :channels] = picture
        condition[place, channels] = 1.0
    return condition


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
            raise ValueError(f"There are {pictures} pictures for a clip of {frames} frames.")
        before = int(chosen in ("end", "middle"))
        after = int(chosen in ("start", "middle"))
        stops = torch.linspace(0, frames - 1, pictures + before + after, dtype=torch.float64)
        return [int(stop) for stop in stops[before : before + pictures]]
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
