"""Frame Noise: start noise for clips, as ComfyUI's NOISE and as a latent."""

from __future__ import annotations

import re
from dataclasses import replace

import comfy.sample
import torch
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ...motion_core.clips.frame_noise import FrameNoise, draw_frame_noise
from ..checks import check_inputs
from ..compat import make_schema
from ..sampler_inputs import noise_kind_input, noise_shape_inputs
from ..types import CATEGORY


class NoiseSource:
    """What ComfyUI's custom samplers ask for noise."""

    def __init__(self, noise: FrameNoise, seed: int | None = None) -> None:
        self.noise = noise
        self.seed = noise.seed if seed is None else seed
        """Read by samplers that draw more noise on the way."""

    def generate_noise(self, input_latent: dict) -> torch.Tensor:
        """Noise for a latent, on the CPU; frames cut out of a batch keep the noise of their place in it."""
        samples = input_latent["samples"]
        places = input_latent.get("batch_index")
        if self.noise.is_plain:
            # ComfyUI's own, which draws cut frames one by one: at odd sizes not the numbers of a whole batch.
            return comfy.sample.prepare_noise(samples, self.noise.seed, places)
        # ComfyUI's noise leaves torch's generator seeded: what merges tokens by chance (ToMe) relies on it.
        torch.manual_seed(self.seed)
        num_frames = samples.shape[0] if places is None else max(places) + 1
        frames = draw_frame_noise(self.noise, (num_frames, *samples.shape[1:])).to(samples.dtype)
        return frames if places is None else frames[torch.tensor(places)]


class FrameNoiseNode(io.ComfyNode):
    """Noise whose frames are related as the user wants."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlipbookFrameNoise",
            display_name="Frame Noise",
            category=CATEGORY,
            description=(
                "Start noise for clips. How alike the noises of the frames are decides how alike the frames "
                "come out; for clips of several context windows freenoise keeps the windows together. "
                "Connect it to SamplerCustomAdvanced, Context Sampler or FreeInit Sampler."
            ),
            search_aliases=["FreeNoise", "shared noise", "AnimateDiff noise", "seed per frame"],
            inputs=[
                noise_kind_input(),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Seed of the noise. The same seed gives the same noise on every device.",
                ),
                *noise_shape_inputs(),
                io.String.Input(
                    "frame_seeds",
                    default="",
                    optional=True,
                    tooltip=(
                        "Seeds of the single frames, apart by commas: 5, 5, 9. Later frames count on from "
                        "the last one, so a single seed gives every frame its own, whatever comes before it."
                    ),
                ),
                io.Latent.Input(
                    "latent", optional=True, tooltip="The clip, for the output `noise_latent` only."
                ),
            ],
            outputs=[
                io.Noise.Output(
                    display_name="noise", tooltip="For every sampler with a noise socket, and Add Noise."
                ),
                io.Latent.Output(
                    display_name="noise_latent",
                    tooltip="The bare noise in the shape of `latent`, for nodes that take noise as a latent.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        kind: str,
        seed: int,
        shared: float = 0.5,
        length: int = 16,
        overlap: int = 4,
        frame_seeds: str = "",
        latent: io.Latent.Type | None = None,
    ) -> io.NodeOutput:
        check_inputs(cls, locals())
        noise = FrameNoise(kind, seed, shared, length, overlap if kind == "freenoise" else 0)
        source = NoiseSource(replace(noise, frame_seeds=read_seeds(frame_seeds)))
        if latent is None:
            blocked = "Frame Noise: connect a latent, so that the noise latent has a shape."
            return io.NodeOutput(source, ExecutionBlocker(blocked))
        return io.NodeOutput(source, {**latent, "samples": source.generate_noise(latent)})


def read_seeds(text: str) -> tuple[int, ...] | None:
    """Seeds apart by commas, spaces or lines; None for an empty text.

    Raises:
        ValueError: something else stands between them.
    """
    words = [word for word in re.split(r"[,\s]+", text) if word]
    for word in words:
        if not word.isdecimal():
            raise ValueError(
                f"frame_seeds holds {word!r}; expected whole numbers apart by commas, such as 5, 5, 9."
            )
    return tuple(int(word) for word in words) or None
