"""Everything that a training run is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .check import check_run
from .data import CacheConfig, CameraConfig, DataConfig
from .loop import (
    CheckpointConfig,
    ExportConfig,
    ObjectiveConfig,
    OptimizerConfig,
    SampleConfig,
    TrainConfig,
    ValidationConfig,
)
from .model import BaseConfig, LoraConfig, MotionConfig

Stage = Literal["domain_adapter", "motion_module", "motion_lora"]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run."""

    stage: Stage
    """domain_adapter (LoRA on single frames), motion_module, or motion_lora."""
    name: str
    """Name of the exported file, without ending."""
    output: str
    """Folder of the run: checkpoints, logs, exports, resolved config."""
    base: BaseConfig
    """The frozen image model."""
    seed: int = 42
    """Of everything random."""
    motion: MotionConfig = field(default_factory=MotionConfig)
    """The motion module."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Low-rank layers."""
    data: DataConfig = field(default_factory=DataConfig)
    """Clips and captions."""
    camera: CameraConfig = field(default_factory=CameraConfig)
    """Made camera motion."""
    cache: CacheConfig = field(default_factory=CacheConfig)
    """Stored encodings."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """Loss."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimizer and learning rate."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The loop."""
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    """States."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """Held-out loss."""
    samples: SampleConfig = field(default_factory=SampleConfig)
    """Rendered clips."""
    export: ExportConfig = field(default_factory=ExportConfig)
    """Result."""

    def __post_init__(self) -> None:
        check_run(self)

    @property
    def frames(self) -> int:
        """Frames per training sample: 1 in stage 1."""
        return 1 if self.stage == "domain_adapter" else self.data.frames

    @property
    def cache_folder(self) -> Path:
        """Where stored encodings lie."""
        return Path(self.cache.folder or Path(self.output) / "cache")
