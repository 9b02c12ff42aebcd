"""What a sampling run with our nodes on the model begins with: a look at what it was given.

Apply Motion Module and Context Windows each have a wrapper around the run; whichever comes first does it.
"""

from __future__ import annotations

from typing import Any

import torch

from .compat import logger
from .context.other_packs import ENTRY, clip_entry

BEGUN = "animatediff_flipbook_begun"
"""Mark in the run's options, which end with it."""


def begin_run(guider: Any, noise: torch.Tensor) -> None:
    """Check the clip and its conditioning, say what ends before the clip does, and tell other packs that the
    calls of this run hold the whole clip (context windows tell them otherwise, call by call).

    Args:
        guider: ComfyUI's, within a run: its options are a copy for this run already.
        noise: ``(F, C, H, W)``.

    Raises:
        ValueError: the latent is no clip of pictures, or a prompt has no entry.
    """
    options = guider.model_options
    if options.get(BEGUN):
        return
    options[BEGUN] = True
    if noise.ndim != 4:
        raise ValueError(
            f"A motion module and context windows need frames as a batch of pictures, (frames, channels, "
            f"height, width); the latent has the shape {tuple(noise.shape)}. Connect an Empty Latent Image "
            "or encoded pictures; latents of video and audio models do not fit."
        )
    for name, entries in guider.conds.items():
        _look_at(name, entries or [], noise.shape[0])
    options.setdefault("transformer_options", {}).setdefault(ENTRY, clip_entry(noise.shape[0]))


def _look_at(name: str, entries: list[dict], num_frames: int) -> None:
    """Refuse what is empty, and say what is shorter than the clip: ComfyUI then begins with the first
    again."""
    for key, words, remedy in (
        ("cross_attn", "prompts", "`frames` of Prompt Schedule"),
        ("mask", "masks", "`frames` of Float Schedule, or the number of masks,"),
    ):
        tensors = [entry.get(key) for entry in entries]
        counts = {tensor.shape[0] for tensor in tensors if getattr(tensor, "ndim", 0) >= 3}
        if 0 in counts:
            raise ValueError(
                f"The {name} conditioning holds {words} with no entry at all (a batch of 0); expected one, "
                f"or one for each of the {num_frames} frames. Look at the node that made it."
            )
        for count in sorted(counts):
            if 1 < count < num_frames:
                logger.warning(
                    "The %s %s are for %d frames and the clip has %d: they start again after frame %d. "
                    "Set %s to %d.",
                    *(name, words, count, num_frames, count - 1, remedy, num_frames),
                )
