"""Optical flow between neighbouring frames: Lucas and Kanade (1981), from coarse to fine (Bouguet 2001).

At every pixel the shift is sought that best explains the second frame by the first, within a Gaussian window.
A constant brightness is taken away locally first, so that a change of light is not taken for motion.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

LONGEST = 256
"""Pixels of the longer side at which flow is computed."""
NARROWEST = 16
"""Pixels of the shorter side there, at least."""
COARSEST = 12
"""Pixels of the shorter side of the coarsest level, at least."""
ITERATIONS = 4
"""Per level."""
WINDOW = 2.0
"""Standard deviation of the window, in pixels of the level."""


@dataclass(frozen=True)
class Flow:
    """Where the pixels of one frame are in the next."""

    vectors: torch.Tensor
    """(2, H, W): to the right and down, in pixels of this size."""
    trust: torch.Tensor
    """(H, W), 0 or more: the smaller eigenvalue of the structure tensor. Plain areas say nothing."""


def grey(frames: torch.Tensor) -> torch.Tensor:
    """``(F, H, W, C)`` -> ``(F, 1, h, w)``: luma (BT.601), no larger than flow is computed at. C is 3 or 4,
    or less: then the first is grey."""
    if frames.shape[-1] < 3:
        luma = frames[..., 0].float()
    else:
        luma = frames[..., :3].float() @ frames.new_tensor([0.299, 0.587, 0.114], dtype=torch.float32)
    luma = luma.unsqueeze(1)
    height, width = luma.shape[-2:]
    factor = max(LONGEST / max(height, width), NARROWEST / min(height, width))  # the same for both sides
    if factor < 1.0:
        luma = F.interpolate(luma, size=[round(height * factor), round(width * factor)], mode="area")
    return luma


def optical_flow(first: torch.Tensor, second: torch.Tensor) -> Flow:
    """Flow from one grey picture ``(1, 1, H, W)`` to another of the same size."""
    one, two = [_without_light(first)], [_without_light(second)]
    while min(one[-1].shape[-2:]) >= 2 * COARSEST:
        one.append(F.avg_pool2d(_blurred(one[-1], 1.0), 2))
        two.append(F.avg_pool2d(_blurred(two[-1], 1.0), 2))
    vectors = one[-1].new_zeros(1, 2, *one[-1].shape[-2:])
    trust = vectors[:, 0]
    for level in range(len(one) - 1, -1, -1):
        size = one[level].shape[-2:]
        if vectors.shape[-2:] != size:
            ratio = [new / old for new, old in zip(size, vectors.shape[-2:], strict=True)]
            vectors = F.interpolate(vectors, size=size, mode="bilinear", align_corners=False)
            vectors = vectors * vectors.new_tensor([ratio[1], ratio[0]]).view(1, 2, 1, 1)
        vectors, trust = _refined(one[level], two[level], vectors)
    # What leaves the picture is not seen to arrive.
    _, inside = warped(two[0], vectors[0], "bilinear")
    return Flow(vectors[0], trust[0] * inside)


def warped(
    picture: torch.Tensor, vectors: torch.Tensor, mode: str = "bicubic"
) -> tuple[torch.Tensor, torch.Tensor]:
    """A picture ``(1, C, H, W)`` drawn from where the vectors ``(2, H, W)`` point, and the places ``(H, W)``
    at which that is inside of it."""
    height, width = picture.shape[-2:]
    x = torch.arange(width, device=picture.device) + vectors[0]
    y = torch.arange(height, device=picture.device).unsqueeze(1) + vectors[1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    grid = torch.stack([2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1], dim=-1)
    drawn = F.grid_sample(picture, grid[None], mode=mode, padding_mode="border", align_corners=True)
    return drawn, inside


def _refined(
    one: torch.Tensor, two: torch.Tensor, vectors: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """A few Newton steps of the shift at one level."""
    dx, dy = _slopes(one)
    xx, xy, yy = (_blurred(product, WINDOW) for product in (dx * dx, dx * dy, dy * dy))
    middle, half = (xx + yy) / 2, (((xx - yy) / 2).square() + xy.square()).sqrt()
    trust = (middle - half).clamp(min=0.0)
    # Where nothing has an edge the shift is left as the coarser level has it.
    floor = 1e-3 * float(middle.mean()) + 1e-9
    determinant = (xx + floor) * (yy + floor) - xy * xy
    for _ in range(ITERATIONS):
        # torch's bicubic makes slopes steeper than they are, so small shifts would come out too small.
        drawn, inside = warped(two, vectors[0], "bilinear")
        missing = (one - drawn) * inside
        bx, by = _blurred(missing * dx, WINDOW), _blurred(missing * dy, WINDOW)
        step = torch.cat([(yy + floor) * bx - xy * by, (xx + floor) * by - xy * bx], dim=1) / determinant
        vectors = vectors + step.clamp(-1.0, 1.0)
    return vectors, trust[:, 0]


def _slopes(picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    padded = F.pad(picture, (1, 1, 1, 1), mode="replicate")
    dx = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    dy = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    return dx, dy


def _without_light(picture: torch.Tensor) -> torch.Tensor:
    return picture - _blurred(picture, 8.0)


def _blurred(picture: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian, the edge repeated."""
    reach = min(int(3 * sigma), min(picture.shape[-2:]) - 1)
    taps = torch.arange(-reach, reach + 1, device=picture.device, dtype=picture.dtype)
    kernel = torch.exp(-0.5 * (taps / sigma).square())
    kernel = kernel / kernel.sum()
    padded = F.pad(picture, (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
