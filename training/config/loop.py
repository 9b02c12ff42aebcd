"""Settings of the loss, the optimizer, the loop and what it leaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from .data import SourceConfig


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What is minimised."""

    prediction: Literal["auto", "eps", "v"] = "auto"
    """What the UNet predicts. auto: what ComfyUI says of the checkpoint."""
    beta_schedule: Literal["auto", "sqrt_linear", "linear"] = "auto"
    """ComfyUI's names. auto: the motion module's (sqrt_linear for v1, v2, v3); in stage 1 the image model's
    own."""
    beta_start: float = 0.00085
    """First beta of a named schedule."""
    beta_end: float = 0.012
    """Last beta of a named schedule."""
    caption_dropout: float = 0.1
    """Part of the samples seen with the empty prompt, so that guidance works."""
    min_snr_gamma: float = 0.0
    """Weight min(SNR, gamma)/SNR (eps), min(SNR, gamma)/(SNR+1) (v); 5 is usual, 0 is off as in released
    modules."""
    offset_noise: float = 0.0
    """Strength of noise that is constant over a picture and shared by the frames of a clip."""
    min_timestep: int = 0
    """Lowest timestep drawn."""
    max_timestep: int = 999
    """Highest timestep drawn."""
    timestep_shift: float = 1.0
    """Draw noisier timesteps more often: of the range from min to max, x becomes
    shift x / (1 + (shift - 1) x). 1 draws evenly, as released modules. Frames repeat what they show, so where
    things are stays readable up to more noise than in one picture, and is decided there; 3 to 4 helps where
    clips fall into parts that do not agree."""
    debiased: float = 0.0
    """Stage 3: beta of the debiased loss (MotionDirector), which weakens what a clip looks like; 1 is usual,
    0 is off."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How weights move."""

    name: str = "AdamW"
    """AdamW, AdamW8bit, Adafactor, Lion, Prodigy, AdamWScheduleFree, ... or an import path
    `package.module.Class`."""
    lr: float = 1e-4
    """Peak learning rate."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Passed on as they are, e.g. { betas = [0.9, 0.999], weight_decay = 0.01 }."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """After warm-up: stay, or fall to `final_lr` by half a cosine or a straight line."""
    final_lr: float = 0.0
    """Where a falling schedule ends."""
    warmup_steps: int = 0
    """Steps over which the rate rises from 0."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm; 0 is off."""
    lora_plus_ratio: float = 1.0
    """LoRA+: how much faster `up` learns than `down`."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The loop."""

    steps: int = 1000
    """Optimizer steps in all."""
    stop_at: int = 0
    """Save and stop after this step, to go on with --resume: for runs in parts that differ in a setting. The
    learning rate is that of the whole run. 0 is off."""
    batch_size: int = 1
    """Clips per process and micro-step. Clips per step = batch_size * accumulation * processes."""
    accumulation: int = 1
    """Micro-steps per optimizer step; equal to one batch of the whole size."""
    shard: bool = False
    """Stage 2 on several processes: each keeps a part of the weights and of the optimizer's state (FSDP)."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of computation and of the frozen base. Trained weights are always fp32."""
    gradient_checkpointing: bool = False
    """Recompute blocks in the backward pass: less memory for about a third more time."""
    ema_decay: float = 0.0
    """Average of the weights over about 1/(1-decay) steps, exported in place of the last ones; 0 is off."""
    channels_last: bool = False
    """Memory layout of the UNet's convolutions; faster on many devices."""
    threads: int = 0
    """CPU threads of torch; 0 leaves its own choice."""
    tf32: bool = True
    """Allow TF32 matrix products on NVIDIA GPUs."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """States to resume from."""

    every: int = 500
    """Steps between two; one more at the end and on Ctrl-C or SIGTERM."""
    keep: int = 3
    """The newest this many are kept."""


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """Loss on held-out clips with the same noise and timesteps each time: the curve to trust."""

    every: int = 500
    """Steps between two; 0 is off."""
    fraction: float = 0.0
    """Part of the files held out of training, chosen by their content."""
    sources: tuple[SourceConfig, ...] = ()
    """Or separate held-out files."""
    max_clips: int = 16
    """At most this many clips."""
    bins: int = 4
    """Timestep ranges; one fixed timestep of each is measured per clip."""


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Rendered clips with fixed seeds during training."""

    every: int = 0
    """Steps between two, beginning with step 0; 0 is off."""
    prompts: tuple[str, ...] = ()
    """One clip each. Parentheses are no weights, here as in captions."""
    prompt_file: str = ""
    """A text file with a prompt per line, besides."""
    negative: str = ""
    """Negative prompt."""
    steps: int = 20
    """Sampling steps (DDIM)."""
    cfg: float = 7.5
    """Guidance scale."""
    seed: int = 0
    """Of the first clip; the next ones count up."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """The file that leaves the run."""

    folder: str = ""
    """Also copied here at the end, e.g. ComfyUI's models/animatediff_models."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float16"
    """Of the exported weights."""
    licence: str = ""
    """Written to the metadata. Empty: that of the file that training starts from."""
    every: int = 0
    """Steps between intermediate exports; 0: only at the end."""
