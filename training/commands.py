"""What the command line does beside training: look at a trained model, measure it, change a file's form."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from ..motion_core.files.checkpoint import load_with_parts, open_motion_module, save_motion_module
from ..motion_core.files.lora import (
    left_out,
    plain_factors,
    read_lora,
    save_domain_adapter,
    save_motion_lora,
)
from ..motion_core.files.motion_adapter import save_motion_adapter
from ..motion_core.files.recognise import recognise
from ..motion_core.files.tensor_file import TensorFile
from ..motion_core.module.config import MotionModuleConfig
from .config import RunConfig
from .data.dataset import Batch, ClipData, stacked
from .data.live import LiveEncodings
from .model.base_model import BaseModel, autocast, pick_device
from .model.denoiser import Denoiser, build, trained_tensors
from .run.engine import make_accelerator
from .run.objective import Objective
from .run.optimizing import has_modes, make_optimizer, set_to
from .run.parts import schedule_of
from .run.prepare import fill_cache
from .run.sampling import ddim, save_animation, to_images
from .run.saving import load_optimizer, newest_of, weights_in
from .run.validate import validation_loss

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Trained:
    """A run's model with the weights it has reached."""

    base: BaseModel
    denoiser: Denoiser
    objective: Objective
    step: int
    """Optimizer steps behind the weights; 0 without a state."""


def trained_model(config: RunConfig, *, encoders: bool) -> Trained:
    """The model of a run with its newest weights, averaged ones if the run keeps them.

    Args:
        config: the run.
        encoders: whether VAE and text encoder are wanted too.
    """
    state = newest_of(config)
    base = BaseModel(config.base, pick_device(config.base.device), config.train.precision, encoders=encoders)
    denoiser = build(config, base).eval()
    if state is None:
        log.warning(
            "There is no state in %s: these are the weights that training would start from", config.output
        )
    else:
        set_to(trained_tensors(denoiser), weights_in(state, trained_tensors(denoiser)))
        optimizer = make_optimizer(denoiser.trained, config.optimizer)
        if has_modes(optimizer):
            load_optimizer(optimizer, state)
            optimizer.eval()
        if "ema" in state.tensors:
            set_to(trained_tensors(denoiser), state.tensors["ema"])
    prediction = base.prediction if config.objective.prediction == "auto" else config.objective.prediction
    objective = Objective(config.objective, schedule_of(config, denoiser), prediction)
    return Trained(base, denoiser, objective, state.step if state else 0)


def sample(config: RunConfig, prompts: list[str], folder: Path) -> list[Path]:
    """Render a clip per prompt with the settings of `samples`; returns the animated WEBP files.

    Raises:
        ValueError: there is no prompt.
    """
    if not prompts:
        raise ValueError("Nothing to render: give --prompt, or samples.prompts in the configuration.")
    model = trained_model(config, encoders=True)
    device, settings = model.base.device, config.samples
    width, height = config.data.resolutions[0]
    written = []
    for number, prompt in enumerate(prompts):
        texts = [model.base.encode_text(text) for text in (prompt, settings.negative)]
        context = stacked([states for states, _ in texts]).to(device)
        pooled = None if texts[0][1] is None else torch.stack([vector for _, vector in texts])
        y = model.base.vector_condition(pooled, width, height)
        y = None if y is None else y.to(device)

        def call(
            x: torch.Tensor,
            timesteps: torch.Tensor,
            context: torch.Tensor = context,
            y: torch.Tensor | None = y,
        ) -> torch.Tensor:
            with model.denoiser.attached(x.shape[1]), autocast(device, config.train.precision):
                return model.denoiser(x.to(device), timesteps.to(device), context, y)

        shape = (config.frames, 4, height // 8, width // 8)
        seed = settings.seed + number
        latents = ddim(call, model.objective, shape, steps=settings.steps, cfg=settings.cfg, seed=seed)
        fps = (config.data.fps or 8.0) / config.data.stride
        path = folder / f"{config.name}-{model.step:08d}-{number:02d}.webp"
        save_animation(path, to_images(model.base.decode_latents(latents)), fps)
        log.info("Wrote %s: %s", path, prompt)
        written.append(path)
    return written


def evaluate(config: RunConfig) -> dict[str, float]:
    """Validation loss of the newest weights by range of timesteps, and the step they come from.

    Raises:
        ValueError: no clips are held out.
    """
    encodings, _, held = fill_cache(config, make_accelerator(config))
    if not held:
        raise ValueError("No clips are held out: set validation.fraction or validation.sources.")
    data = ClipData(config, encodings, encodings.tracks(held))
    live = isinstance(encodings, LiveEncodings)
    model = trained_model(config, encoders=live)
    if live:
        encodings.base = model.base
    device = model.base.device

    def predict(batch: Batch, latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        y = model.base.vector_condition(batch.pooled, *batch.size)
        with model.denoiser.attached(latents.shape[1]), autocast(device, config.train.precision):
            return model.denoiser(
                latents.to(device),
                timesteps.to(device),
                batch.context.to(device),
                None if y is None else y.to(device),
            )

    return {
        "step": model.step,
        **validation_loss(predict, model.objective, data, config.validation, config.seed),
    }


def convert(source: Path, target: Path, dtype: str | None = None, layout: str = "original") -> str:
    """Write a motion module or LoRA of any layout in another one; returns what it was and what was left out.

    Args:
        source: any file that the pack reads.
        target: ``.safetensors``; or ``.ckpt``, which the original repository wants.
        dtype: of the weights; by default as they are.
        layout: ``original``, or ``diffusers``: then of motion modules alone, and the target is a folder.

    Raises:
        FileNotFoundError, ValueError: no such file, nothing that can be converted, or a target that is taken.
    """
    if target.exists() and target.samefile(source):
        raise ValueError(
            f"{target} is the file to read as well. Nothing was converted: name another file to write."
        )
    if layout == "original" and target.exists():
        raise ValueError(f"{target} exists already. Nothing was converted: name another file.")
    is_taken = target.is_file() or (target.is_dir() and any(os.scandir(target)))
    if layout == "diffusers" and (is_taken or target.suffix in (".safetensors", ".ckpt")):
        raise ValueError(
            f"{target} is a file or holds some. diffusers' layout is a folder: name one that is new or empty."
        )
    metadata = {key: value for key, value in TensorFile(source).metadata.items() if key != "format"}
    kind = recognise(TensorFile(source).shapes)
    kind_of_float = None if dtype is None else DTYPES[dtype]
    if kind == "motion_module":
        opened = open_motion_module(source)
        model = load_with_parts(opened, fused_qkv=False)
        save = save_motion_module if layout == "original" else save_motion_adapter
        save(target, model, metadata, dtype=kind_of_float)
        return "\n".join(
            [f"{kind}: {model.config.describe()}", *opened.oddities, *lost_facts(target, model.config)]
        )
    if layout != "original":
        raise ValueError(
            f"{source.name} is no motion module, and only those have a layout of {layout}'s own."
        )
    file = read_lora(source)
    # The original layout has no place for an alpha.
    layers = plain_factors(file, kind_of_float)
    save = save_domain_adapter if file.kind == "domain_adapter" else save_motion_lora
    save(target, layers, metadata)
    return f"{file.kind} of {len(layers)} layers{left_out(file.ignored)}"


def lost_facts(written: Path, config: MotionModuleConfig) -> list[str]:
    """What a module's file without metadata does not say and readers take otherwise: one line, or none."""
    if written.suffix != ".ckpt":
        return []
    start = f"A .ckpt has no metadata, a .safetensors has; {written.name}"
    try:
        read = open_motion_module(written).config
    except ValueError as error:
        return [f"{start} can only be read by who knows what was not said. {error}"]
    names = [one.name for one in fields(config) if one.name != "modules"]
    facts = [(name, getattr(config, name), getattr(read, name)) for name in names]
    lost = [f"{name} ({value}, not {other})" for name, value, other in facts if value != other]
    return [f"{start} does not say: {', '.join(lost)}."] if lost else []
