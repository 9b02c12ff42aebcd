"""Everything that a training run is told, and which values cannot work, with the rule that they break."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .data import DIRECTIONS, CacheConfig, CameraConfig, DataConfig
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

AT_LEAST = {
    0: (
        "motion.pe_length", "lora.alpha", "objective.offset_noise", "objective.debiased",
        "optimizer.final_lr", "optimizer.warmup_steps", "optimizer.max_grad_norm", "train.stop_at",
        "train.threads",
        "validation.every", "samples.every", "export.every",
    ),
    1: (
        "motion.num_heads", "lora.rank", "data.frames", "data.stride", "data.min_frames",
        "data.max_frames_per_file", "camera.clips_per_file", "cache.shard_megabytes", "train.steps",
        "train.batch_size", "train.accumulation", "checkpoints.every", "checkpoints.keep",
        "validation.max_clips", "samples.steps",
    ),
}  # fmt: skip
"""Settings whose only rule is how small they may be."""


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
        _check(self)

    @property
    def frames(self) -> int:
        """Frames per training sample: 1 in stage 1."""
        return 1 if self.stage == "domain_adapter" else self.data.frames

    @property
    def cache_folder(self) -> Path:
        """Where stored encodings lie."""
        return Path(self.cache.folder or Path(self.output) / "cache")


def _check(config: RunConfig) -> None:
    """Refuse what cannot work, before anything is loaded."""

    def require(condition: bool, key: str, value: Any, rule: str) -> None:
        if not condition:
            raise ValueError(f"{key} = {value!r}: {rule}")

    data, train, loss = config.data, config.train, config.objective
    require(
        bool(data.sources), "data.sources", list(data.sources), "name at least one source ([[data.sources]])."
    )
    for least, keys in AT_LEAST.items():
        for key in keys:
            section, name = key.split(".")
            value = getattr(getattr(config, section), name)
            require(value >= least, key, value, f"must be at least {least}.")
    for key, sources in (("data", data.sources), ("validation", config.validation.sources)):
        for index, source in enumerate(sources):
            where = f"{key}.sources.{index}"
            require(bool(source.path.strip()), f"{where}.path", source.path, "name a folder or a file.")
            require(source.repeats >= 1, f"{where}.repeats", source.repeats, "must be at least 1.")
    require(bool(data.resolutions), "data.resolutions", [], "name at least one, such as [[256, 256]].")
    require(
        re.fullmatch(r"[^/\\]+", config.name) is not None and config.name.strip(". ") != "",
        *("name", config.name, "must be a plain file name."),
    )
    require(bool(config.output.strip()), "output", config.output, "name the folder of the run.")
    for width, height in data.resolutions:
        ok = width > 0 and height > 0 and width % 8 == 0 and height % 8 == 0
        require(
            ok, "data.resolutions", [width, height], "sides must be multiples of 8 pixels (the VAE's factor)."
        )
    require(
        data.frames > 1 or config.stage == "domain_adapter",
        "data.frames",
        data.frames,
        "one frame does not move, at least 2 are needed (stage domain_adapter takes single frames).",
    )
    require(data.fps >= 0, "data.fps", data.fps, "must be positive, or 0 for every source frame.")
    require(
        re.fullmatch(r"#[0-9a-fA-F]{6}", data.background) is not None,
        "data.background",
        data.background,
        "write a colour as #rrggbb.",
    )
    flips = data.horizontal_flip and (config.stage == "motion_lora" or config.camera.direction)
    require(
        not flips,
        "data.horizontal_flip",
        True,
        "a mirrored clip moves the other way, so camera motion is never flipped.",
    )
    directions = ("", *DIRECTIONS)
    require(
        config.camera.direction in directions,
        "camera.direction",
        config.camera.direction,
        f"choose one of {', '.join(DIRECTIONS)}, or leave it empty.",
    )
    limit = 1.0 if config.camera.direction.startswith(("zoom", "pan")) else 4.0
    require(
        0 < config.camera.speed < limit,
        "camera.speed",
        config.camera.speed,
        f"must lie between 0 and {limit:g}.",
    )
    require(
        config.stage != "motion_lora" or bool(config.motion.file),
        "motion.file",
        "",
        "a MotionLoRA is trained on top of a motion module: name its file.",
    )
    require(
        config.stage != "domain_adapter" or not config.camera.direction,
        "camera.direction",
        config.camera.direction,
        "stage domain_adapter sees single frames.",
    )
    require(
        config.stage != "domain_adapter" or not config.base.domain_adapter,
        "base.domain_adapter",
        config.base.domain_adapter,
        "stage 1 makes the adapter; to go on with one, set lora.file.",
    )
    span = 1 if config.camera.direction else (config.frames - 1) * data.stride + 1
    require(
        span <= data.max_frames_per_file,
        "data.max_frames_per_file",
        data.max_frames_per_file,
        f"a clip of data.frames = {config.frames} with data.stride = {data.stride} spans {span} frames, "
        "so no file would have enough.",
    )
    samples = config.samples
    require(
        not samples.every or bool(samples.prompts or samples.prompt_file),
        "samples.every",
        samples.every,
        "there is nothing to render: write samples.prompts or samples.prompt_file.",
    )
    require(0 <= config.lora.dropout < 1, "lora.dropout", config.lora.dropout, "must lie in [0, 1).")
    known = ("to_q", "to_k", "to_v", "to_out.0")
    for target in config.lora.targets:
        require(target in known, "lora.targets", target, f"choose from {', '.join(known)}.")
    require(bool(config.lora.targets), "lora.targets", [], f"choose from {', '.join(known)}.")
    require(
        0 <= loss.caption_dropout <= 1,
        "objective.caption_dropout",
        loss.caption_dropout,
        "must lie in [0, 1].",
    )
    ordered = 0 <= loss.min_timestep <= loss.max_timestep <= 999
    require(
        ordered,
        "objective.min_timestep, max_timestep",
        (loss.min_timestep, loss.max_timestep),
        "must satisfy 0 <= min <= max <= 999.",
    )
    require(
        0 < loss.beta_start <= loss.beta_end < 1,
        "objective.beta_start, beta_end",
        (loss.beta_start, loss.beta_end),
        "must satisfy 0 < start <= end < 1.",
    )
    require(loss.timestep_shift > 0, "objective.timestep_shift", loss.timestep_shift, "must be positive.")
    require(
        loss.min_snr_gamma >= 0,
        "objective.min_snr_gamma",
        loss.min_snr_gamma,
        "must be positive, or 0 for off.",
    )
    require(
        loss.debiased == 0 or config.stage == "motion_lora",
        "objective.debiased",
        loss.debiased,
        "belongs to stage motion_lora.",
    )
    require(
        not train.shard or config.stage == "motion_module",
        "train.shard",
        train.shard,
        "belongs to stage motion_module: LoRA layers are too small to divide.",
    )
    require(
        not train.shard or train.precision != "fp16",
        "train.shard",
        train.shard,
        "goes with fp32 or bf16: the fp16 scaler looks at one process's part of the gradients.",
    )
    require(0 <= train.ema_decay < 1, "train.ema_decay", train.ema_decay, "must lie in [0, 1).")
    require(config.optimizer.lr > 0, "optimizer.lr", config.optimizer.lr, "must be positive.")
    ratio = config.optimizer.lora_plus_ratio
    require(ratio > 0, "optimizer.lora_plus_ratio", ratio, "must be positive.")
    require(
        0 <= config.validation.fraction < 1,
        "validation.fraction",
        config.validation.fraction,
        "must lie in [0, 1).",
    )
    bins = config.validation.bins
    require(1 <= bins <= 1000, "validation.bins", bins, "must lie in 1 to 1000, the number of timesteps.")
