"""The temporal transformer of AnimateDiff (Guo et al., ICLR 2024, sections 4.2 and A): attention over frames.

Shapes: ``B`` videos, ``F`` frames, ``C`` channels, ``H W`` latent height and width, ``N = B H W`` pixels.
A UNet feature is ``(B*F, C, H, W)``, video-major; inside, a pixel's frames are one sequence, ``(N, F, C)``.

One module computes ``x + proj_out(blocks(proj_in(GroupNorm(x))))``. proj_out starts at zero, so a fresh
module is the identity and training starts from the untouched image model.

Layers come from ``operations``: ``torch.nn`` in training, ComfyUI's casting layers at inference. They are
stateless: how many frames a call holds, and how strong the motion is, arrives with the call.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from .call import MotionCall, effect_of_frames
from .config import ModuleShape
from .positions import fewer_in_a_call, too_many_frames

MAX_SEQUENCES_TIMES_HEADS = 65_535
"""CUDA kernels that fold heads into the batch run on a grid of at most this size."""

CPU_CHUNK_VALUES = 2**21
"""On a CPU, pixels are worked on in chunks whose widest activation has about this many values, so that it
stays in the cache from one layer to the next ..."""
CPU_CHUNK_TOKENS = 1024
"""... but of no fewer tokens than this, so that reading the weights pays."""

CHUNK_VALUES = 2**27
"""Elsewhere, chunks only bound the memory of the feed-forward: a quarter of a gigabyte in 16 bit."""


def sinusoidal_positions(length: int, width: int) -> torch.Tensor:
    """Position table ``(1, length, width)`` in fp32: sines in even, cosines in odd columns (Vaswani et al.,
    2017).

    A pure function of its arguments whose shorter tables are prefixes of longer ones.
    """
    position = torch.arange(length).unsqueeze(1)
    frequency = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    table = torch.zeros(1, length, width)
    table[0, :, 0::2] = torch.sin(position * frequency)
    table[0, :, 1::2] = torch.cos(position * frequency)[:, : width // 2]
    return table


def torch_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    """Plain scaled dot-product attention, ``(N, heads, F, D)``."""
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


class PositionTable(nn.Module):
    """Holds the rows that tell a frame its place. A buffer, not a weight: never trained, never patched."""

    def __init__(self, length: int, width: int, device: torch.device | str | None = None) -> None:
        super().__init__()
        # A model built without storage gets its tables when it gets its weights.
        if str(device) == "meta":
            table = torch.empty(1, length, width, device="meta")
        else:
            table = sinusoidal_positions(length, width).to(device)
        self.register_buffer("pe", table, persistent=False)

    def rows(self, call: MotionCall, like: torch.Tensor) -> torch.Tensor:
        """The rows of the call's frames, ``(F, C)``, in the type and on the device of ``like``."""
        pe = self.pe[0, : call.frames] if call.positions is None else self._between(call)
        if call.position_factor != 1.0:
            pe = pe * call.position_factor
        return pe.to(device=like.device, dtype=like.dtype)

    def _between(self, call: MotionCall) -> torch.Tensor:
        """Rows ``(F, C)``, mixed from their two neighbours where a position is no whole number."""
        below = tuple(int(position) for position in call.positions)
        device = self.pe.device
        low = self.pe[0].index_select(0, call.on_device(below, torch.int64, device))
        if call.positions == below:
            return low
        above = tuple(math.ceil(position) for position in call.positions)
        parts = tuple(p - b for p, b in zip(call.positions, below, strict=True))
        high = self.pe[0].index_select(0, call.on_device(above, torch.int64, device))
        return torch.lerp(low, high, call.on_device(parts, self.pe.dtype, device).unsqueeze(1))


class TemporalAttention(nn.Module):
    """Self-attention of each pixel over its frames.

    ``fused_qkv`` makes one product of three for inference. Training keeps them apart, so that optimisers and
    LoRA see the layers that the files name.
    """

    def __init__(
        self, width: int, heads: int, pe_length: int, fused_qkv: bool, operations: Any, factory: dict
    ) -> None:
        super().__init__()
        self.heads = heads
        if fused_qkv:
            self.to_qkv = operations.Linear(width, 3 * width, bias=False, **factory)
        else:
            self.to_q = operations.Linear(width, width, bias=False, **factory)
            self.to_k = operations.Linear(width, width, bias=False, **factory)
            self.to_v = operations.Linear(width, width, bias=False, **factory)
        self.to_out = nn.ModuleList([operations.Linear(width, width, **factory)])
        self.pos_encoder = PositionTable(pe_length, width, factory.get("device"))

    def forward(self, z: torch.Tensor, call: MotionCall, index: int = 0) -> torch.Tensor:
        """``z`` (N, F, C), normalised; positions are added to it in place. ``index``: of the block's
        attentions, which one. Returns (N, F, C)."""
        # Positions go in after the norm, so that q, k and v see them but the residual stream does not.
        z = z.add_(self.pos_encoder.rows(call, z))
        if call.camera is not None and index == 0:
            z = call.camera(z)
        if hasattr(self, "to_qkv"):
            qkv = call.through(self.to_qkv, z)
            q, k, v = rearrange(qkv, "n f (three h d) -> three n h f d", three=3, h=self.heads)
        else:
            q, k, v = (
                rearrange(call.through(to, z), "n f (h d) -> n h f d", h=self.heads)
                for to in (self.to_q, self.to_k, self.to_v)
            )
        attend = call.attention or torch_attention
        scale = call.scale_of(index)
        if isinstance(scale, torch.Tensor):
            # A factor for each frame that is looked at, and no longer one for all.
            k, scale = k * scale, 1.0
        out = attend(q, k, v, scale / math.sqrt(q.shape[-1]))
        return call.through(self.to_out[0], rearrange(out, "n h f d -> n f (h d)"))


class GatedProjection(nn.Module):
    """First half of the feed-forward: a value and its gate, ``value * gelu(gate)`` with the exact GELU."""

    def __init__(self, width: int, inner: int, operations: Any, factory: dict) -> None:
        super().__init__()
        self.proj = operations.Linear(width, 2 * inner, **factory)

    def forward(self, z: torch.Tensor, call: MotionCall) -> torch.Tensor:
        value, gate = call.through(self.proj, z).chunk(2, dim=-1)
        gate = F.gelu(gate)
        # The widest activation of the module: at inference it is not written to fresh memory once more.
        return value * gate if torch.is_grad_enabled() else gate.mul_(value)


class FeedForward(nn.Module):
    """Per token; ``net.1`` is the original's dropout, which is off in every release and holds no weights."""

    def __init__(self, width: int, inner: int, operations: Any, factory: dict) -> None:
        super().__init__()
        self.net = nn.ModuleList(
            [
                GatedProjection(width, inner, operations, factory),
                nn.Identity(),
                operations.Linear(inner, width, **factory),
            ]
        )

    def forward(self, z: torch.Tensor, call: MotionCall) -> torch.Tensor:
        return call.through(self.net[2], self.net[0](z, call))


class TemporalBlock(nn.Module):
    """Attentions, then the feed-forward, each with its norm and residual."""

    def __init__(
        self, shape: ModuleShape, heads: int, fused_qkv: bool, operations: Any, factory: dict
    ) -> None:
        super().__init__()
        width = shape.inner
        self.attention_blocks = nn.ModuleList(
            TemporalAttention(width, heads, shape.pe_length, fused_qkv, operations, factory)
            for _ in range(shape.num_attentions)
        )
        self.norms = nn.ModuleList(
            operations.LayerNorm(width, eps=1e-5, **factory) for _ in range(shape.num_attentions)
        )
        self.ff = FeedForward(width, shape.ff_inner, operations, factory)
        self.ff_norm = operations.LayerNorm(width, eps=1e-5, **factory)

    def forward(self, t: torch.Tensor, call: MotionCall) -> torch.Tensor:
        """``t`` (N, F, C) -> (N, F, C)."""
        t = self._attend_in_views(t, call) if call.views else self._attend(t, call)
        return t + self.ff(self.ff_norm(t), call)

    def _attend(self, t: torch.Tensor, call: MotionCall) -> torch.Tensor:
        for index, (attention, norm) in enumerate(zip(self.attention_blocks, self.norms, strict=True)):
            t = t + attention(norm(t), call, index)
        return t

    def _attend_in_views(self, t: torch.Tensor, call: MotionCall) -> torch.Tensor:
        """Frames attend within windows, whose results are averaged (FreeNoise, Qiu et al. 2023)."""
        total = torch.zeros_like(t)
        for view in call.views:
            frames = call.on_device(view.frames, torch.int64, t.device)
            weights = call.on_device(view.weights, t.dtype, t.device).view(1, -1, 1)
            seen = self._attend(t.index_select(1, frames), call.of_view(view, t.device))
            total.index_add_(1, frames, seen * weights)
        return total


class TemporalTransformer(nn.Module):
    """A motion module: what sits behind a ResBlock or spatial transformer of the UNet."""

    def __init__(
        self,
        shape: ModuleShape,
        *,
        num_heads: int,
        norm_groups: int,
        joint_norm: bool,
        fused_qkv: bool,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.shape = shape
        self.joint_norm = joint_norm
        self.norm = operations.GroupNorm(norm_groups, shape.channels, eps=1e-6, affine=True, **factory)
        self.proj_in = operations.Linear(shape.channels, shape.inner, **factory)
        self.transformer_blocks = nn.ModuleList(
            TemporalBlock(shape, num_heads, fused_qkv, operations, factory) for _ in range(shape.num_blocks)
        )
        self.proj_out = operations.Linear(shape.inner, shape.channels, **factory)
        self.num_heads = num_heads

    def forward(self, x: torch.Tensor, call: MotionCall) -> torch.Tensor:
        """Mix the frames of each video.

        Args:
            x: UNet feature (B*F, C, H, W), video-major.
            call: frames per video, scale and effect.

        Returns:
            A feature of the same shape.

        Raises:
            ValueError: the batch does not hold whole videos, or more frames than the position table has rows.
        """
        if call.is_off:
            return x
        self._check(x, call)
        call = call.laid_out(x)
        frames, (height, width) = call.frames, x.shape[-2:]
        n = joint_group_norm(self.norm, x, frames) if self.joint_norm else self.norm(x)
        n = frames_of_pixels(n, frames)
        chunks = self._num_chunks(n)
        if chunks == 1:
            y = self._mix(n, call)
        else:
            parts, done = [], 0
            for part in n.chunk(chunks):
                parts.append(self._mix(part, call.of_pixels(done, part.shape[0])))
                done += part.shape[0]
            y = torch.cat(parts)
        y = pixels_of_frames(y, height, width)
        if isinstance(call.effect, torch.Tensor):
            return torch.addcmul(x, y, effect_of_frames(call.effect, x, frames))
        return torch.add(x, y, alpha=call.effect)

    def _mix(self, n: torch.Tensor, call: MotionCall) -> torch.Tensor:
        t = call.through(self.proj_in, n)
        for block in self.transformer_blocks:
            t = block(t, call)
        return call.through(self.proj_out, t)

    def _num_chunks(self, n: torch.Tensor) -> int:
        """Into how many parts of the pixel axis the work is cut; pixels do not know each other, so it is
        exact."""
        pixels, frames, _ = n.shape
        widest = 2 * self.shape.ff_inner
        if n.device.type == "cpu":
            tokens = max(CPU_CHUNK_VALUES // widest, CPU_CHUNK_TOKENS)
        else:
            tokens = CHUNK_VALUES // widest
        most = min(tokens // frames, MAX_SEQUENCES_TIMES_HEADS // self.num_heads)
        return math.ceil(pixels / max(most, 1))

    def _check(self, x: torch.Tensor, call: MotionCall) -> None:
        if x.shape[0] % call.frames:
            raise ValueError(f"A batch of {x.shape[0]} does not hold whole videos of {call.frames} frames.")
        together = max((len(view.frames) for view in call.views), default=call.frames)
        positions = call.positions
        if positions is not None and (len(positions) != together or min(positions) < 0):
            raise ValueError(f"Each of the {together} frames needs one position from 0 up, got {positions}.")
        last = together if call.positions is None else math.ceil(max(call.positions)) + 1
        if last > self.shape.pe_length:
            known = self.shape.pe_length
            fix = fewer_in_a_call(known, "view_length" if call.views else "length")
            raise too_many_frames(call.name, last, known, fix)


def frames_of_pixels(x: torch.Tensor, frames: int) -> torch.Tensor:
    """A UNet feature ``(B*F, C, H, W)`` as sequences ``(B*H*W, F, C)``, contiguous: on a view, a linear layer
    would multiply pixel by pixel."""
    if x.shape[0] == frames and x.is_contiguous():
        # One video is a matrix, (F C) x (H W), whose transposition torch does in cache-sized blocks.
        return x.flatten(2).flatten(0, 1).t().contiguous().unflatten(1, (frames, -1))
    return rearrange(x, "(b f) c h w -> (b h w) f c", f=frames).contiguous()


def pixels_of_frames(y: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Sequences ``(B*H*W, F, C)`` back as a UNet feature ``(B*F, C, H, W)``."""
    if y.shape[0] == height * width:
        frames = y.shape[1]
        return y.flatten(1).t().contiguous().view(frames, -1, height, width)
    return rearrange(y, "(b h w) f c -> (b f) c h w", h=height, w=width)


def joint_group_norm(norm: nn.GroupNorm, x: torch.Tensor, frames: int) -> torch.Tensor:
    """Apply a GroupNorm with its statistics over all frames of a video: ``x`` (B*F, C, H, W) -> the same
    shape."""
    # Any layout with the channels second serves; a video's pixels in one tall image need no fifth axis.
    tall = rearrange(x, "(b f) c h w -> b c (f h) w", f=frames)
    return rearrange(norm(tall), "b c (f h) w -> (b f) c h w", f=frames)
