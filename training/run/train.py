"""The training run: build, the visible loop, close.

    accelerate launch -m animatediff_flipbook.training train CONFIG.toml      several processes or machines
    python -m animatediff_flipbook.training train CONFIG.toml                 one process

The three stages differ only in what is trained (:mod:`denoiser`); everything here is the same for all.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, GradientAccumulationPlugin, InitProcessGroupKwargs

from ...motion_core.schedule.beta_schedules import BetaSchedule
from ..config import RunConfig, to_dict
from ..data.cache import digest
from ..data.dataset import Batch, ClipData, Schedule, stacked
from ..data.encode import Encodings, LiveEncodings, sample_prompts
from ..data.media import MediaFile, content_hashes, list_media
from ..files import write_json
from ..model.base_model import BaseModel, file_hash, pick_device
from ..model.denoiser import Denoiser, build, named_schedule, trained_tensors
from ..model.sharding import gathered, like, shard, state_like, whole
from .export import write
from .objective import Objective, bin_of
from .optimizing import Ema, evaluation_weights, learning_rate, make_optimizer, set_learning_rate
from .preflight import check_files
from .report import Report, facts_line, process_memory
from .sampling import Model, ddim, save_animation, to_images
from .states import State, clean_up, has_states, newest_state, pack_optimizer, save_state, unpack_optimizer
from .validate import held_out, validation_loss

log = logging.getLogger(__name__)

SKIPPED_STEPS_ALLOWED = 25
"""In a row, by the fp16 scaler: halved as often, its scale of 65536 is below any that could help."""

FIXED_SETTINGS = {
    **dict.fromkeys(
        (
            *("motion.generation", "motion.num_heads", "motion.pe_length", "motion.mid_block"),
            *("motion.unet_groupnorm", "motion.module_groupnorm", "lora.alpha"),
        ),
        "the weights mean something else",
    ),
    **dict.fromkeys(
        ("optimizer.name", "optimizer.arguments", "optimizer.lora_plus_ratio"),
        "the optimizer's state would not fit",
    ),
    **dict.fromkeys(
        ("objective.prediction", "objective.beta_schedule"), "the weights have learned to predict otherwise"
    ),
}
"""Beginnings of settings that a state cannot be resumed without, and why."""

STEPS_TO_GRADIENT = 3
"""After as many steps every trained tensor must have had a gradient: fresh LoRA factors and fresh modules
behind a zero projection get theirs in the second."""


class NonFinite(FloatingPointError):
    """Loss or gradients are no numbers any more."""


@dataclass(frozen=True)
class Result:
    """What a run leaves."""

    file: Path | None
    """The exported weights; None if the run was interrupted or stopped by `train.stop_at`."""
    steps: int
    """Optimizer steps done."""
    loss: float
    """Mean loss of the last steps, at most 50."""


def train(config: RunConfig, *, resume: bool = False) -> Result:
    """Run a training from the configuration to the exported file.

    Args:
        config: the run.
        resume: go on from the newest complete state in `output`, if there is one.

    Raises:
        FileNotFoundError, ValueError: what is configured cannot work.
        NonFinite: loss or gradients became infinite; the last good state is kept.
    """
    run = _Run(config, resume)
    try:
        return run.loop()
    finally:
        run.close()


def make_accelerator(config: RunConfig) -> Accelerator:
    """The engine: one process without any set-up, several under ``accelerate launch``."""
    _refuse_lonely_launch()
    device = pick_device(config.base.device)
    if (config.stage, config.train.precision, device.type) == ("motion_module", "fp16", "cpu"):
        raise ValueError(
            "train.precision = 'fp16' needs a GPU in stage motion_module. Use 'fp32', or 'bf16' on a "
            "processor that has it."
        )
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.train.tf32
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    accelerator = Accelerator(
        mixed_precision={"fp32": "no"}.get(config.train.precision, config.train.precision),
        cpu=device.type == "cpu",
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=config.train.accumulation, sync_with_dataloader=False
        ),
        # The position tables are constants, there is nothing to broadcast.
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
            # Processes wait for each other after encoding, and one may have hours more of it than another.
            InitProcessGroupKwargs(timeout=timedelta(days=1)),
        ],
    )
    _refuse_sharding(accelerator)
    return accelerator


def _refuse_sharding(accelerator: Accelerator) -> None:
    """Sharding is a setting of ours; accelerate's plugins would divide the weights behind our back.

    Raises:
        ValueError: started with a sharding plugin.
    """
    kind = accelerator.distributed_type
    if kind not in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
        raise ValueError(
            f"This trainer cannot run under accelerate's {kind.value}. Start it with `accelerate launch "
            "--multi_gpu`; to divide the weights over the processes, set train.shard = true."
        )


def _refuse_lonely_launch() -> None:
    """``accelerate launch --cpu --num_processes 2`` starts a single process without a word; say so.

    Raises:
        ValueError: several processes were asked for on CPUs and one was started.
    """
    asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" and "MASTER_ADDR" in os.environ
    if asked and "LOCAL_RANK" not in os.environ:
        raise ValueError(
            "`accelerate launch --cpu` starts one process, whatever --num_processes says. For several "
            "processes on "
            "CPUs use `accelerate launch --multi_gpu --num_processes N` with base.device = 'cpu'."
        )


def fill_cache(
    config: RunConfig, accelerator: Accelerator
) -> tuple[Encodings, list[MediaFile], list[MediaFile]]:
    """Encode what is missing; returns the store, the training files and the held-out files."""
    _hash_in_shares(config, accelerator)
    files, held = split_files(config, accelerator.process_index)
    base_hash = file_hash_of(config, accelerator)
    kind = LiveEncodings if config.cache.mode == "off" else Encodings
    encodings = kind(config, base_hash, accelerator.process_index, accelerator.num_processes)
    todo, texts = encodings.missing([*files, *held])
    if isinstance(encodings, LiveEncodings):
        encodings.fill(None, [*files, *held], _Progress(accelerator.is_main_process))
    elif todo or texts:
        log.info("Encoding %d files and %d captions into %s", len(todo), len(texts), config.cache_folder)
        base = BaseModel(config.base, accelerator.device, "fp32", encoders=True, unet=False)
        encodings.fill(base, [*files, *held], _Progress(accelerator.is_main_process))
        del base
        release_memory()
    accelerator.wait_for_everyone()
    return encodings, files, held


def file_hash_of(config: RunConfig, accelerator: Accelerator) -> str:
    """Hash of the base checkpoint, computed by one process and remembered."""
    if not Path(config.base.checkpoint).is_file():
        raise FileNotFoundError(f"base.checkpoint: there is no file {config.base.checkpoint}.")
    memo = config.cache_folder / "base-hash.json"
    with accelerator.main_process_first():
        return file_hash(config.base.checkpoint, memo)


def _hash_in_shares(config: RunConfig, accelerator: Accelerator) -> None:
    """Let each process read its part of the files once; the hashes are there for all afterwards."""
    if accelerator.num_processes == 1:
        return
    files = list_media([*config.data.sources, *config.validation.sources], config.data, samples_of(config))
    mine = files[accelerator.process_index :: accelerator.num_processes]
    content_hashes(mine, config.cache_folder / f"hashes-{accelerator.process_index}.json")
    accelerator.wait_for_everyone()


def samples_of(config: RunConfig) -> Path:
    """Folder of the clips that a run renders to be looked at."""
    return Path(config.output) / "samples"


def split_files(config: RunConfig, rank: int = 0) -> tuple[list[MediaFile], list[MediaFile]]:
    """Training files and held-out files."""
    samples = samples_of(config)
    files = list_media(config.data.sources, config.data, samples)
    held = list_media(config.validation.sources, config.data, samples) if config.validation.sources else []
    if config.validation.fraction:
        hashes = content_hashes(files, config.cache_folder / f"hashes-{rank}.json")
        out = held_out(hashes, config.validation.fraction)
        held += [file for file, is_out in zip(files, out, strict=True) if is_out]
        files = [file for file, is_out in zip(files, out, strict=True) if not is_out]
        if not files:
            raise ValueError(
                f"validation.fraction = {config.validation.fraction}: no file is left for training."
            )
    return files, [replace(file, repeats=1) for file in held]


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


def release_memory() -> None:
    """Give freed GPU memory back."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class _Run:
    """The parts of a run, built in order."""

    def __init__(self, config: RunConfig, resume: bool) -> None:
        self.config = config
        self.folder = Path(config.output)
        self.states = self.folder / "checkpoints"
        self.report: Report | None = None
        self.accelerator = make_accelerator(config)
        self.main = self.accelerator.is_main_process
        # Asked at the end, when another run may have reset it.
        self.num_processes = self.accelerator.num_processes
        try:
            self._build(config, resume)
        except BaseException:
            self.close()
            raise

    def _build(self, config: RunConfig, resume: bool) -> None:
        accelerator = self.accelerator
        state = self._find_state(resume)
        if state is not None:
            _refuse_changes(state, config)
        check_files(config)

        self.encodings, files, held = fill_cache(config, accelerator)
        self.data = ClipData(config, self.encodings, self.encodings.tracks(files))
        self.held = self._held_clips(held) if held else None
        self._describe_data()

        precision, looking = config.train.precision, config.samples.every > 0 and self.main
        live = isinstance(self.encodings, LiveEncodings)
        base = BaseModel(config.base, accelerator.device, precision, encoders=live, decoder=looking)
        if live:
            self.encodings.base = base
        self.denoiser = build(config, base)
        if config.train.channels_last:
            base.unet.to(memory_format=torch.channels_last)
        prediction = base.prediction if config.objective.prediction == "auto" else config.objective.prediction
        self.objective = Objective(config.objective, schedule_of(config, self.denoiser), prediction)

        if config.train.shard:
            shard(self.denoiser, accelerator.device, accelerator.num_processes)
        self.weights = trained_tensors(self.denoiser)
        optimizer = make_optimizer(self.denoiser.trained, config.optimizer)
        # What is sharded needs accelerate's autocast, but no DDP around it.
        self.model = accelerator.prepare_model(self.denoiser, evaluation_mode=config.train.shard)
        self.optimizer = accelerator.prepare_optimizer(optimizer)
        self.ema = Ema(self.weights, config.train.ema_decay) if config.train.ema_decay else None
        self.global_batch = config.train.batch_size * config.train.accumulation * accelerator.num_processes
        self.schedule = Schedule(self.data, config.seed, self.global_batch)
        self.step = 0
        self._losses: list[float] = []
        self._silent = set(self.weights)
        self._skipped = 0
        self._stop = threading.Event()
        self._writing = False
        if state is not None:
            self._restore(state)
        self._first_step = self.step
        self.last_good = state.step if state else None
        log.info(
            "Training %s: %s",
            config.stage,
            facts_line(
                values=sum(w.numel() for w in self.weights.values()),
                tensors=len(self.weights),
                clips=len(self.data),
                clips_per_step=self.global_batch,
                steps_per_epoch=self.schedule.steps_per_epoch,
                device=accelerator.device,
                processes=accelerator.num_processes,
            ),
        )
        self.report = Report(self.folder, config.train.steps, self.step, self.main)
        if self.main:
            write_json(self.folder / "config.json", to_dict(config))

    # --- the loop ---

    def loop(self) -> Result:
        """From the first step, or the resumed one, to the end."""
        config, steps = self.config, self.config.train.steps
        end = min(config.train.stop_at or steps, steps)
        with self._signals():
            if self.step == 0:
                self._look(0)
            while self.step < end and not self._stopping():
                began = time.monotonic()
                values = self._optimizer_step(self.step)
                self.step += 1
                values["seconds"] = time.monotonic() - began
                self.report.step(self.step, values)
                self._look(self.step)
                if self.step % config.checkpoints.every == 0 or self.step == steps:
                    self._save()
            self._writing = True
            interrupted = self.step < steps
            if interrupted and self.last_good != self.step:
                self._save()
            path = self.folder / f"{config.name}.safetensors"
            file = None if interrupted else self._export(path, final=True)
        if interrupted:
            how = "Stopped by train.stop_at" if self.step >= end else "Interrupted"
            log.warning("%s after step %d; go on with --resume", how, self.step)
        recent = self._losses[-50:]
        return Result(file, self.step, sum(recent) / len(recent) if recent else math.nan)

    def _optimizer_step(self, step: int) -> dict[str, float]:
        """One step on one global batch."""
        config, accelerator = self.config.train, self.accelerator
        indices, keys = self.schedule.step(step)
        rate = learning_rate(self.config.optimizer, step, config.steps)
        set_learning_rate(self.optimizer, rate)
        _reseed(self.config.seed, step, accelerator.process_index)
        clip_losses, timesteps = [], []
        norm = 0.0
        for micro in range(config.accumulation):
            # Micro-step m, process r: the slice number m * processes + r. Any split sees the same global
            # batch.
            part = micro * accelerator.num_processes + accelerator.process_index
            mine = slice(part * config.batch_size, (part + 1) * config.batch_size)
            batch = self.data.load(indices[mine], keys[mine])
            with accelerator.accumulate(self.model), self.denoiser.attached(batch.latents.shape[1]):
                noised = self.objective.noised(batch.latents, batch.keys)
                losses = self._losses_of(batch, noised)
                gathered = accelerator.gather(losses.detach())
                self._require_finite(gathered, step, batch, losses.detach())
                accelerator.backward(losses.mean())
                if accelerator.sync_gradients:
                    limit = self.config.optimizer.max_grad_norm or math.inf
                    norm = float(whole(accelerator.clip_grad_norm_(self.weights.values(), limit)))
                    self._require_gradients(norm, step, batch)
                self.optimizer.step()
                self.optimizer.zero_grad()
            clip_losses += gathered.tolist()
            timesteps += accelerator.gather(noised.timesteps.to(accelerator.device)).tolist()
        self._count_skipped(step, batch)
        if self.ema is not None and not self.optimizer.step_was_skipped:
            self.ema.update(self.weights, step)
        loss = sum(clip_losses) / len(clip_losses)
        self._losses.append(loss)
        values = {"loss": loss, "grad_norm": norm, "lr": rate, "epoch": step / self.schedule.steps_per_epoch}
        values |= _by_bin(clip_losses, timesteps)
        if accelerator.device.type == "cuda":
            values["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        elif memory := process_memory():
            values["memory_gib"] = memory / 2**30
        return values

    def _losses_of(self, batch: Batch, noised) -> torch.Tensor:
        """Loss of each clip of a batch, (B,)."""
        device = self.accelerator.device
        prediction = self._predict(batch, noised.latents, noised.timesteps)
        noised = replace(noised, target=noised.target.to(device), weights=noised.weights.to(device))
        mask = None if batch.mask is None else batch.mask.to(device)
        return self.objective.losses(prediction, noised, mask, batch.keys)

    def _predict(self, batch: Batch, latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        device = self.accelerator.device
        y = self.denoiser.base.vector_condition(batch.pooled, *batch.size)
        return self.model(
            latents.to(device),
            timesteps.to(device),
            batch.context.to(device),
            None if y is None else y.to(device),
        )

    # --- guards ---

    def _require_finite(self, gathered: torch.Tensor, step: int, batch: Batch, losses: torch.Tensor) -> None:
        """Finite losses in all processes; ``losses`` are this one's."""
        if not torch.isfinite(gathered).all():
            bad = [n for n, ok in zip(batch.names, torch.isfinite(losses), strict=True) if not ok]
            raise NonFinite(self._complaint("The loss", step, bad or ["of another process"]))

    def _count_skipped(self, step: int, batch: Batch) -> None:
        """An fp16 scaler skips steps until its scale fits; one that never fits would skip all of them."""
        self._skipped = self._skipped + 1 if self.optimizer.step_was_skipped else 0
        if self._skipped >= SKIPPED_STEPS_ALLOWED:
            what = f"The gradient of {self._skipped} steps in a row, in train.precision = 'fp16',"
            raise NonFinite(self._complaint(what, step, batch.names))

    def _require_gradients(self, norm: float, step: int, batch: Batch) -> None:
        """Finite gradients, and within the first steps one for every trained tensor."""
        # An fp16 scaler overflows now and then on purpose and skips the step.
        if not math.isfinite(norm) and self.accelerator.scaler is None:
            raise NonFinite(self._complaint("The gradient", step, batch.names))
        if not self._silent or self.accelerator.scaler is not None:
            return
        self._silent = {
            n
            for n in sorted(self._silent)
            if self.weights[n].grad is None or not bool(whole(self.weights[n].grad).any())
        }
        if self._silent and step >= self._first_step + STEPS_TO_GRADIENT - 1:
            some = ", ".join(sorted(self._silent)[:3])
            share = len(self._silent) / len(self.weights)
            self._silent = set()
            if share > 0.5:
                raise ValueError(
                    f"{share:.0%} of the trained tensors get no gradient (such as {some}): nothing is "
                    "learned."
                )
            log.warning("%.0f%% of the trained tensors get no gradient, such as %s", 100 * share, some)

    def _complaint(self, what: str, step: int, names: Sequence[str]) -> str:
        good = (
            f"The last good state is step {self.last_good}." if self.last_good else "There is no state yet."
        )
        return (
            f"{what} is not finite in step {step + 1}, files {', '.join(names)}. {good} Lower "
            "optimizer.lr or "
            "lengthen the warm-up, and go on with --resume."
        )

    # --- looking, saving, ending ---

    def _look(self, step: int) -> None:
        """Validation, samples and intermediate exports that are due."""
        config = self.config
        last = step == config.train.steps
        every = config.validation.every
        if self.held is not None and every and (step % every == 0 or last):
            with self._result_weights(), torch.no_grad():
                values = self._validate()
            self.report.values(step, values)
            log.info("step %d  validation loss %.5f", step, values["validation/loss"])
        if config.samples.every and (step % config.samples.every == 0 or last):
            with self._result_weights():
                self._render(step)
        if config.export.every and step and step % config.export.every == 0 and not last:
            self._export(self.folder / "exports" / f"{config.name}-{step:08d}.safetensors", final=False)

    def _validate(self) -> dict[str, float]:
        def predict(batch: Batch, latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            with self.denoiser.attached(latents.shape[1]):
                return self._predict(batch, latents, timesteps)

        return validation_loss(predict, self.objective, self.held, self.config.validation, self.config.seed)

    def _render(self, step: int) -> None:
        """The prompts' clips, with the same noise each time. One process renders, the others wait; where
        weights are sharded, all render, since each has a part of what it takes."""
        config = self.config.samples
        width, height = self.config.data.resolutions[0]
        shape = (self.config.frames, 4, height // 8, width // 8)
        prompts = sample_prompts(self.config) if self.main or self.config.train.shard else ()
        for number, prompt in enumerate(prompts):
            latents = ddim(
                self._conditioned([prompt, config.negative], (width, height)),
                self.objective,
                shape,
                steps=config.steps,
                cfg=config.cfg,
                seed=config.seed + number,
            )
            if not self.main:
                continue
            frames = to_images(self.denoiser.base.decode_latents(latents))
            fps = (self.config.data.fps or 8.0) / self.config.data.stride
            save_animation(samples_of(self.config) / f"step-{step:08d}-{number:02d}.webp", frames, fps)
            self.report.animation(step, f"samples/{number:02d}", frames, round(1000 / fps))
        self.accelerator.wait_for_everyone()

    def _conditioned(self, prompts: list[str], size: tuple[int, int]) -> Model:
        """The model with fixed prompts, for the sampler."""
        device, base = self.accelerator.device, self.denoiser.base
        states = [self.encodings.text_states(prompt) for prompt in prompts]
        context = stacked([text for text, _ in states]).to(device)
        pooled = None if states[0][1] is None else torch.stack([vector for _, vector in states])
        y = base.vector_condition(pooled, *size)
        y = None if y is None else y.to(device)

        def call(latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            with self.denoiser.attached(latents.shape[1]):
                return self.denoiser(latents.to(device), timesteps.to(device), context, y)

        return call

    @contextmanager
    def _result_weights(self) -> Iterator[None]:
        """The model as it would be exported: averaged weights, if there are any, and no dropout."""
        with ExitStack() as stack:
            stack.enter_context(evaluation_weights(self.optimizer, self.weights))
            if self.ema is not None:
                stack.enter_context(self.ema.applied(self.weights))
            self.denoiser.eval()
            stack.callback(self.denoiser.train)
            yield

    def _export(self, path: Path, final: bool) -> Path:
        facts = {
            "steps": str(self.step),
            "prediction": self.objective.prediction,
            "beta_schedule": self.objective.schedule.name,
            "beta_start": repr(self.objective.schedule.start),
            "beta_end": repr(self.objective.schedule.end),
            "data_fingerprint": self._fingerprint,
            "base_model_hash": file_hash(
                self.config.base.checkpoint, self.config.cache_folder / "base-hash.json"
            ),
        }
        with self._result_weights(), gathered(self.denoiser):
            if self.main:
                write(path, self.config, self.denoiser, facts)
                if final:
                    log.info("Wrote %s", path)
                    if self.config.export.folder:
                        _copy(path, Path(self.config.export.folder) / path.name)
        self.accelerator.wait_for_everyone()
        return path

    def _save(self) -> None:
        """A state to resume from, which no signal interrupts."""
        before, self._writing = self._writing, True
        try:
            self._write_state()
        finally:
            self._writing = before

    def _write_state(self) -> None:
        """Process 0 writes what all hold, or what all gather."""
        optimizer, plain = pack_optimizer(self.optimizer.state_dict())
        groups = {
            "weights": self.weights,
            "optimizer": optimizer,
            "ema": self.ema.weights if self.ema else {},
        }
        tensors = {name: {n: whole(t) for n, t in group.items()} for name, group in groups.items()}
        if self.main:
            scaler = self.accelerator.scaler
            facts = {
                "config": to_dict(self.config),
                "fingerprint": self._fingerprint,
                "global_batch": self.global_batch,
                "optimizer": plain,
                "scaler": None if scaler is None else scaler.state_dict(),
                "losses": self._losses[-50:],
            }
            save_state(self.states, self.step, tensors, facts, self.config.checkpoints.keep)
        self.last_good = self.step
        self.accelerator.wait_for_everyone()

    def _find_state(self, resume: bool) -> State | None:
        if self.main:
            clean_up(self.states)
        self.accelerator.wait_for_everyone()
        state = newest_state(self.states)
        if state is None and has_states(self.states):
            raise ValueError(
                f"{self.folder} holds a run, but none of its states can be read (see above). Put back a copy "
                "of one, or choose another output."
            )
        if state is not None and not resume:
            raise ValueError(
                f"{self.folder} holds a run that got to step {state.step}. Go on with --resume, or choose "
                "another output."
            )
        if resume and state is None:
            log.info("There is no state in %s: starting from the beginning", self.states)
        return state

    def _restore(self, state: State) -> None:
        """Continue exactly where the state was taken."""
        saved = state.tensors["weights"]
        if saved.keys() != self.weights.keys() or any(
            saved[n].shape != w.shape for n, w in self.weights.items()
        ):
            raise ValueError(
                "The state holds other weights than this configuration trains. Choose another output."
            )
        if state.facts["global_batch"] != self.global_batch:
            raise ValueError(
                f"The state was made with {state.facts['global_batch']} clips per step, now there are "
                f"{self.global_batch}. Keep batch_size * accumulation * processes."
            )
        if state.facts["fingerprint"] != self._fingerprint:
            log.warning("The data has changed since the state was saved: from here on the run is another one")
        for key, (old, new) in _changes(state.facts["config"], to_dict(self.config)).items():
            log.warning("Resuming with another setting: %s was %r, is %r", key, old, new)
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(like(saved[name], weight))
        inner = self.optimizer
        moments = unpack_optimizer(
            state.tensors.get("optimizer", {}), state.facts["optimizer"], inner.state_dict()
        )
        inner.load_state_dict(state_like(moments, inner))
        if self.ema is not None:
            # Switched on since, the average begins with the weights of now.
            average = state.tensors.get("ema", saved)
            for name, weight in self.ema.weights.items():
                weight.copy_(like(average[name], weight))
        if state.facts["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state.facts["scaler"])
        self.step = state.step
        self._losses = state.facts["losses"]
        log.info("Resuming after step %d", state.step)

    def _held_clips(self, held: list[MediaFile]) -> ClipData | None:
        """Clips for validation; a run does without where none can be used."""
        try:
            return ClipData(self.config, self.encodings, self.encodings.tracks(held))
        except ValueError as error:
            log.warning("There is no validation: of the held-out files none is usable. %s", error)
            return None

    def _describe_data(self) -> None:
        listed = [(t.key, t.caption, t.num_frames, t.bucket) for t in self.data.tracks]
        self._fingerprint = digest(json.dumps(listed), 32)
        if self.config.train.batch_size > 1:
            self.data.require_common_length()
        if not self.encodings.has_variance(self.data.tracks[0]):
            log.info("This VAE gives points, no distributions: latents are the same in every epoch")

    def _stopping(self) -> bool:
        """Whether any process was asked to stop."""
        asked = self._stop.is_set()
        if self.accelerator.num_processes == 1:
            return asked
        return bool(
            self.accelerator.reduce(torch.tensor(float(asked), device=self.accelerator.device), "sum") > 0
        )

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the run after the current step; a second Ctrl-C ends it at once, unless it
        is writing what it has."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, _) -> None:
            if self._writing:
                self._stop.set()
                log.warning("The run is writing what it has; this takes a moment")
            elif self._stop.is_set() and number == signal.SIGINT:
                raise KeyboardInterrupt
            self._stop.set()

        kept = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)

    def close(self) -> None:
        """Flush logs and let go of memory."""
        if self.report is not None:
            self.report.close()
        self.accelerator.free_memory()
        if self.num_processes > 1:
            self.accelerator.end_training()
        # accelerate keeps its choice of precision for the whole process; a later run may want another.
        AcceleratorState._reset_state(reset_partial_state=self.num_processes == 1)


def _refuse_changes(state: State, config: RunConfig) -> None:
    """Stop where a setting has changed that a state cannot be resumed with.

    Raises:
        ValueError: names the setting.
    """
    for key, (old, new) in _changes(state.facts["config"], to_dict(config)).items():
        reason = next((why for start, why in FIXED_SETTINGS.items() if key.startswith(start)), None)
        if reason is not None:
            raise ValueError(
                f"{key} was {old!r} in the run so far, is {new!r}: {reason}. Set it back, or choose another "
                "output."
            )


def _reseed(seed: int, step: int, rank: int) -> None:
    """Everyone's global generators from the step's number: what a library draws from them needs no saved
    state."""
    mixed = (seed * 1_000_003 + step * 7919 + rank) % 2**32
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)


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


def _changes(old: dict, new: dict, prefix: str = "") -> dict[str, tuple]:
    """Settings that differ, by dotted name."""
    result = {}
    for key in {*old, *new}:
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            result |= _changes(a, b, f"{prefix}{key}.")
        elif a != b:
            result[f"{prefix}{key}"] = (a, b)
    return result


def _copy(source: Path, target: Path) -> None:
    """Copy a finished file under a temporary name first."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.copyfile(source, temporary)
    temporary.replace(target)
    log.info("Copied to %s", target)


class _Progress:
    """Encoding progress as occasional log lines."""

    def __init__(self, main: bool) -> None:
        self._main, self._last = main, time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        if self._main and (done == total or time.monotonic() - self._last > 10):
            self._last = time.monotonic()
            log.info("Encoding %s: %d of %d", what, done, total)
