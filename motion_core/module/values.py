"""Values over frames and places: how strong the motion is, given as a number, per frame, or as masks.

=================  ==========================================================================
a value is         meaning
=================  ==========================================================================
a number           the same everywhere
``(R,)``           one number per frame
``(R, h, w)``      one mask per frame, of any size
=================  ==========================================================================

``R`` rows are the frames of a clip; a clip longer than its values keeps the last one. In a UNet call the rows
are 1 (all frames), F (the frames of every video) or B*F (each video its own, video-major).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

Value = float | torch.Tensor


def is_number(value: Value) -> bool:
    """Whether a value is the same everywhere."""
    return not isinstance(value, torch.Tensor)


def check_value(name: str, value: Value, lowest: float, highest: float) -> None:
    """Refuse values of a wrong shape or outside ``lowest .. highest``.

    Raises:
        ValueError: says what was found and what is expected.
    """
    if isinstance(value, torch.Tensor):
        if value.ndim not in (1, 3) or not value.numel():
            raise ValueError(
                f"{name} has the shape {tuple(value.shape)}; expected one number per frame (F,) or masks "
                "(F, height, width)."
            )
        low, high = (float(end) for end in torch.aminmax(value))
    else:
        low = high = value
    if not lowest <= low <= high <= highest:
        found = f"{low:g}" if low == high else f"{low:g} .. {high:g}"
        raise ValueError(f"{name} is {lowest:g} .. {highest:g}, got {found}. Mind the linked node.")


def extended(value: Value, frames: int) -> Value:
    """A value with as many rows as a clip has frames: the last one repeated, or the rest cut off."""
    if is_number(value) or value.shape[0] == frames:
        return value
    rows = torch.arange(frames).clamp_(max=value.shape[0] - 1)
    return value[rows.to(value.device)]


def of_frames(value: Value, indices: Sequence[int], num_frames: int) -> Value:
    """The rows of some frames of a clip of ``num_frames``, for a context window."""
    if is_number(value):
        return value
    # Not by way of the whole clip: one mask for 500 frames would become 500 at each model call.
    last = min(value.shape[0], num_frames) - 1
    return value[[min(index, last) for index in indices]]


def times(a: Value, b: Value) -> Value:
    """Product of two values. The shorter one keeps its last row; of two masks the smaller one is cut to the
    shape of the larger one around its centre and stretched to it."""
    if is_number(a) or is_number(b):
        return a * b
    rows = max(a.shape[0], b.shape[0])
    a, b = extended(a, rows), extended(b, rows)
    if a.ndim == b.ndim == 1:
        return a * b
    a, b = (value if value.ndim == 3 else value.view(-1, 1, 1) for value in (a, b))
    if a.shape[1:] == b.shape[1:] or 1 in (a[0].numel(), b[0].numel()):
        return a * b
    if a[0].numel() < b[0].numel():
        a, b = b, a
    return a * at_size(_cut_to_shape(b, *a.shape[1:]), *a.shape[1:])


def at_size(masks: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Masks ``(R, h, w)`` at another size, bilinear."""
    if masks.shape[1:] == (height, width):
        return masks
    return F.interpolate(masks.unsqueeze(1), size=(height, width), mode="bilinear").squeeze(1)


def between(masks: torch.Tensor, lowest: Value, highest: Value, *, relative: bool = False) -> torch.Tensor:
    """Masks that run from ``lowest`` (where they are 0) to ``highest`` (where they are 1).

    ``relative``: stretched first so that the smallest of all their values is 0 and the largest 1.
    """
    if relative:
        low, high = torch.aminmax(masks)
        masks = (masks - low) / (high - low) if high > low else torch.zeros_like(masks)
    rows = max(value.shape[0] for value in (masks, lowest, highest) if not is_number(value))
    masks = extended(masks, rows)
    lowest, highest = (
        value if is_number(value) else extended(value, rows).view(rows, 1, 1).to(masks)
        for value in (lowest, highest)
    )
    return masks * (highest - lowest) + lowest


def rows_per_video(value: torch.Tensor, videos: int, frames: int) -> torch.Tensor:
    """Rows of a call's value: ``(1 or videos, frames, ...)``.

    Raises:
        ValueError: neither one row, nor one per frame, nor one per frame of every video.
    """
    rows = value.shape[0]
    if rows == videos * frames:
        return value.unflatten(0, (videos, frames))
    if rows in (1, frames):
        return value.expand(frames, *value.shape[1:]).unsqueeze(0)
    raise ValueError(
        f"A value has {rows} rows; expected 1, {frames} (one per frame) or {videos * frames} (one per frame "
        "of every video)."
    )


def _cut_to_shape(masks: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The middle of masks, in the proportions of ``height`` x ``width``."""
    h, w = masks.shape[1:]
    ratio, wanted = w / h, width / height
    x = round((w - w * (wanted / ratio)) / 2) if ratio > wanted else 0
    y = round((h - h * (ratio / wanted)) / 2) if ratio < wanted else 0
    return masks[:, y : h - y, x : w - x]
