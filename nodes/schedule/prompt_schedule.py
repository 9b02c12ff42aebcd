"""Prompts and numbers that change over the frames, written as text: ``0: a cat / 16: a dog``."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ...motion_core.schedule.value_schedule import (
    INTERPOLATIONS,
    Schedule,
    blend_tensors,
    float_schedule,
    pad_tokens,
    prompt_schedule,
)
from ..checks import check_inputs
from ..compat import logger, make_schema
from ..types import CATEGORY, Floats

MASK_SIZE = 64
"""Height and width of schedule masks, in pixels: every pixel is alike, and ComfyUI scales masks to fit."""
SPELLINGS = (
    "A frame, a colon and the value; entries apart by a slash or a new line. Frames: 16, -1 (the last), 0.5 "
    '(half way), 8:12 (8 to 11), 8:: (from 8 on, held). JSON and `16 = ".."` are read too.'
)


def clip_length_inputs() -> list[io.Input]:
    """How the length of the clip is told."""
    return [
        io.Int.Input(
            "frames",
            default=16,
            min=0,
            max=10000,
            tooltip="Frames of the clip. 0: as many as the schedule names.",
        ),
        io.Latent.Input(
            "latent",
            optional=True,
            tooltip="Instead of `frames`: a latent whose batch size is the number of frames.",
        ),
    ]


class PromptSchedule(io.ComfyNode):
    """Prompt travel."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlipbookPromptSchedule",
            display_name="Prompt Schedule",
            category=CATEGORY,
            description=(
                "Prompts that change over the frames: each frame's conditioning is blended from the prompts "
                "before and after it. Works as positive and as negative, with and without context windows."
            ),
            search_aliases=["Batch Prompt Schedule", "prompt travel", "FizzNodes"],
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder of the checkpoint."),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default="0: a forest in spring / 16: a forest in winter, snow",
                    tooltip=SPELLINGS,
                ),
                *clip_length_inputs(),
                io.Combo.Input(
                    "interpolation",
                    options=list(INTERPOLATIONS),
                    default=INTERPOLATIONS[0],
                    tooltip="linear: the straight line between two prompts. spherical: along the arc.",
                ),
                io.String.Input(
                    "prepend",
                    multiline=True,
                    default="",
                    optional=True,
                    tooltip="Text before every prompt, joined by a comma.",
                ),
                io.String.Input(
                    "append",
                    multiline=True,
                    default="",
                    optional=True,
                    tooltip="Text after every prompt, joined by a comma.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="conditioning", tooltip="One prompt per frame of the clip."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        clip: io.Clip.Type,
        prompts: str,
        frames: int = 16,
        latent: io.Latent.Type | None = None,
        interpolation: str = "linear",
        prepend: str = "",
        append: str = "",
    ) -> io.NodeOutput:
        check_inputs(cls, locals())
        schedule = prompt_schedule(prompts, clip_length(frames, latent), prepend=prepend, append=append)
        return io.NodeOutput(travel(clip, schedule, interpolation))


def clip_length(frames: int, latent: io.Latent.Type | None) -> int:
    """Frames of the clip, from the latent if there is one."""
    return frames if latent is None else latent["samples"].shape[0]


def travel(clip: io.Clip.Type, schedule: Schedule, interpolation: str) -> list:
    """Conditioning with one entry per frame; every prompt of the schedule is encoded once."""
    encoded = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in schedule.values]
    blends = schedule.blends()
    conditioning = []
    # More than one entry per prompt only if hooks change the text encoder over the steps: the same for all.
    for entries in zip(*encoded, strict=True):
        prompts = pad_tokens([cond for cond, _ in entries])
        sizes = sorted({cond.shape[1] for cond, _ in entries})
        if any(prompts[0].shape[1] % size for size in sizes):
            logger.warning(
                "Prompts of %s tokens have no common length worth its cost: shorter ones are filled with "
                "zeros and look a little different than alone. Make them about equally long.",
                " and ".join(map(str, sizes)),
            )
        frames = blend_tensors(prompts, blends, interpolation)
        extra = dict(entries[0][1])
        pooled = [options.get("pooled_output") for _, options in entries]
        if all(isinstance(one, torch.Tensor) for one in pooled):
            extra["pooled_output"] = blend_tensors(pooled, blends, interpolation)
        conditioning.append([frames, extra])
    return conditioning


class FloatSchedule(io.ComfyNode):
    """A number per frame."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlipbookFloatSchedule",
            display_name="Float Schedule",
            category=CATEGORY,
            description=(
                "Numbers that change over the frames, in the syntax of Prompt Schedule. As a mask they set "
                "how strong a prompt is in each frame (Conditioning (Set Mask))."
            ),
            search_aliases=["Batch Value Schedule", "keyframes", "FizzNodes"],
            inputs=[
                io.String.Input("values", multiline=True, default="0: 0.0 / 16: 1.0", tooltip=SPELLINGS),
                *clip_length_inputs(),
            ],
            outputs=[
                Floats.Output(
                    display_name="floats", tooltip="All numbers as one list, for packs that take one."
                ),
                io.Float.Output(
                    display_name="each",
                    is_output_list=True,
                    tooltip="The numbers one by one: nodes behind it run once per frame.",
                ),
                io.Mask.Output(
                    display_name="mask",
                    tooltip="One even mask per frame, as bright as its number (0..1; others are cut off).",
                ),
            ],
        )

    @classmethod
    def execute(cls, values: str, frames: int = 16, latent: io.Latent.Type | None = None) -> io.NodeOutput:
        check_inputs(cls, locals())
        numbers = float_schedule(values, clip_length(frames, latent))
        mask = torch.tensor(numbers).clamp(0.0, 1.0).view(-1, 1, 1).expand(-1, MASK_SIZE, MASK_SIZE)
        return io.NodeOutput(numbers, numbers, mask.clone())
