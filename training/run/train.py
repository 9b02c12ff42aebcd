"""The training run: build, the visible loop, close.

    accelerate launch -m animatediff_flipbook.training train CONFIG.toml      several processes or machines
    python -m animatediff_flipbook.training train CONFIG.toml                 one process

The three stages differ only in what is trained (:mod:`denoiser`); everything here is the same for all.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import torch

from ..config import RunConfig, to_dict
from ..data.dataset import Batch
from ..files import write_json
from ..model.loaded import Loaded
from ..model.sharding import whole
from . import engine
from .guards import Guards
from .looking import export, look
from .objective import bin_of
from .optimizing import learning_rate, set_learning_rate
from .parts import Parts, build_parts, describe
from .preflight import check_files, check_folders
from .report import Report, process_memory
from .saving import find_state, lock_output, restore, save
from .stopping import Stopping, kept_when_stopped
from .watching import Watcher

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """What a run leaves."""

    file: Path | None
    """The exported weights; None if the run was interrupted or stopped by `train.stop_at`."""
    steps: int
    """Optimizer steps done."""
    loss: float
    """Mean loss of the last steps, at most 50."""


def train(
    config: RunConfig, *, resume: bool = False, loaded: Loaded | None = None, watcher: Watcher | None = None
) -> Result:
    """Run a training from the configuration to the exported file.

    Args:
        config: the run.
        resume: go on from the newest complete state in `output`, if there is one.
        loaded: take these in place of the base's and the motion module's files.
        watcher: told how far the run has come; without one, the terminal is.

    Raises:
        FileNotFoundError, ValueError: what is configured cannot work.
        NonFinite: loss or gradients became infinite; the last good state is kept.
    """
    run = Run(config, resume, loaded, watcher)
    try:
        return run.loop()
    finally:
        run.close()


class Run:
    """One training run."""

    def __init__(
        self,
        config: RunConfig,
        resume: bool,
        loaded: Loaded | None = None,
        watcher: Watcher | None = None,
    ) -> None:
        self.config = config
        self.watcher = watcher or Watcher()
        self.folder = Path(config.output)
        self.report: Report | None = None
        self.parts: Parts | None = None
        self.guards: Guards | None = None
        self.stopping = Stopping(self.watcher.wants_stop)
        self.accelerator = engine.make_accelerator(config)
        # Asked at the end, when another run may have reset it.
        self.num_processes = self.accelerator.num_processes
        self._lock: IO | None = None
        try:
            with kept_when_stopped():
                self._build(config, resume, loaded, on_terminal=watcher is None)
        except BaseException:
            self.close()
            raise

    def _build(self, config: RunConfig, resume: bool, loaded: Loaded | None, on_terminal: bool) -> None:
        check_folders(config)
        if self.accelerator.is_main_process:
            self._lock = lock_output(config)
        state = find_state(config, self.accelerator, resume)
        check_files(config, loaded)
        self.parts = build_parts(config, self.accelerator, loaded, self.watcher)
        if state is not None:
            restore(self.parts, state)
        self.guards = Guards(self.parts)
        describe(self.parts)
        start, main = self.parts.step, self.parts.main
        self.report = Report(self.folder, config.train.steps, start, main, on_terminal=on_terminal)
        if self.parts.main:
            write_json(self.folder / "config.json", to_dict(config))

    def loop(self) -> Result:
        """From the first step, or the resumed one, to the end."""
        config, parts, steps = self.config, self.parts, self.config.train.steps
        end = min(config.train.stop_at or steps, steps)
        with self.stopping.signals():
            if parts.step == 0:
                look(parts, self.report)
            stop = self.stopping.by_any(self.accelerator)
            while parts.step < end and not stop:
                began = time.monotonic()
                try:
                    values = self.take_step(parts.step)
                except self.watcher.interrupts:
                    self.watcher.interrupted()
                    break
                parts.step += 1
                values["seconds"] = time.monotonic() - began
                self.report.step(parts.step, values)
                self.watcher.stepped(parts.step, values)
                stop = self.stopping.by_any(self.accelerator)
                if not stop:
                    look(parts, self.report)
                    stop = self.stopping.by_any(self.accelerator)
                if parts.step % config.checkpoints.every == 0 or parts.step == steps:
                    with self.stopping.uninterrupted():
                        save(parts)
            with self.stopping.uninterrupted():
                interrupted = parts.step < steps
                if interrupted and parts.last_good != parts.step:
                    save(parts)
                path = self.folder / f"{config.name}.safetensors"
                file = None if interrupted else export(parts, path, final=True)
        if interrupted:
            how = "Stopped by train.stop_at" if parts.step >= end else "Interrupted"
            log.warning(
                "%s after step %d; the same run goes on from there (as a command: --resume)", how, parts.step
            )
        recent = parts.losses[-50:]
        return Result(file, parts.step, sum(recent) / len(recent) if recent else math.nan)

    def take_step(self, step: int) -> dict[str, float]:
        """One optimizer step on one global batch."""
        parts, accelerator, config = self.parts, self.accelerator, self.config.train
        optimizer = parts.optimizer
        indices, keys = parts.schedule.step(step)
        rate = learning_rate(self.config.optimizer, step, config.steps)
        set_learning_rate(optimizer, rate)
        engine.reseed(self.config.seed, step, accelerator.process_index)
        clip_losses, timesteps = [], []
        norm = 0.0
        for micro in range(config.accumulation):
            # Micro-step m, process r: the slice number m * processes + r. Any split sees the same global
            # batch.
            part = micro * accelerator.num_processes + accelerator.process_index
            mine = slice(part * config.batch_size, (part + 1) * config.batch_size)
            batch = parts.data.load(indices[mine], keys[mine])
            with accelerator.accumulate(parts.model), parts.denoiser.attached(batch.latents.shape[1]):
                noised = parts.objective.noised(batch.latents, batch.keys)
                losses = self._losses_of(batch, noised)
                gathered = accelerator.gather(losses.detach())
                self.guards.require_finite(gathered, step, batch, losses.detach())
                accelerator.backward(losses.mean())
                if accelerator.sync_gradients:
                    limit = self.config.optimizer.max_grad_norm or math.inf
                    norm = float(whole(accelerator.clip_grad_norm_(parts.weights.values(), limit)))
                    self.guards.require_gradients(norm, step, batch)
                optimizer.step()
                optimizer.zero_grad()
            clip_losses += gathered.tolist()
            timesteps += accelerator.gather(noised.timesteps.to(accelerator.device)).tolist()
        self.guards.count_skipped(step, batch)
        if parts.ema is not None and not optimizer.step_was_skipped:
            parts.ema.update(parts.weights, step)
        loss = sum(clip_losses) / len(clip_losses)
        parts.losses.append(loss)
        values = {"loss": loss, "grad_norm": norm, "lr": rate, "epoch": step / parts.schedule.steps_per_epoch}
        values |= _by_bin(clip_losses, timesteps)
        if accelerator.device.type == "cuda":
            values["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        elif memory := process_memory():
            values["memory_gib"] = memory / 2**30
        return values

    def _losses_of(self, batch: Batch, noised) -> torch.Tensor:
        """Loss of each clip of a batch, (B,)."""
        device = self.accelerator.device
        prediction = self.parts.predict(batch, noised.latents, noised.timesteps)
        noised = replace(noised, target=noised.target.to(device), weights=noised.weights.to(device))
        mask = None if batch.mask is None else batch.mask.to(device)
        return self.parts.objective.losses(prediction, noised, mask, batch.keys)

    def close(self) -> None:
        """Flush logs and let go of memory."""
        with ExitStack() as last:  # whatever cannot be done, such as writing to a full disk, the rest is
            if self._lock is not None:
                last.callback(self._lock.close)
            last.callback(engine.close, self.accelerator, self.num_processes)
            # What accelerate has wrapped refers to itself; it is collected when nothing else refers to it.
            self.parts = self.guards = None
            if self.report is not None:
                last.callback(self.report.close)


def _by_bin(losses: Sequence[float], timesteps: Sequence[int], bins: int = 4) -> dict[str, float]:
    """Mean loss by range of timesteps: the raw mean is ruled by which timesteps were drawn."""
    result = {}
    for number in range(bins):
        found = [loss for loss, t in zip(losses, timesteps, strict=True) if bin_of(t, bins) == number]
        if found:
            result[f"loss/t{number * 1000 // bins:03d}-{(number + 1) * 1000 // bins - 1:03d}"] = sum(
                found
            ) / len(found)
    return result
