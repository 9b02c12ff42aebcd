"""A SparseCtrl encoder as a CONTROL_NET: what ComfyUI's Apply ControlNet nodes and its samplers work with.

A ControlNet's pictures are those of the frames; SparseCtrl's are few, and stand at frames of their own
choice. So where context windows cut the hints of other ControlNets, this one asks each call which frames of
the clip it holds, and lays out their condition.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from typing import Any

import comfy.model_management
import comfy.ops
import comfy.utils
import torch
from comfy.context_windows import IndexListContextWindow
from comfy.controlnet import ControlBase
from comfy.model_patcher import ModelPatcher

from ...motion_core.control.sparse_control import (
    SparseLayout,
    frames_of_pictures,
    normalised_strokes,
    pictures_at,
    sparse_condition,
)
from ...motion_core.files.checkpoint import MotionFile
from ...motion_core.module.call import MotionCall
from ...motion_core.module.unet import unet_slots
from ..compat import causal_frame_is_added, chosen_attention, models_in_use, new_patcher
from ..context.other_packs import ENTRY
from ..motion.load import weight_dtype
from .sparse_network import SparseNetwork, load_sparse_network

DEFAULT_PLACEMENT = "even"
"""One picture stands at the first frame, two at both ends."""


class SparsePictures:
    """The pictures that an Apply ControlNet node was given, prepared once for each size of the latent.

    They outlive a run: the next one of the same graph encodes nothing again.
    """

    def __init__(self, layout: SparseLayout, images: torch.Tensor, vae: Any) -> None:
        self._layout = layout
        self._images = images
        self._vae = vae
        self._ready: dict[tuple[int, int], torch.Tensor] = {}
        self._lock = threading.Lock()  # each GPU has a thread of its own

    def at(self, height: int, width: int) -> torch.Tensor:
        """Conditions of all pictures for a latent of that size, ``(n, C, H, W)``: pixels in 0..1, or latents
        as the VAE makes them."""
        with self._lock:
            if (height, width) not in self._ready:
                self._ready[height, width] = self._prepared(height, width).cpu()
            return self._ready[height, width]

    def _prepared(self, height: int, width: int) -> torch.Tensor:
        if self._layout.kind == "scribble":
            scale = self._layout.condition_scale
            return normalised_strokes(pictures_at(self._images, scale * height, scale * width))
        scale = self._vae.spacial_compression_encode()
        pixels = pictures_at(self._images, scale * height, scale * width)
        # The VAE may push the models of the run out of memory; they are needed right after it.
        loaded = models_in_use()
        latents = self._vae.encode(pixels.movedim(1, -1))
        comfy.model_management.load_models_gpu(loaded)
        wanted = (self._layout.condition_channels, height, width)
        if tuple(latents.shape[1:]) != wanted:
            raise ValueError(
                f"The VAE makes latents of {tuple(latents.shape[1:])} (channels, height, width), SparseCtrl "
                f"expects {wanted}. Connect the VAE of the checkpoint to the vae input of Apply ControlNet."
            )
        return latents


class SparseControl(ControlBase):
    """One encoder with its pictures and their places.

    Args:
        name: of the file.
        patcher: its :class:`SparseNetwork` in ComfyUI's memory management.
        placement: as ``chosen`` of :func:`motion_core.control.sparse_control.frames_of_pictures`.
    """

    places_by_itself = True
    """Told to context windows: the hint is no batch of frames and must stay whole."""

    def __init__(
        self, name: str, patcher: ModelPatcher, placement: str | Sequence[int] = DEFAULT_PLACEMENT
    ) -> None:
        super().__init__()
        self.name = name
        self.control_model: SparseNetwork = patcher.model
        self.control_model_wrapped = patcher
        self.load_device = patcher.load_device
        weights = self.control_model.dtype
        self.manual_cast_dtype = comfy.model_management.unet_manual_cast(weights, self.load_device)
        self.placement = placement
        self.pictures: SparsePictures | None = None
        self._model: Any = None
        """The base of the run."""

    def set_cond_hint(
        self,
        cond_hint: torch.Tensor,
        strength: float = 1.0,
        timestep_percent_range: tuple[float, float] = (0.0, 1.0),
        vae: Any = None,
        extra_concat: Sequence = (),
    ) -> SparseControl:
        """What the Apply ControlNet nodes hand over. ``cond_hint`` (n, C, H, W), pixels in 0..1.

        Raises:
            ValueError: there is no picture, or no VAE where one is needed.
        """
        layout = self.control_model.layout
        if not cond_hint.shape[0]:
            raise ValueError(f"{self.name} got no picture (a batch of 0); expected at least one.")
        if layout.kind == "rgb" and vae is None:
            raise ValueError(
                f"{self.name} is shown pictures as latents and needs a VAE. Use Apply ControlNet with a vae "
                "input (ControlNetApplyAdvanced), and connect the checkpoint's VAE there."
            )
        super().set_cond_hint(cond_hint, strength, timestep_percent_range, vae, list(extra_concat))
        self.pictures = SparsePictures(layout, cond_hint, vae)
        return self

    def with_placement(self, placement: str | Sequence[int]) -> SparseControl:
        """A copy whose pictures stand elsewhere."""
        control = self.copy()
        control.placement = placement
        return control

    def copy(self) -> SparseControl:
        """With the same weights, pictures and settings."""
        control = SparseControl(self.name, self.control_model_wrapped, self.placement)
        self.copy_to(control)
        control.pictures = self.pictures
        return control

    def deepclone_multigpu(self, load_device: torch.device, autoregister: bool = False) -> SparseControl:
        """A copy with weights of its own for a further GPU."""
        patcher = ModelPatcher(
            copy.deepcopy(self.control_model),
            load_device=load_device,
            offload_device=comfy.model_management.unet_offload_device(),
        )
        control = SparseControl(self.name, patcher, self.placement)
        self.copy_to(control)
        control.pictures = self.pictures
        if autoregister:
            self.multigpu_clones[load_device] = control
        return control

    def get_models(self) -> list[ModelPatcher]:
        """What ComfyUI has to load for a run."""
        return [*super().get_models(), self.control_model_wrapped]

    def pre_run(self, model: Any, percent_to_timestep_function: Callable[[float], float]) -> None:
        """Start of a run.

        Raises:
            ValueError: the encoder was made for another UNet.
        """
        super().pre_run(model, percent_to_timestep_function)
        layout = self.control_model.layout
        wanted = [width for width, level in zip(layout.widths, layout.depths, strict=True) for _ in level]
        found = [s.channels for s in unet_slots(model.diffusion_model) if s.name.startswith("down_blocks.")]
        if wanted != found:
            raise ValueError(
                f"{self.name} does not fit the base model: it is made for a UNet with levels of "
                f"{layout.widths} channels, the base has {tuple(dict.fromkeys(found))}. Use a checkpoint of "
                "the encoder's family (SD1.5 for the published ones)."
            )
        self._model = model

    def cleanup(self) -> None:
        """End of a run."""
        self._model = None
        super().cleanup()

    def get_control(
        self,
        x_noisy: torch.Tensor,
        t: torch.Tensor,
        cond: dict[str, torch.Tensor],
        batched_number: int,
        transformer_options: dict,
    ) -> dict[str, list[torch.Tensor | None]] | None:
        """Residuals of one call, with those of the ControlNets before this one.

        Args:
            x_noisy: ``(B*F, C, h, w)``; SparseCtrl sees its size only.
            t: noise levels, ``(B*F,)``.
            cond: ``c_crossattn`` (B*F, tokens, width).
            batched_number: conds that are folded into the batch.
            transformer_options: of the call; they know which frames of the clip it holds.
        """
        before = None
        if self.previous_controlnet is not None:
            before = self.previous_controlnet.get_control(
                x_noisy, t, cond, batched_number, transformer_options
            )
        first_and_last = self.timestep_range
        if first_and_last is not None and not first_and_last[1] <= t[0] <= first_and_last[0]:
            return before
        network, layout = self.control_model, self.control_model.layout
        context = cond.get("crossattn_controlnet", cond["c_crossattn"])
        if context.shape[-1] != layout.context_dim:
            raise ValueError(
                f"{self.name} reads prompts {layout.context_dim} wide, and these are {context.shape[-1]}: "
                "use the text encoder and checkpoint of the encoder's family (SD1.5 for the published ones)."
            )
        dtype = self.manual_cast_dtype or network.dtype
        frames, videos, clip = _frames_of_call(transformer_options, x_noisy.shape[0], batched_number)
        condition = self._condition(frames, clip, x_noisy.shape[-2:]).to(x_noisy.device, dtype)
        control = network(
            x_noisy.to(dtype),
            condition.repeat(batched_number, 1, 1, 1),
            self._model.model_sampling.timestep(t).to(dtype),
            comfy.model_management.cast_to_device(context, x_noisy.device, dtype),
            motion_call=self._motion_call(len(frames) // videos, transformer_options),
        )
        return self.control_merge(control, before, output_dtype=None)

    def _condition(self, frames: Sequence[int], clip: int, size: torch.Size) -> torch.Tensor:
        pictures = self.pictures.at(*size)
        if self.control_model.layout.kind == "rgb":
            pictures = self._model.process_latent_in(pictures)
        return sparse_condition(pictures, frames_of_pictures(self.placement, pictures.shape[0], clip), frames)

    def _motion_call(self, frames: int, transformer_options: dict) -> MotionCall:
        return MotionCall(frames, attention=chosen_attention(transformer_options), name=self.name)


def load_sparse_control(name: str, file: MotionFile) -> SparseControl:
    """Weights into memory, in a type that suits the file, the device and the memory."""
    return SparseControl(name, _load_patcher(file))


def _load_patcher(file: MotionFile, disable_dynamic: bool = False) -> ModelPatcher:
    """``disable_dynamic``: ComfyUI's word for a patcher that moves whole layers."""
    num_values = sum(torch.Size(shape).numel() for shape in file.source.shapes.values())
    bar = comfy.utils.ProgressBar(num_values)
    network = load_sparse_network(
        file, comfy.ops.manual_cast, weight_dtype(file.dtype, num_values), bar.update_absolute
    )
    return new_patcher(network, _load_patcher, file, plain=disable_dynamic)


def _frames_of_call(options: dict, batch: int, conds: int) -> tuple[list[int], int, int]:
    """``(frames by their number in the clip, videos that they make, frames of the clip)``, of each cond.

    Raises:
        ValueError: the batch cannot be those frames, or nobody says how long the clip is.
    """
    videos = 1
    window, told = options.get("context_window"), options.get(ENTRY) or {}
    if isinstance(window, IndexListContextWindow):
        frames = list(window.index_list)
        if causal_frame_is_added(options):
            frames.insert(0, window.causal_anchor_index)
        clip = getattr(window, "num_frames", None) or getattr(window, "total_frames", None)
        clip = clip or told.get("full_length")
        # Windows that share a call are videos of their own.
        videos = getattr(window, "num_windows", 1)
    elif told.get("sub_idxs") is not None:
        frames, clip = list(told["sub_idxs"]), told["full_length"]
    else:
        clip = batch // conds
        frames = list(range(clip))
    if clip is None or len(frames) * conds != batch:
        raise ValueError(
            f"SparseCtrl was called with a batch of {batch} for {conds} conds and cannot tell which frames "
            "these are. Another node re-batches model calls or cuts the clip; take it off the model, or use "
            "AnimateDiff Flipbook's Context Windows."
        )
    return frames, videos, clip
