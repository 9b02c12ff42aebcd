"""Clips shorter than a window: AnimateDiff-Evolved makes no loop of them."""

from __future__ import annotations

from .job import Job
from .old import as_number
from .reach import Reach
from .workflow import Source
from .world import Level

EMPTY_LATENTS = ("EmptyLatentImage", "ADE_EmptyLatentImageLarge", "EmptySD3LatentImage")
HAND_ON = ("LatentUpscale", "LatentUpscaleBy", "SetLatentNoiseMask", "NNLatentUpscale", "LatentBlend")
"""Nodes that leave the number of frames as it is."""
LATENT_INPUTS = ("latent_image", "latent", "samples", "latents", "samples1")


def loop_is_right(
    job: Job, goal: Reach, length: object, on_equal_length: bool, num_frames: int | None
) -> bool:
    """Whether a closed loop is one there, too; yes where the number of frames is not in the file."""
    window = as_number(length)
    counts = {frames(job, near, near.source(node, *LATENT_INPUTS)) for near, node in goal.samplers}
    if num_frames is not None:
        counts = {num_frames}
    if not counts or None in counts or window is None:
        return True
    return any(count > window or (count == window and on_equal_length) for count in counts)


def frames(job: Job, level: Level, source: Source | None) -> int | None:
    """Number of frames of a latent, where it stands in the file."""
    for _ in range(32):
        found = job.world.origin(level, source)
        if found is None:
            return None
        level, (node, _) = found
        kind = level.type(node)
        if kind in EMPTY_LATENTS:
            return _batch_size(job, level, node)
        if kind not in HAND_ON and "KSampler" not in kind and kind != "FlipbookContextSampler":
            return None
        source = level.source(node, *LATENT_INPUTS)
    return None


def _batch_size(job: Job, level: Level, node: str) -> int | None:
    if link := level.source(node, "batch_size"):
        return as_number(job.world.constant(level, link), whole_number=True)
    values = level.widgets(node)
    if isinstance(values, dict):
        return as_number(values.get("batch_size"), whole_number=True)
    return as_number(values[2], whole_number=True) if isinstance(values, list) and len(values) > 2 else None
