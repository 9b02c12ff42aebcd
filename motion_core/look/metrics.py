"""Numbers about a clip: how much it moves, where to, how evenly, how it flickers, and whether it closes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .optical_flow import Flow, grey, optical_flow, warped

STILL = 0.02
"""Percent of the longer side per frame below which nothing moves that flow could tell."""
HALF_A_GREY = 0.5 / 255.0
"""Changes of less are rounding."""


@dataclass(frozen=True)
class Step:
    """From one frame to the next. Percent are of the picture's longer side."""

    motion: float
    """Mean length of the flow, percent."""
    right: float
    up: float
    """Mean flow (a pan), percent."""
    zoom: float
    """Growth of the picture about its middle, percent."""
    turn: float
    """Degrees, anticlockwise."""
    change: float
    """Mean absolute difference of brightness, percent of the range."""


@dataclass(frozen=True)
class ClipMetrics:
    """What :func:`measure` finds."""

    steps: tuple[Step, ...]
    jumps: tuple[float, ...]
    """Flicker of every frame but the first and last."""
    flicker: float
    """How far a frame is from what its two neighbours, moved onto it, have in its place: percent of the
    brightness range. A brightness that alternates by d between frames reads d."""
    smoothness: float
    """1 - |change of flow| / |flow|: 1 for motion that goes on or for none, 0 for back and forth."""
    motion: float
    """Mean of the steps."""
    direction: float
    """Of the mean flow, degrees: 0 right, 90 up, 180 left, 270 down; 0 if there is none."""
    pan: float
    """Length of the mean flow, percent per frame."""
    zoom: float
    """Mean growth, percent per frame; negative where the picture shrinks."""
    loop_seam: float
    """Change from the last frame to the first, over the median change between frames. 1: the loop closes."""

    @property
    def has_direction(self) -> bool:
        """Whether the clip moves to one side."""
        return self.pan >= STILL


def measure(
    frames: torch.Tensor,
    progress: Callable[[int, int], None] | None = None,
    device: torch.device | str | None = None,
) -> ClipMetrics:
    """Measure a clip.

    Args:
        frames: (F, H, W, C), 0 .. 1; grey where C is 1 or 2, and alpha is not looked at.
        progress: is told how many of how many frames, and then steps between them, are done.
        device: where it is computed; by default where the frames are.

    Raises:
        ValueError: fewer than two frames, smaller than 16 x 16, or values that are no numbers.
    """
    if frames.shape[0] < 2:
        raise ValueError("A single frame has no motion: at least two are needed.")
    if min(frames.shape[1:3]) < 16:
        raise ValueError(f"Frames of {frames.shape[2]} x {frames.shape[1]} are too small: at least 16 x 16.")
    tell = progress or (lambda done, total: None)
    total_work = 2 * len(frames) - 1
    # One by one: a long clip is many times as large as what is looked at.
    small = []
    for frame in frames:
        small.append(grey(frame[None].to(device or frame.device)))
        tell(len(small), total_work)
    pictures = torch.cat(small)
    if not torch.isfinite(pictures).all():
        raise ValueError(
            "The frames hold values that are no numbers (NaN or infinite), which have no motion."
        )
    steps: list[Step] = []
    jumps: list[float] = []
    changed = total = 0.0
    before: Flow | None = None
    for number in range(len(pictures) - 1):
        flow = optical_flow(pictures[number, None], pictures[number + 1, None])
        steps.append(_step(flow, pictures[number], pictures[number + 1]))
        if before is not None:
            jumps.append(_jump(pictures[number - 1 : number + 2], before, flow))
            change, length = _change_of_flow(before, flow)
            changed, total = changed + change, total + length
        before = flow
        tell(len(pictures) + number + 1, total_work)
    right, up = (sum(getattr(step, side) for step in steps) / len(steps) for side in ("right", "up"))
    pan = math.hypot(right, up)
    changes = sorted(step.change for step in steps)
    seam = _change(pictures[-1], pictures[0])
    floor = 100 * HALF_A_GREY
    still = 2 * STILL / 100
    return ClipMetrics(
        steps=tuple(steps),
        jumps=tuple(jumps),
        flicker=sum(jumps) / len(jumps) if jumps else 0.0,
        smoothness=1.0 if total / max(len(jumps), 1) < still else max(0.0, 1.0 - changed / total),
        motion=sum(step.motion for step in steps) / len(steps),
        direction=math.degrees(math.atan2(up, right)) % 360.0 if pan >= STILL else 0.0,
        pan=pan,
        zoom=sum(step.zoom for step in steps) / len(steps),
        loop_seam=max(seam, floor) / max(changes[len(changes) // 2], floor),
    )


def _step(flow: Flow, one: torch.Tensor, two: torch.Tensor) -> Step:
    """Mean flow, and the turn and zoom that fit it best (least squares, far points counting less)."""
    _, height, width = flow.vectors.shape
    side = max(height, width)
    x = (torch.arange(width, device=one.device) - (width - 1) / 2).expand(height, width)
    y = (torch.arange(height, device=one.device) - (height - 1) / 2).unsqueeze(1).expand(height, width)
    u, v = flow.vectors
    trust = _trust(flow)
    weight = trust
    for _ in range(5):
        total = weight.sum()
        mx, my, mu, mv = ((weight * each).sum() / total for each in (x, y, u, v))
        spread = (weight * ((x - mx).square() + (y - my).square())).sum()
        grow = (weight * ((x - mx) * (u - mu) + (y - my) * (v - mv))).sum() / spread
        turn = (weight * ((x - mx) * (v - mv) - (y - my) * (u - mu))).sum() / spread
        # The flow at the middle of the picture is the pan; the rest is of zoom and turn.
        pu, pv = mu - grow * mx + turn * my, mv - grow * my - turn * mx
        far = (u - pu - grow * x + turn * y).square() + (v - pv - grow * y - turn * x).square()
        weight = trust / (1.0 + far / (0.25 + float((trust * far).sum() / trust.sum())))
    length = (trust * flow.vectors.norm(dim=0)).sum() / trust.sum()
    return Step(
        motion=100 * float(length) / side,
        right=100 * float(pu) / side,
        up=-100 * float(pv) / side,
        zoom=100 * float(grow),
        turn=-math.degrees(float(turn)),
        change=_change(one, two),
    )


def _trust(flow: Flow) -> torch.Tensor:
    """Weights that do not let one strong edge decide alone; all alike in a picture without any."""
    trust = flow.trust.clamp(max=4.0 * float(flow.trust.mean()))
    return trust + 1e-12


def _jump(pictures: torch.Tensor, before: Flow, after: Flow) -> float:
    """Flicker of the middle one of three: a steady change of light and steady motion leave nothing."""
    there, inside = warped(pictures[2, None], after.vectors)
    # Backwards, the step before is taken to end where it began: its vectors at the pixel they lead to.
    back, _ = warped(-before.vectors[None], -before.vectors)
    earlier, also = warped(pictures[0, None], back[0])
    far = (pictures[1, 0] - (there + earlier)[0, 0] / 2).abs()
    seen = inside & also
    return 100 * float(far[seen].mean()) if seen.any() else 0.0


def _change_of_flow(one: Flow, two: Flow) -> tuple[float, float]:
    """Mean length of the change from one step to the next, and of both together, parts of the longer side."""
    trust, side = _trust(one), max(one.vectors.shape)
    here, _ = warped(two.vectors[None], one.vectors)
    share = trust / trust.sum() / side
    lengths = one.vectors.norm(dim=0) + here[0].norm(dim=0)
    return float((share * (here[0] - one.vectors).norm(dim=0)).sum()), float((share * lengths).sum())


def _change(one: torch.Tensor, two: torch.Tensor) -> float:
    return 100 * float((one - two).abs().mean())
