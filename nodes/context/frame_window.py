"""A context window whose frames lie in the batch, and its part of whatever belongs to single frames.

Where a tensor holds fewer or more entries than the clip has frames, it is read as ComfyUI reads it without
windows: from the start again when it ends, and no further than the clip.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from comfy.context_windows import IndexListContextWindow

from ..compat import clip_length


class FrameWindow(IndexListContextWindow):
    """One or several context windows of equal length, evaluated in one model call as so many videos."""

    def __init__(self, windows: list[tuple[int, ...]], num_frames: int) -> None:
        indices = [index for window in windows for index in window]
        super().__init__(indices, dim=0, **clip_length(num_frames))
        self._windows = windows
        self.num_windows = len(windows)
        """Videos in this call, per cond."""
        self.frames = len(windows[0])
        """Frames of each video."""
        self.context_length = self.frames
        self.num_frames = num_frames
        """Frames of the whole clip."""
        first = self.index_list[0]
        run = self.index_list == list(range(first, first + len(self.index_list)))
        # A slice is a view; a list of indices costs a copy.
        self._place: slice | None = slice(first, first + len(self.index_list)) if run else None
        self._indices: dict[tuple[torch.device, int], torch.Tensor] = {}

    def get_tensor(
        self,
        full: torch.Tensor,
        device: torch.device | None = None,
        dim: int | None = None,
        retain_index_list: Sequence[int] = (),
    ) -> torch.Tensor:
        """The window's part of a per-frame tensor; a single entry is everybody's.

        ``retain_index_list``: frames of the clip that stand in those places of each window.
        """
        part = self._part(full, device, self.dim if dim is None else dim)
        retained = [frame for frame in retain_index_list if frame < self.frames]
        if not retained or full.shape[self.dim if dim is None else dim] == 1:
            return part
        dim = self.dim if dim is None else dim
        places = [video * self.frames + frame for video in range(self.num_windows) for frame in retained]
        kept = full.index_select(dim, torch.tensor(retained * self.num_windows, device=full.device))
        return part.index_copy(dim, torch.tensor(places, device=part.device), kept.to(part.device))

    def _part(self, full: torch.Tensor, device: torch.device | None, dim: int) -> torch.Tensor:
        length = full.shape[dim]
        if length == 1:
            return full.to(device)
        if self._place is not None and self._place.stop <= length:
            return full[(slice(None),) * dim + (self._place,)].to(device)
        return full.index_select(dim, self._index(full.device, length)).to(device)

    def add_window(self, full: torch.Tensor, to_add: torch.Tensor, dim: int | None = None) -> torch.Tensor:
        """Add to the window's frames, in place."""
        dim = self.dim if dim is None else dim
        return full.index_add_(dim, self._index(full.device, full.shape[dim]), to_add.to(full))

    def add_weighted(self, full: torch.Tensor, output: torch.Tensor, weights: torch.Tensor) -> None:
        """Add a call's prediction, times the weights of its frames, to those frames of the clip, in place.

        Window by window: frames that two windows share would otherwise be added up in any order on a GPU.
        """
        places = self._index(full.device, full.shape[0])
        for number, indices in enumerate(self._windows):
            part = slice(number * self.frames, (number + 1) * self.frames)
            if indices[-1] - indices[0] == self.frames - 1:
                full[indices[0] : indices[-1] + 1].addcmul_(output[part].to(full), weights[part])
            else:
                full.index_add_(0, places[part], output[part].to(full) * weights[part])

    def _index(self, device: torch.device, length: int) -> torch.Tensor:
        if length == 0:
            raise ValueError(
                "A prompt, mask or image of the conditioning holds no entry at all (a batch of 0); expected "
                f"one, or one for each of the {self.num_frames} frames. Look at the node that made it."
            )
        if (device, length) not in self._indices:
            wrapped = [index % length for index in self.index_list]
            self._indices[device, length] = torch.tensor(wrapped, device=device)
        return self._indices[device, length]
