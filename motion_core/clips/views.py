"""Views: windows inside temporal attention. The UNet sees all frames, its motion modules a part at a time.

The frames of a call are cut as context windows cut a clip (:mod:`~.context`); each frame's results are
averaged before the feed-forward (FreeNoise, Qiu et al. 2023).
"""

from __future__ import annotations

from ..module.call import View
from .context import ContextOptions, context_windows, needs_windows
from .context_fuse import fused_weights


def views_of(
    options: ContextOptions, frames: int, *, sigma: float = 1.0, seed: int = 0, step: int = 0
) -> tuple[View, ...]:
    """The views of a call of ``frames``; none if it is no longer than a view.

    Args:
        options: how frames are cut.
        frames: of the call.
        sigma, seed, step: of the call, for methods that change with them.
    """
    if not needs_windows(options, frames):
        return ()
    windows = context_windows(options, frames, step)
    weights = fused_weights(windows, options, frames, sigma=sigma, seed=seed, step=step)
    return tuple(
        View(window.indices, tuple(weight.flatten().tolist()))
        for window, weight in zip(windows, weights, strict=True)
    )
