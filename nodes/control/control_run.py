"""What controls of a motion module keep for one sampling run, and which part of it one model call sees.

A picture is encoded, and features are computed, once per run and not at every step. A call may hold a context
window (some of the frames), an area of a prompt (some of the picture), and several prompts that see different
areas: each is given its own part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...motion_core.module.values import Value, is_number, of_frames
from ..compat import compute_dtype, frames_of_window
from ..context.other_packs import ENTRY

RUN = "animatediff_flipbook_controls"
"""Where a run's own is found in the options of its calls."""


@dataclass(frozen=True)
class Part:
    """A rectangle of a picture, in pixels of the latent."""

    height: int
    width: int
    """Of the whole picture."""
    top: int
    left: int
    rows: int
    columns: int

    def of(self, full: torch.Tensor, scale: int = 1) -> torch.Tensor:
        """The rectangle of ``(..., H, W)``, which is ``scale`` times as large as the latent."""
        full = full.narrow(-2, scale * self.top, scale * self.rows)
        return full.narrow(-1, scale * self.left, scale * self.columns)


class ControlRun:
    """The clip of a run, and what was computed for it.

    Args:
        num_frames, height, width: of the clip, in latent pixels.
        entries: gives the prompts of the run as the sampler has them now, to look areas up.
    """

    def __init__(
        self,
        num_frames: int,
        height: int,
        width: int,
        entries: Callable[[], Iterator[dict]] = lambda: iter(()),
    ) -> None:
        self.num_frames, self.height, self.width = num_frames, height, width
        self._entries = entries
        self._kept: dict[tuple, Any] = {}

    def kept(self, key: tuple, make: Callable[[], Any]) -> Any:
        """What was made under this key, or is made now."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def part(self, uuid: Any, rows: int, columns: int) -> Part:
        """What a prompt sees, by the name that the sampler has given it. A call of another size than its
        area, as tiling packs make it, is a picture of its own."""
        area = None
        for entry in self._entries():
            if uuid is not None and entry.get("uuid") == uuid:
                area = entry.get("area")
        if area is not None and len(area) == 4:
            height, width, top, left = area
            found = Part(
                *(self.height, self.width, top, left),
                *(min(height, self.height - top), min(width, self.width - left)),
            )
            if (found.rows, found.columns) == (rows, columns):
                return found
        return Part(rows, columns, 0, 0, rows, columns)


@dataclass(frozen=True)
class ControlCall:
    """One model call: which frames of the clip it holds, and what its prompts see."""

    run: ControlRun
    frames: tuple[int, ...]
    """Frames of the clip that every prompt sees: those of its windows one after the other."""
    parts: tuple[Part, ...]
    """For every prompt."""
    windows: int
    base: Any
    """ComfyUI's model around the UNet."""
    device: torch.device
    dtype: torch.dtype

    def rows(self, owner: Any, make: Callable[[Part], Sequence[torch.Tensor]]) -> list[torch.Tensor]:
        """The call's rows of what is made once per run for all frames of the clip: a row for each frame of
        the call, or for each of every prompt's.

        Args:
            owner: under whose name the run keeps it.
            make: from a part of the picture to tensors with a row per frame.
        """
        made = {
            part: self.run.kept(
                (owner, part, self.device, self.dtype),
                lambda part=part: [one.to(self.device, self.dtype) for one in make(part)],
            )
            for part in dict.fromkeys(self.parts)
        }
        if len(made) == 1 and self.windows == 1:
            return [self._of_frames(one) for one in made[self.parts[0]]]
        return [
            torch.cat([self._of_frames(made[part][number]) for part in self.parts])
            for number in range(len(made[self.parts[0]]))
        ]

    def value(self, value: Value) -> Value:
        """A value over the clip as rows of this call."""
        if is_number(value):
            return value
        rows = of_frames(value, self.frames, self.run.num_frames)
        return rows if self.windows == 1 else rows.repeat(len(self.parts), *(1,) * (rows.ndim - 1))

    def _of_frames(self, full: torch.Tensor) -> torch.Tensor:
        first, count = self.frames[0], len(self.frames)
        if self.frames == tuple(range(first, first + count)):
            return full[first : first + count]  # a view
        return full[list(self.frames)]


def run_of(guider: Any, noise: torch.Tensor) -> ControlRun:
    """A run's own, made when first asked for. The guider's options are a copy for this run already."""
    options = guider.model_options.setdefault("transformer_options", {})
    if RUN not in options:
        num_frames, _, height, width = noise.shape
        options[RUN] = ControlRun(
            *(num_frames, height, width),
            lambda: (one for many in guider.conds.values() for one in many or ()),
        )
    return options[RUN]


def control_call(base: Any, x: torch.Tensor, options: dict, frames: int) -> ControlCall:
    """What a model call holds.

    Args:
        base: ComfyUI's model around the UNet.
        x: ``(B*F, C, h, w)``.
        options: of the call.
        frames: ``F``, per video.

    Raises:
        ValueError: nothing says which frames of the clip these are.
    """
    prompts = len(options.get("cond_or_uncond") or [0])
    count = x.shape[0] // prompts
    indices = frames_of_window(options)
    if indices is None:
        indices = (options.get(ENTRY) or {}).get("sub_idxs")
    run = options.get(RUN)
    if run is None:
        # Somebody samples without ComfyUI's guider: the call knows of itself alone.
        window = options.get("context_window")
        last = count if indices is None else 1 + max(indices)
        run = ControlRun(getattr(window, "num_frames", last), *x.shape[-2:])
    indices = tuple(range(run.num_frames) if indices is None else indices)
    if len(indices) != count:
        raise ValueError(
            f"The model was called with {count} frames of a clip of {run.num_frames}, and nothing says which "
            "they are, so a reference picture or camera cannot be cut to them. Use AnimateDiff Flipbook's "
            "Context Windows for long clips."
        )
    names = options.get("uuids") or []
    names = names if len(names) == prompts else [None] * prompts
    if tuple(x.shape[-2:]) == (run.height, run.width):
        names = [None] * prompts  # all of them see all of it
    return ControlCall(
        *(run, indices, tuple(run.part(name, *x.shape[-2:]) for name in names), count // frames),
        *(base, x.device, compute_dtype(base)),
    )
