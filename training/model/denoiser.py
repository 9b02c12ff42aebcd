"""The model of a run: the frozen UNet with what is trained in it, as one module with one forward.

Only trained tensors are registered, so that wrapping (DDP, FSDP), saving and optimizing touch nothing else.

Shapes: ``B`` clips, ``F`` frames, ``C`` channels, ``H W`` latent height and width, ``N`` tokens, ``D`` width.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from einops import rearrange, repeat
from torch import nn

from ...motion_core.files.checkpoint import load_with_parts, open_motion_module
from ...motion_core.files.control_parts import NOTES, parts_of, take_control_parts
from ...motion_core.files.lora import read_lora
from ...motion_core.module.config import MotionModuleConfig
from ...motion_core.module.injection import check_fit, inserted
from ...motion_core.module.model import MotionCall, MotionModel
from ...motion_core.module.positions import too_many_frames
from ...motion_core.module.unet import unet_slots
from ..config import MotionConfig, RunConfig
from .adapters import LoraSet, add_domain_adapter, add_motion_lora, merge_domain_adapter
from .base_model import BaseModel
from .loaded import copy_of_motion

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kept:
    """What the file that training starts from holds beside what is trained: the exported file has it too."""

    licence: str = ""
    """Unless the run names one."""
    controls: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Weights of parts that steer a motion module by a picture, by their names in files."""


class Denoiser(nn.Module):
    """Noisy clips in, the UNet's prediction out.

    Args:
        base: the frozen image model.
        motion: motion model that takes part, or None (stage 1).
        trained: what is trained: the motion model itself, or LoRA layers in the UNet or in the motion model.
        recompute: gradient checkpointing.
        dropouts: the LoRA layers' dropout, on in training mode; checkpointing must repeat its masks.
        kept: what goes into the exported file as it came.
    """

    def __init__(
        self,
        base: BaseModel,
        motion: MotionModel | None,
        trained: nn.Module,
        recompute: bool,
        dropouts: Sequence[nn.Module] = (),
        kept: Kept | None = None,
    ) -> None:
        super().__init__()
        self.kept = kept or Kept()
        self.trained = trained
        self.recompute = recompute
        self.keep_rng = bool(dropouts)
        # In a tuple, hence not registered: frozen parts are nobody's parameters.
        self._frozen = (base, motion)
        self._dropouts = tuple(dropouts)
        self.train()

    def train(self, mode: bool = True) -> Denoiser:
        """Switch the LoRA's own dropout; everything else is always as at inference."""
        self.training = mode
        for layer in self._dropouts:
            layer.train(mode)
        return self

    @property
    def base(self) -> BaseModel:
        """The frozen image model."""
        return self._frozen[0]

    @property
    def motion(self) -> MotionModel | None:
        """The motion model in the UNet, trained or not."""
        return self._frozen[1]

    @contextmanager
    def attached(self, frames: int) -> Iterator[None]:
        """The motion modules sit in the UNet within this block.

        Forward *and backward* belong inside: gradient checkpointing calls the blocks again in the backward
        pass.
        """
        motions = [] if self.motion is None else [(self.motion, MotionCall(frames=frames))]
        with inserted(self.base.unet, motions):
            yield

    def forward(
        self, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor, y: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Predict for noisy clips. Called within :meth:`attached`.

        Args:
            x: (B, F, C, H, W).
            timesteps: (B,), one per clip.
            context: (B, N, D), the same for all frames of a clip.
            y: (B, A) or None.

        Returns:
            (B, F, C, H, W).
        """
        frames = x.shape[1]
        out = self.base.predict(
            rearrange(x, "b f c h w -> (b f) c h w"),
            repeat(timesteps, "b -> (b f)", f=frames).float(),
            repeat(context, "b n d -> (b f) n d", f=frames),
            None if y is None else repeat(y, "b a -> (b f) a", f=frames),
            recompute=self.recompute and torch.is_grad_enabled(),
            keep_rng=self.keep_rng,
        )
        return rearrange(out, "(b f) c h w -> b f c h w", f=frames)


def build(config: RunConfig, base: BaseModel) -> Denoiser:
    """Put together what the run's stage trains, on the base's device; trained weights in fp32.

    Raises:
        FileNotFoundError, ValueError: a file is missing or does not fit.
    """
    adapter = config.base.domain_adapter
    if adapter and config.base.domain_adapter_strength:
        layers = merge_domain_adapter(base.unet, read_lora(adapter), config.base.domain_adapter_strength)
        log.info("Domain adapter %s at %g on %d layers", adapter, config.base.domain_adapter_strength, layers)
    recompute = config.train.gradient_checkpointing
    motion: MotionModel | None = None
    if config.stage != "domain_adapter":
        motion, kept = _motion_model(config, base)
        log.info("Motion module: %s", motion.config.describe())
    if config.stage == "motion_module":
        _tell_of_parts(kept, config.motion.file)
        motion.to(base.device, torch.float32).requires_grad_(True)
        return Denoiser(base, motion, motion, recompute, kept=kept)
    if config.stage == "motion_lora":
        motion.to(base.device, base.dtype).requires_grad_(False)
        lora = add_motion_lora(motion, config.lora, config.seed)
        model = motion
    else:
        lora = add_domain_adapter(base.unet, config.lora, config.seed)
        model = base.unet
    kept = Kept()
    if config.lora.file:
        file = read_lora(config.lora.file)
        lora.start_from(file)
        kept = Kept(file.metadata.get("licence", ""))
    lora.to(base.device)
    # peft makes new layers in training mode; nothing but the LoRA's own dropout may be in it.
    model.eval()
    dropouts = [
        layer
        for layer in model.modules()
        if isinstance(layer, nn.Dropout) and layer.p == config.lora.dropout > 0
    ]
    return Denoiser(base, motion, lora, recompute, dropouts, kept)


def _motion_model(config: RunConfig, base: BaseModel) -> tuple[MotionModel, Kept]:
    """The motion module of a file, or a fresh one, without parts that steer it by a picture; and these."""
    settings, licence = config.motion, ""
    given = None if base.loaded is None else base.loaded.motion
    if given is not None:
        motion, licence = copy_of_motion(given), base.loaded.licence
        check_fit(motion, {slot.name: slot for slot in unet_slots(base.unet)})
        _require_agreement(settings, motion.config)
    elif settings.file:
        file = open_motion_module(settings.file)
        for note in file.oddities:
            log.warning("%s: %s", file.source.name, note)
        motion = load_with_parts(file, dtype=torch.float32, fused_qkv=False)
        licence = file.source.metadata.get("licence", "")
        check_fit(motion, {slot.name: slot for slot in unet_slots(base.unet)})
        _require_agreement(settings, motion.config)
    else:
        layout = MotionModuleConfig.for_slots(
            [(slot.name, slot.channels) for slot in unet_slots(base.unet)],
            settings.generation,
            pe_length=settings.pe_length or None,
            mid_block={"auto": None, "yes": True, "no": False}[settings.mid_block],
            num_heads=settings.num_heads,
            unet_groupnorm=None if settings.unet_groupnorm == "auto" else settings.unet_groupnorm,
            module_groupnorm=None if settings.module_groupnorm == "auto" else settings.module_groupnorm,
        )
        if config.objective.beta_schedule != "auto":
            layout = replace(layout, beta_schedule=named_schedule(config))
        _tell_of_generation(settings.generation, layout.base)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            motion = MotionModel(layout, fused_qkv=False)
    require_positions(config, motion.config.pe_length)
    return motion.train(False), Kept(licence, take_control_parts(motion))


def require_fit(config: RunConfig, base: BaseModel) -> None:
    """Refuse a motion module that was made for another base.

    Raises:
        ValueError: as of :func:`check_fit`.
    """
    given = None if base.loaded is None else base.loaded.motion
    if config.stage != "domain_adapter" and (given is not None or config.motion.file):
        slots = {slot.name: slot for slot in unet_slots(base.unet)}
        check_fit(given or open_motion_module(config.motion.file), slots)  # it looks at the layout alone


def require_positions(config: RunConfig, known: int) -> None:
    """Refuse clips longer than a motion module's position table.

    Raises:
        ValueError: says how many frames there may be.
    """
    frames = config.data.frames
    if frames > known:
        fix = f"Train on fewer frames: data.frames (in a node, `frames`) of {known} or less"
        fix += "." if config.motion.file else ", or, for a fresh module, a longer motion.pe_length."
        raise too_many_frames("The motion module", frames, known, fix, "in one clip (data.frames)")


def _tell_of_generation(generation: str, base: str) -> None:
    """Say of a fresh module that it takes the conventions of another family's modules."""
    family = "sdxl" if generation == "sdxl" else "sd15"
    if base in ("sd15", "sdxl") and base != family:
        log.warning(
            "motion.generation = %r: the noise schedule and norms of modules for %s, and the base is %s. It "
            "trains so; for a module like the published ones of this base choose %s.",
            *(generation, family, base, "sdxl" if base == "sdxl" else "v1, v2 or v3"),
        )


def _tell_of_parts(kept: Kept, file: str) -> None:
    """Say of parts that steer by a picture that training has no picture for them."""
    for part in parts_of(kept.controls):
        log.warning(
            "%s: the part that steers it by a picture (%s) is not trained and is exported as it is. Training "
            "shows the module no picture: it learns to animate prompts.",
            Path(file).name or "The motion module",
            NOTES[part].partition(":")[0],
        )


def _require_agreement(settings: MotionConfig, found: MotionModuleConfig) -> None:
    """A layout asked for beside a file must be the file's."""
    asked = {
        "pe_length": (settings.pe_length or None, found.pe_length),
        "mid_block": ({"yes": True, "no": False}.get(settings.mid_block), found.mid_block),
        "unet_groupnorm": (
            None if settings.unet_groupnorm == "auto" else settings.unet_groupnorm,
            found.unet_groupnorm,
        ),
        "module_groupnorm": (
            None if settings.module_groupnorm == "auto" else settings.module_groupnorm,
            found.module_groupnorm,
        ),
    }
    for key, (wanted, there) in asked.items():
        if wanted is not None and wanted != there:
            raise ValueError(
                f"motion.{key} = {wanted!r}, but {settings.file} has {there!r}. Leave it out, or start "
                "afresh."
            )


def named_schedule(config: RunConfig):
    """The noise schedule that the configuration names."""
    from ...motion_core.schedule.beta_schedules import BetaSchedule

    loss = config.objective
    return BetaSchedule(loss.beta_schedule, loss.beta_start, loss.beta_end)


def trained_tensors(denoiser: Denoiser) -> dict[str, torch.Tensor]:
    """Everything a checkpoint must hold, by a name that stays the same over runs."""
    return {name: p for name, p in denoiser.trained.named_parameters() if p.requires_grad}


__all__ = ["Denoiser", "LoraSet", "build", "named_schedule", "trained_tensors"]
