"""What a run is made of, put together in order: clips, model, objective, optimizer."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from ...motion_core.schedule.beta_schedules import BetaSchedule
from ..config import RunConfig
from ..data.cache import digest
from ..data.dataset import Batch, ClipData, Schedule
from ..data.encode import Encodings
from ..data.live import LiveEncodings
from ..data.media import MediaFile
from ..model.base_model import BaseModel, require_finite_weights
from ..model.denoiser import Denoiser, build, named_schedule, trained_tensors
from ..model.loaded import Loaded
from ..model.sharding import shard
from .objective import Objective
from .optimizing import Ema, evaluation_weights, make_optimizer
from .prepare import fill_cache
from .report import facts_line
from .watching import Watcher

log = logging.getLogger(__name__)


@dataclass
class Parts:
    """The parts of a run, and how far it has come."""

    config: RunConfig
    """What it was told."""
    accelerator: Accelerator
    """Its engine."""
    encodings: Encodings
    """Latents and texts."""
    data: ClipData
    """Clips to train on."""
    held: ClipData | None
    """Clips for validation, if there are any."""
    fingerprint: str
    """Of the clips and captions."""
    denoiser: Denoiser
    """The model."""
    model: nn.Module
    """The same as the engine calls it."""
    objective: Objective
    """The loss."""
    weights: Mapping[str, nn.Parameter]
    """What is trained."""
    optimizer: Any
    """Prepared by the engine."""
    ema: Ema | None
    """Average of the weights."""
    global_batch: int
    """Clips per step."""
    schedule: Schedule
    """Which clips belong to which step."""
    watcher: Watcher
    """Looks on."""
    step: int = 0
    """Optimizer steps done."""
    losses: list[float] = field(default_factory=list)
    """Of the steps so far."""
    last_good: int | None = None
    """Step of the newest state."""

    @property
    def main(self) -> bool:
        """Whether this process speaks and writes."""
        return self.accelerator.is_main_process

    def predict(self, batch: Batch, latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """The model's answer for a batch, its motion modules attached by the caller."""
        device = self.accelerator.device
        y = self.denoiser.base.vector_condition(batch.pooled, *batch.size)
        return self.model(
            latents.to(device),
            timesteps.to(device),
            batch.context.to(device),
            None if y is None else y.to(device),
        )

    @contextmanager
    def result_weights(self) -> Iterator[None]:
        """The model as it would be exported: averaged weights, if there are any, and no dropout."""
        with ExitStack() as stack:
            stack.enter_context(evaluation_weights(self.optimizer, self.weights))
            if self.ema is not None:
                stack.enter_context(self.ema.applied(self.weights))
            self.denoiser.eval()
            stack.callback(self.denoiser.train)
            yield


def build_parts(
    config: RunConfig, accelerator: Accelerator, loaded: Loaded | None, watcher: Watcher
) -> Parts:
    """Encode what is missing, load the model, put together what trains it."""
    encodings, files, held_files = fill_cache(config, accelerator, loaded, watcher)
    data = ClipData(config, encodings, encodings.tracks(files))
    held = _held_clips(config, encodings, held_files) if held_files else None
    fingerprint = _check_data(config, encodings, data)

    watcher.doing("Preparing the model")
    looking = config.samples.every > 0 and accelerator.is_main_process
    live = isinstance(encodings, LiveEncodings)
    base = BaseModel(
        *(config.base, accelerator.device, config.train.precision),
        encoders=live,
        decoder=looking,
        loaded=loaded,
    )
    if live:
        encodings.base = base
    denoiser = build(config, base)
    if denoiser.motion is not None:
        require_finite_weights(denoiser.motion, "motion.file", "motion module")
    if config.stage != "motion_module":
        require_finite_weights(denoiser.trained, "lora.file", "layers")
    if config.train.channels_last:
        base.unet.to(memory_format=torch.channels_last)
    prediction = base.prediction if config.objective.prediction == "auto" else config.objective.prediction
    objective = Objective(config.objective, schedule_of(config, denoiser), prediction)

    if config.train.shard:
        shard(denoiser, accelerator.device, accelerator.num_processes)
    weights = trained_tensors(denoiser)
    optimizer = make_optimizer(denoiser.trained, config.optimizer)
    global_batch = config.train.batch_size * config.train.accumulation * accelerator.num_processes
    return Parts(
        config=config,
        accelerator=accelerator,
        encodings=encodings,
        data=data,
        held=held,
        fingerprint=fingerprint,
        denoiser=denoiser,
        # What is sharded needs accelerate's autocast, but no DDP around it.
        model=accelerator.prepare_model(denoiser, evaluation_mode=config.train.shard),
        objective=objective,
        weights=weights,
        optimizer=accelerator.prepare_optimizer(optimizer),
        ema=Ema(weights, config.train.ema_decay) if config.train.ema_decay else None,
        global_batch=global_batch,
        schedule=Schedule(data, config.seed, global_batch),
        watcher=watcher,
    )


def describe(parts: Parts) -> None:
    """Log what is trained on what."""
    log.info(
        "Training %s: %s",
        parts.config.stage,
        facts_line(
            values=sum(w.numel() for w in parts.weights.values()),
            tensors=len(parts.weights),
            clips=len(parts.data),
            clips_per_step=parts.global_batch,
            steps_per_epoch=parts.schedule.steps_per_epoch,
            device=parts.accelerator.device,
            processes=parts.accelerator.num_processes,
        ),
    )


def schedule_of(config: RunConfig, denoiser: Denoiser) -> BetaSchedule:
    """The noise schedule: the motion module's, or, where there is none (stage 1), the image model's own.

    A domain adapter changes the image model alone. Trained under another schedule it would learn to make up
    for that too, and what it made up for would be gone when a user turns it down.
    """
    own = BetaSchedule(*denoiser.base.beta_schedule)
    natural = own if denoiser.motion is None else denoiser.motion.config.beta_schedule
    if config.objective.beta_schedule == "auto":
        chosen = natural
    else:
        chosen = named_schedule(config)
        if denoiser.motion is not None and natural != chosen:
            raise ValueError(
                f"objective.beta_schedule is {chosen}, but the motion module was made for {natural}. "
                "Leave it on 'auto'."
            )
    log.info("Noise schedule %s; the image model's own is %s", chosen, own)
    return chosen


def _held_clips(config: RunConfig, encodings: Encodings, held: list[MediaFile]) -> ClipData | None:
    """Clips for validation; a run does without where none can be used."""
    try:
        return ClipData(config, encodings, encodings.tracks(held))
    except ValueError:
        log.warning("There is no validation: of the held-out files none is usable, for the reasons above")
        return None


def _check_data(config: RunConfig, encodings: Encodings, data: ClipData) -> str:
    """Whether the clips go together; their fingerprint."""
    if config.train.batch_size > 1:
        data.require_common_length()
    if not encodings.has_variance(data.tracks[0]):
        log.info("This VAE gives points, no distributions: latents are the same in every epoch")
    listed = [(t.key, t.caption, t.num_frames, t.bucket) for t in data.tracks]
    return digest(json.dumps(listed), 32)
