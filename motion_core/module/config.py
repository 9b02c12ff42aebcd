"""What a motion module is made of, read from its file or laid out for a UNet. Nothing is assumed silently.

Two GroupNorm switches decide whether a file computes what it was trained to compute:

- ``unet_groupnorm``: the norms of every ResBlock and of the UNet's output take their statistics over the
  frames of a video together (``joint``; AnimateDiff v1, PIA, HotshotXL) or each frame by itself
  (``per_frame``; all others).
- ``module_groupnorm``: the same question for the motion module's own norm (``joint`` only in the SDXL beta).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from ..schedule.beta_schedules import LINEAR, LINEAR_SDXL, SQRT_LINEAR, SQRT_LINEAR_I2V, BetaSchedule
from .unet import unet_slots

GROUPNORM_MODES = ("per_frame", "joint")
DEFAULT_PE_LENGTH = 32


@dataclass(frozen=True)
class ModuleShape:
    """Sizes of one temporal transformer."""

    channels: int
    """Channels of the UNet feature it sits on."""
    inner: int
    """Width inside, between proj_in and proj_out; equals ``channels`` in every released file."""
    num_blocks: int
    """Transformer blocks in a row; 1 in every released file."""
    num_attentions: int
    """Temporal self-attentions per block; 2, in SparseCtrl 1."""
    ff_inner: int
    """Width of the gated feed-forward, ``4 * inner`` as a rule."""
    pe_length: int
    """Rows of the position table: the most frames that one call may hold."""


@dataclass(frozen=True)
class Generation:
    """What a released family of motion modules was trained with."""

    title: str
    unet_groupnorm: str
    module_groupnorm: str
    beta_schedule: BetaSchedule
    pe_length: int


GENERATIONS: dict[str, Generation] = {
    "v1": Generation("AnimateDiff v1", "joint", "per_frame", SQRT_LINEAR, 24),
    "v2": Generation("AnimateDiff v2", "per_frame", "per_frame", SQRT_LINEAR, 32),
    "v3": Generation("AnimateDiff v3", "per_frame", "per_frame", SQRT_LINEAR, 32),
    "sdxl": Generation("AnimateDiff SDXL beta", "per_frame", "joint", LINEAR_SDXL, 32),
    "hotshotxl": Generation("HotshotXL", "joint", "per_frame", LINEAR, 24),
    "animatelcm": Generation("AnimateLCM", "per_frame", "per_frame", SQRT_LINEAR, 64),
    "animatelcm_i2v": Generation("AnimateLCM-I2V", "per_frame", "per_frame", SQRT_LINEAR_I2V, 64),
    "pia": Generation("PIA", "joint", "per_frame", SQRT_LINEAR, 32),
}


@dataclass(frozen=True)
class MotionModuleConfig:
    """Layout and conventions of a whole motion model: one temporal transformer per slot of the UNet."""

    modules: tuple[tuple[str, ModuleShape], ...]
    """``(name, shape)`` in file order; names as in the original, ``down_blocks.0.motion_modules.0``."""
    generation: str
    """Key of :data:`GENERATIONS`."""
    num_heads: int = 8
    """Attention heads. Not visible in the tensors: metadata, a diffusers config, or 8 as in every release."""
    norm_groups: int = 32
    """Groups of the module's own GroupNorm."""
    unet_groupnorm: str = "per_frame"
    module_groupnorm: str = "per_frame"
    beta_schedule: BetaSchedule = field(default=SQRT_LINEAR)

    def __post_init__(self) -> None:
        if not self.modules:
            raise ValueError("A motion model needs at least one motion module, got none.")
        if self.generation not in GENERATIONS:
            raise ValueError(
                f"Unknown generation {self.generation!r}; expected one of {', '.join(GENERATIONS)}."
            )
        for switch in ("unet_groupnorm", "module_groupnorm"):
            if getattr(self, switch) not in GROUPNORM_MODES:
                raise ValueError(f"{switch} must be one of {GROUPNORM_MODES}, got {getattr(self, switch)!r}.")
        for count, what in ((self.num_heads, "attention heads"), (self.norm_groups, "norm groups")):
            if count < 1:
                raise ValueError(f"A motion model needs at least 1 of {what}, got {count}.")
        for name, shape in self.modules:
            if shape.inner % self.num_heads:
                raise ValueError(
                    f"{name} is {shape.inner} wide, which {self.num_heads} attention heads do not divide. "
                    "The file must state its number of heads (metadata key `num_heads`)."
                )
            if shape.channels % self.norm_groups:
                raise ValueError(
                    f"{name} has {shape.channels} channels, which {self.norm_groups} norm groups do not "
                    "divide."
                )

    @property
    def pe_length(self) -> int:
        """The most frames that one call may hold: the shortest position table of the modules."""
        return min(shape.pe_length for _, shape in self.modules)

    @property
    def mid_block(self) -> bool:
        """Whether a module sits in the UNet's middle block (v2, AnimateLCM)."""
        return any(name.startswith("mid_block.") for name, _ in self.modules)

    @property
    def widths(self) -> dict[str, int]:
        """Channels by module name."""
        return {name: shape.channels for name, shape in self.modules}

    @property
    def base(self) -> str:
        """``sd15``, ``sdxl`` or ``custom``, told from the widths of the downward modules."""
        return base_of(self.widths.items())

    def describe(self) -> str:
        """One line for logs and for the node: what the file was taken for."""
        return (
            f"{GENERATIONS[self.generation].title} ({self.base}, {len(self.modules)} modules, "
            f"{self.pe_length} frames at most, UNet GroupNorm {self.unet_groupnorm}, noise schedule "
            f"{self.beta_schedule})"
        )

    def to_dict(self) -> dict:
        """Plain data, for run records."""
        return asdict(self)

    @classmethod
    def for_unet(cls, unet: nn.Module, generation: str = "v3", **overrides: Any) -> MotionModuleConfig:
        """Lay out a fresh motion model for a ComfyUI UNet; arguments as for :meth:`for_slots`."""
        return cls.for_slots(
            [(slot.name, slot.channels) for slot in unet_slots(unet)], generation, **overrides
        )

    @classmethod
    def for_slots(
        cls,
        slots: Iterable[tuple[str, int]],
        generation: str = "v3",
        *,
        pe_length: int | None = None,
        mid_block: bool | None = None,
        num_heads: int = 8,
        unet_groupnorm: str | None = None,
        module_groupnorm: str | None = None,
        beta_schedule: BetaSchedule | None = None,
    ) -> MotionModuleConfig:
        """Lay out a fresh motion model.

        Args:
            slots: ``(name, channels)`` of every place in the UNet (:func:`~.unet.unet_slots`).
            generation: whose conventions to take; every other argument overrides one of them.
            pe_length: rows of the position table, in frames.
            mid_block: a module in the middle block too; by default as the generation has it.
        """
        if generation not in GENERATIONS:
            raise ValueError(f"Unknown generation {generation!r}; expected one of {', '.join(GENERATIONS)}.")
        known = GENERATIONS[generation]
        with_mid = generation in ("v2", "animatelcm", "animatelcm_i2v") if mid_block is None else mid_block
        length = pe_length or known.pe_length
        return cls(
            modules=tuple(
                (name, ModuleShape(width, width, 1, 2, 4 * width, length))
                for name, width in slots
                if with_mid or not name.startswith("mid_block.")
            ),
            generation=generation,
            num_heads=num_heads,
            unet_groupnorm=unet_groupnorm or known.unet_groupnorm,
            module_groupnorm=module_groupnorm or known.module_groupnorm,
            beta_schedule=beta_schedule or known.beta_schedule,
        )


def base_of(slots: Iterable[tuple[str, int]]) -> str:
    """Name the base family of ``(name, channels)`` pairs: ``sd15``, ``sdxl`` or ``custom``."""
    levels = {int(name.split(".")[1]): width for name, width in slots if name.startswith("down_blocks.")}
    widths = tuple(levels[index] for index in sorted(levels))
    return {(320, 640, 1280, 1280): "sd15", (320, 640, 1280): "sdxl"}.get(widths, "custom")
