"""What is looked at on the way: validation, rendered clips, and exported files, the last one included."""

from __future__ import annotations

import itertools
import logging
import shutil
from pathlib import Path

import torch

from ...motion_core.weights import loss_curve
from ..data.dataset import Batch, stacked
from ..data.encode import sample_prompts
from ..model.sharding import gathered
from .export import write
from .losses import read_losses
from .parts import Parts
from .prepare import samples_of
from .report import Report
from .sampling import Model, ddim, save_animation, to_images
from .validate import validation_loss

log = logging.getLogger(__name__)


class Unfinished(Exception):
    """A clip or a measurement is given up, because the run is to end."""


def _go_on(parts: Parts) -> None:
    """Raises:
    Unfinished: the run is to end. Of several processes none gives up alone.
    """
    if parts.accelerator.num_processes == 1 and parts.watcher.wants_stop():
        raise Unfinished


def _heard(parts: Parts, error: Exception) -> None:
    if not isinstance(error, Unfinished):
        parts.watcher.interrupted()


def look(parts: Parts, report: Report) -> None:
    """Validation, samples and intermediate exports that are due."""
    config, step = parts.config, parts.step
    last = step == config.train.steps
    every = config.validation.every
    if parts.held is not None and every and (step % every == 0 or last):
        try:
            with parts.result_weights(), torch.no_grad():
                values = validate(parts)
        except (Unfinished, *parts.watcher.interrupts) as error:
            _heard(parts, error)
            return
        report.values(step, values)
        log.info("step %d  validation loss %.5f", step, values["validation/loss"])
    if config.samples.every and (step % config.samples.every == 0 or last):
        with parts.result_weights():
            _render(parts, report)
    if config.export.every and step and step % config.export.every == 0 and not last:
        export(parts, Path(config.output) / "exports" / f"{config.name}-{step:08d}.safetensors", final=False)


def validate(parts: Parts) -> dict[str, float]:
    """Validation losses of the weights as they are."""

    config, done = parts.config, itertools.count()
    total = min(len(parts.held), config.validation.max_clips) * config.validation.bins

    def predict(batch: Batch, latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        _go_on(parts)
        parts.watcher.doing("Validating", next(done), total)
        with parts.denoiser.attached(latents.shape[1]):
            return parts.predict(batch, latents, timesteps)

    return validation_loss(predict, parts.objective, parts.held, config.validation, config.seed)


def _render(parts: Parts, report: Report) -> None:
    """The prompts' clips, with the same noise each time. One process renders, the others wait; where
    weights are sharded, all render, since each has a part of what it takes."""
    config, step = parts.config, parts.step
    samples = config.samples
    width, height = config.data.resolutions[0]
    shape = (config.frames, 4, height // 8, width // 8)
    prompts = sample_prompts(config) if parts.main or config.train.shard else ()
    for number, prompt in enumerate(prompts):
        try:
            latents = ddim(
                _conditioned(parts, [prompt, samples.negative], (width, height)),
                parts.objective,
                shape,
                steps=samples.steps,
                cfg=samples.cfg,
                seed=samples.seed + number,
            )
            frames = to_images(parts.denoiser.base.decode_latents(latents)) if parts.main else []
        except (Unfinished, *parts.watcher.interrupts) as error:
            _heard(parts, error)
            break
        if not parts.main:
            continue
        fps = (config.data.fps or 8.0) / config.data.stride
        save_animation(samples_of(config) / f"step-{step:08d}-{number:02d}.webp", frames, fps)
        report.animation(step, f"samples/{number:02d}", frames, round(1000 / fps))
        parts.watcher.rendered(step, frames, fps)
    parts.accelerator.wait_for_everyone()


def _conditioned(parts: Parts, prompts: list[str], size: tuple[int, int]) -> Model:
    """The model with fixed prompts, for the sampler."""
    device, base, done = parts.accelerator.device, parts.denoiser.base, itertools.count()
    states = [parts.encodings.text_states(prompt) for prompt in prompts]
    context = stacked([text for text, _ in states]).to(device)
    pooled = None if states[0][1] is None else torch.stack([vector for _, vector in states])
    y = base.vector_condition(pooled, *size)
    y = None if y is None else y.to(device)

    def call(latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        _go_on(parts)
        parts.watcher.doing("Rendering a sample clip", next(done), parts.config.samples.steps)
        with parts.denoiser.attached(latents.shape[1]):
            return parts.denoiser(latents.to(device), timesteps.to(device), context, y)

    return call


def export(parts: Parts, path: Path, final: bool) -> Path:
    """Write the weights as they would be used; the final file is also copied to `export.folder`."""
    config, schedule = parts.config, parts.objective.schedule
    facts = {
        "steps": str(parts.step),
        "prediction": parts.objective.prediction,
        "beta_schedule": schedule.name,
        "beta_start": repr(schedule.start),
        "beta_end": repr(schedule.end),
        "data_fingerprint": parts.fingerprint,
        "base_model_hash": parts.encodings.base_hash,
        loss_curve.KEY: loss_curve.as_text(read_losses(Path(config.output))),
    }
    with parts.result_weights(), gathered(parts.denoiser):
        if parts.main:
            write(path, config, parts.denoiser, facts)
            if final:
                log.info("Wrote %s", path)
                if config.export.folder:
                    _copy(path, Path(config.export.folder) / path.name)
    parts.accelerator.wait_for_everyone()
    return path


def _copy(source: Path, target: Path) -> None:
    """Copy a finished file under a temporary name first."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.copyfile(source, temporary)
    temporary.replace(target)
    log.info("Copied to %s", target)
