"""Saving and restoring a run: what a state holds of it, and which settings may change on the way."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from accelerate import Accelerator

from ..config import RunConfig, to_dict
from ..model.sharding import like, state_like, whole
from .parts import Parts
from .states import State, clean_up, has_states, newest_state, pack_optimizer, save_state, unpack_optimizer

log = logging.getLogger(__name__)

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


def states_of(config: RunConfig) -> Path:
    """Folder of a run's states."""
    return Path(config.output) / "checkpoints"


def save(parts: Parts) -> None:
    """Process 0 writes what all hold, or what all gather."""
    optimizer, plain = pack_optimizer(parts.optimizer.state_dict())
    groups = {
        "weights": parts.weights,
        "optimizer": optimizer,
        "ema": parts.ema.weights if parts.ema else {},
    }
    tensors = {name: {n: whole(t) for n, t in group.items()} for name, group in groups.items()}
    if parts.main:
        scaler = parts.accelerator.scaler
        facts = {
            "config": to_dict(parts.config),
            "fingerprint": parts.fingerprint,
            "global_batch": parts.global_batch,
            "optimizer": plain,
            "scaler": None if scaler is None else scaler.state_dict(),
            "losses": parts.losses[-50:],
        }
        folder, keep = states_of(parts.config), parts.config.checkpoints.keep
        save_state(folder, parts.step, tensors, facts, keep)
    parts.last_good = parts.step
    parts.accelerator.wait_for_everyone()


def find_state(config: RunConfig, accelerator: Accelerator, resume: bool) -> State | None:
    """The state to go on from, if there is one.

    Raises:
        ValueError: the folder holds a run that must not be begun anew or cannot be gone on with.
    """
    folder = states_of(config)
    if accelerator.is_main_process:
        clean_up(folder)
    accelerator.wait_for_everyone()
    state = newest_state(folder)
    if state is None and has_states(folder):
        raise ValueError(
            f"{config.output} holds a run, but none of its states can be read (see above). Put back a copy "
            "of one, or choose another output."
        )
    if state is not None and not resume:
        raise ValueError(
            f"{config.output} holds a run that got to step {state.step}. Go on with --resume, or choose "
            "another output."
        )
    if state is not None:
        _refuse_changes(state, config)
    elif resume:
        log.info("There is no state in %s: starting from the beginning", folder)
    return state


def restore(parts: Parts, state: State) -> None:
    """Continue exactly where the state was taken."""
    saved = state.tensors["weights"]
    if saved.keys() != parts.weights.keys() or any(
        saved[n].shape != w.shape for n, w in parts.weights.items()
    ):
        raise ValueError(
            "The state holds other weights than this configuration trains. Choose another output."
        )
    if state.facts["global_batch"] != parts.global_batch:
        raise ValueError(
            f"The state was made with {state.facts['global_batch']} clips per step, now there are "
            f"{parts.global_batch}. Keep batch_size * accumulation * processes."
        )
    if state.facts["fingerprint"] != parts.fingerprint:
        log.warning("The data has changed since the state was saved: from here on the run is another one")
    for key, (old, new) in _changes(state.facts["config"], to_dict(parts.config)).items():
        log.warning("Resuming with another setting: %s was %r, is %r", key, old, new)
    with torch.no_grad():
        for name, weight in parts.weights.items():
            weight.copy_(like(saved[name], weight))
    inner = parts.optimizer
    moments = unpack_optimizer(
        state.tensors.get("optimizer", {}), state.facts["optimizer"], inner.state_dict()
    )
    inner.load_state_dict(state_like(moments, inner))
    if parts.ema is not None:
        # Switched on since, the average begins with the weights of now.
        average = state.tensors.get("ema", saved)
        for name, weight in parts.ema.weights.items():
            weight.copy_(like(average[name], weight))
    scaler = parts.accelerator.scaler
    if state.facts["scaler"] is not None and scaler is not None:
        scaler.load_state_dict(state.facts["scaler"])
    parts.step = parts.last_good = state.step
    parts.losses = state.facts["losses"]
    log.info("Resuming after step %d", state.step)


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
