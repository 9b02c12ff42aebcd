"""A picture for a motion module to start from, as latents of the clip's size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.utils
import torch
import torch.nn.functional as F
from comfy_api.latest import io

from ...motion_core.module.values import extended
from ..compat import logger, models_in_use
from .control_run import ControlCall, ControlRun, Part


@dataclass(frozen=True, eq=False)
class Reference:
    """One picture, or one per frame."""

    image: torch.Tensor
    """``(N, H, W, C)``, 0..1."""
    vae: io.Vae.Type

    def begin(self, run: ControlRun, title: str) -> None:
        """Encode, before the models are loaded, and say if the number of pictures is odd."""
        count = self.image.shape[0]
        if count not in (1, run.num_frames):
            what = "the last one stays" if count < run.num_frames else "the rest is not used"
            logger.warning("%s: %d pictures for a clip of %d frames; %s.", title, count, run.num_frames, what)
        self._encoded(run, during_call=False)

    def latents(self, place: ControlCall, part: Part) -> torch.Tensor:
        """A part of the picture in the model's scale, ``(1 or F, C, rows, columns)``."""
        raw = self._encoded(place.run, during_call=True)
        if raw.shape[0] > 1:
            raw = extended(raw, place.run.num_frames)
        if raw.shape[-2:] != (part.height, part.width):
            raw = F.interpolate(raw, size=(part.height, part.width), mode="bilinear", antialias=True)
        return part.of(place.base.process_latent_in(raw)).to(place.device, place.dtype)

    def _encoded(self, run: ControlRun, during_call: bool) -> torch.Tensor:
        """The whole picture at the clip's size, in the VAE's scale."""
        return run.kept(
            (self, "encoded"), lambda: self._encode(run.height, run.width, run.num_frames, during_call)
        )

    def _encode(self, height: int, width: int, num_frames: int, during_call: bool) -> torch.Tensor:
        times = self.vae.spacial_compression_encode()
        pixels = self.image[:num_frames, ..., :3].movedim(-1, 1)
        pixels = comfy.utils.common_upscale(pixels, times * width, times * height, "lanczos", "center")
        # The models of a call that has begun are put back, as ComfyUI's ControlNets do.
        loaded = models_in_use() if during_call else []
        latents = self.vae.encode(pixels.movedim(1, -1))
        if loaded:
            comfy.model_management.load_models_gpu(loaded)
        if latents.ndim != 4 or latents.shape[-2:] != (height, width):
            raise ValueError(
                f"The reference's VAE makes latents of the shape {tuple(latents.shape)} where the clip has "
                f"{height} x {width}. Connect the VAE of the checkpoint."
            )
        return latents.float()


def reference(image: Any, vae: Any) -> Reference:
    """What a node was given.

    Raises:
        ValueError: no pictures, or no VAE.
    """
    if not isinstance(image, torch.Tensor) or image.ndim != 4 or image.shape[-1] < 3 or not image.numel():
        found = tuple(image.shape) if isinstance(image, torch.Tensor) else type(image).__name__
        raise ValueError(
            f"The image input got {found}, expected pictures of the shape (number, height, width, 3). "
            "Connect Load Image."
        )
    if not hasattr(vae, "encode"):
        raise ValueError(
            f"The vae input got a {type(vae).__name__}. Connect the VAE of the checkpoint, or Load VAE."
        )
    return Reference(image, vae)


def image_input(tooltip: str) -> io.Input:
    """The socket for the picture."""
    return io.Image.Input("image", tooltip=tooltip)


def vae_input() -> io.Input:
    """The socket for the VAE."""
    return io.Vae.Input("vae", tooltip="The VAE of the checkpoint, to encode the picture.")
