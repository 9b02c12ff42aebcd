"""Optimizers by name, learning rates from the step's number, and the average of the weights."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..config import OptimizerConfig

KNOWN: dict[str, tuple[str, str]] = {
    "AdamW": ("torch.optim.AdamW", "torch"),
    "SGD": ("torch.optim.SGD", "torch"),
    "Adafactor": ("torch.optim.Adafactor", "torch"),
    "AdamW8bit": ("bitsandbytes.optim.AdamW8bit", "bitsandbytes"),
    "Lion8bit": ("bitsandbytes.optim.Lion8bit", "bitsandbytes"),
    "Lion": ("lion_pytorch.Lion", "lion-pytorch"),
    "Prodigy": ("prodigyopt.Prodigy", "prodigyopt"),
    "AdamWScheduleFree": ("schedulefree.AdamWScheduleFree", "schedulefree"),
    "RAdamScheduleFree": ("schedulefree.RAdamScheduleFree", "schedulefree"),
    "CAME": ("pytorch_optimizer.CAME", "pytorch-optimizer"),
}
"""Short name -> import path and the package that has it. Imported only when asked for."""

ADAMW_DEFAULTS = {"betas": (0.9, 0.999), "weight_decay": 1e-2, "eps": 1e-8}
"""As in AnimateDiff's public configuration."""


def make_optimizer(trained: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The configured optimizer over everything that wants gradients.

    Raises:
        ValueError: unknown name, package not installed, or arguments that it does not take.
    """
    parameters = [(name, p) for name, p in trained.named_parameters() if p.requires_grad]
    fast = [p for name, p in parameters if config.lora_plus_ratio != 1 and name.endswith("up.weight")]
    chosen = {id(p) for p in fast}
    slow = [p for _, p in parameters if id(p) not in chosen]
    groups: list[dict[str, Any]] = [{"params": slow, "lr": config.lr}]
    if fast:
        groups.append({"params": fast, "lr": config.lr * config.lora_plus_ratio})
    arguments = dict(config.arguments)
    if config.name == "AdamW":
        fused = all(p.dtype == torch.float32 and p.device.type in ("cpu", "cuda") for _, p in parameters)
        arguments = {**ADAMW_DEFAULTS, "fused": fused, **arguments}
    if isinstance(arguments.get("betas"), list):
        arguments["betas"] = tuple(arguments["betas"])
    kind = find_optimizer(config.name)
    try:
        optimizer = kind(groups, lr=config.lr, **arguments)
    except (TypeError, RuntimeError, IndexError) as error:
        raise ValueError(f"optimizer.arguments do not suit {config.name}: {error}") from error
    for group in optimizer.param_groups:
        group["rate"] = group["lr"] / config.lr
    if has_modes(optimizer):
        optimizer.train()
    return optimizer


def has_modes(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it takes gradients at other weights than are to be used, as schedule-free ones do."""
    return hasattr(optimizer, "train") and hasattr(optimizer, "eval")


def find_optimizer(name: str) -> type:
    """The class of a configured name.

    Raises:
        ValueError: unknown name, or a package that is not installed.
    """
    path, package = KNOWN.get(name, (name, name.split(".")[0]))
    module, _, attribute = path.rpartition(".")
    if not module:
        raise ValueError(
            f"optimizer.name = {name!r}: choose one of {', '.join(KNOWN)}, or an import path package.Class."
        )
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise ValueError(
            f"optimizer.name = {name!r} needs the package {package}: pip install {package}."
        ) from error
    except AttributeError as error:
        raise ValueError(f"optimizer.name = {name!r}: {module} has no {attribute}.") from error


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Rate of optimizer step ``step`` (from 0) of ``steps``: a pure function, so nothing needs to be saved
    for it."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    progress = min((step - config.warmup_steps) / max(steps - config.warmup_steps, 1), 1.0)
    fall = progress if config.schedule == "linear" else (1 - math.cos(math.pi * progress)) / 2
    return config.lr + (config.final_lr - config.lr) * fall


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of the rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate"]


@contextmanager
def evaluation_weights(
    optimizer: torch.optim.Optimizer, weights: Mapping[str, torch.Tensor]
) -> Iterator[None]:
    """Schedule-free optimizers keep two sets of weights; within this block the model has the one to be
    used."""
    inner = getattr(optimizer, "optimizer", optimizer)
    if not has_modes(inner):
        yield
        return
    kept = copies(weights)
    inner.eval()
    try:
        yield
    finally:
        inner.train()
        # It computes them back, and rounds: looking at a run would change it.
        set_to(weights, kept)


def copies(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights as they are now."""
    return {name: w.detach().clone() for name, w in weights.items()}


@torch.no_grad()
def set_to(weights: Mapping[str, torch.Tensor], kept: Mapping[str, torch.Tensor]) -> None:
    """Give weights other values, in place."""
    for name, w in weights.items():
        w.copy_(kept[name])


class Ema:
    """Exponential moving average of weights.

    Args:
        weights: the trained tensors by name.
        decay: share of the old average that a step keeps; lower in the first steps, when it would average
        the start.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor], decay: float) -> None:
        self.decay = decay
        self.weights = {name: w.detach().clone().float() for name, w in weights.items()}

    @torch.no_grad()
    def update(self, weights: Mapping[str, torch.Tensor], step: int) -> None:
        """Take in the weights after optimizer step ``step`` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(
            list(self.weights.values()), [weights[n].detach() for n in self.weights], 1 - decay
        )

    @contextmanager
    def applied(self, weights: Mapping[str, torch.Tensor]) -> Iterator[None]:
        """The model has the averaged weights within this block."""
        kept = copies(weights)
        set_to(weights, self.weights)
        try:
            yield
        finally:
            set_to(weights, kept)
