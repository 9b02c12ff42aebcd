"""Saving and restoring a run: what a state holds of it, and which settings may change on the way."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from accelerate import Accelerator

from ..config import RunConfig, to_dict
from ..locks import PROBE, Busy, lock, sweep
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


OUTPUT = "output (in a node: another `name`)"
"""Where a run goes, in messages that a graph may get too."""


def states_of(config: RunConfig) -> Path:
    """Folder of a run's states."""
    return Path(config.output) / "checkpoints"


def lock_output(config: RunConfig) -> IO | None:
    """Keep other runs out of the folder until the lock is closed; remove what killed ones have left there.

    Raises:
        ValueError: another run is at work.
    """
    output = Path(config.output)
    try:
        held = lock(output / "run.lock")
    except Busy as error:
        raise ValueError(
            f"Another training is running in {output}. Wait until it has ended, stop it, or choose another "
            f"{OUTPUT}."
        ) from error
    alone, name = held is not None, re.escape(config.name)
    mine = [output, states_of(config), output / "samples", output / "exports"]
    written = r"config\.json|metrics\.jsonl|step-\d+|step-\d+-\d+\.webp"
    sweep(mine, rf"\.({written})\.[\w-]+\.tmp|\.{name}(-\d+)?\.\w+\.partial|{PROBE}", alone=alone)
    # Others may write here at the same time: clips of the sample command, files of other runs.
    sweep([output / "samples"], rf"\.{name}-\d+-\d+\.webp\.\d+\.tmp", alone=False)
    if config.export.folder:
        sweep([Path(config.export.folder)], rf"\.{name}\.safetensors\.tmp|{PROBE}", alone=False)
    return held


def newest_of(config: RunConfig) -> State | None:
    """A run's newest state that can be gone on with, or None."""
    return newest_state(states_of(config), check_facts)


FACTS = {
    "config": dict,
    "fingerprint": str,
    "global_batch": int,
    "optimizer": dict,
    "scaler": (dict, type(None)),
    "losses": list,
}
"""What a state tells beside its tensors."""


def check_facts(state: State) -> None:
    """Whether a state tells all that is needed to go on.

    Raises:
        ValueError: names what is missing or of another type.
    """
    facts = state.facts
    wrong = [name for name, kind in FACTS.items() if not isinstance(facts.get(name, ...), kind)]
    if not wrong:
        table, groups = facts["optimizer"].get("state"), facts["optimizer"].get("groups")
        tables = [*(table.values() if isinstance(table, dict) else [None])]
        tables += groups if isinstance(groups, list) else [None]
        if not all(isinstance(values, dict) for values in tables):
            wrong.append("optimizer")
        if not all(type(loss) in (int, float) for loss in facts["losses"]):
            wrong.append("losses")
    if wrong:
        raise ValueError(f"state.json does not hold a usable {', '.join(wrong)}")


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
    state = newest_of(config)
    if state is None and has_states(folder):
        raise ValueError(
            f"{config.output} holds a run, but none of its states can be read (see above). Put back a copy "
            f"of one, or choose another {OUTPUT}."
        )
    steps, stop_at = config.train.steps, config.train.stop_at
    if state is not None and not resume:
        if state.step >= steps:
            raise ValueError(
                f"{config.output} holds a finished run of {state.step} steps; nothing was trained. To train "
                "it longer, raise train.steps and add --resume. For a new run, choose another output."
            )
        raise ValueError(
            f"{config.output} holds a run that got to step {state.step}. Go on with --resume, or choose "
            "another output."
        )
    if state is not None:
        if state.step > steps:
            raise ValueError(
                f"train.steps = {steps}, but the run in {config.output} has got to step {state.step}; "
                f"nothing was trained. Raise train.steps, or choose another {OUTPUT}."
            )
        _refuse_changes(state, config)
        if state.step == steps:
            what = "all its %d steps: nothing is trained, its file is written again from the last state"
            log.warning(f"The run in %s has {what}", config.output, steps)
        elif 0 < stop_at <= state.step:
            log.warning("train.stop_at = %d is not after step %d: nothing is trained", stop_at, state.step)
    elif resume:
        log.info("There is no state in %s: starting from the beginning", folder)
    return state


def weights_in(state: State, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state's weights.

    Raises:
        ValueError: they are not those of this configuration.
    """
    for group in ("weights", "ema"):
        saved = state.tensors.get(group, weights)
        if saved.keys() != weights.keys() or any(saved[n].shape != w.shape for n, w in weights.items()):
            raise ValueError(
                "The state holds other weights than this configuration trains. Choose another output."
            )
    return state.tensors["weights"]


def restore(parts: Parts, state: State) -> None:
    """Continue exactly where the state was taken."""
    saved = weights_in(state, parts.weights)
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
    # Switched on since, the average begins with the weights of now.
    average = state.tensors.get("ema", saved)
    scaler = parts.accelerator.scaler
    try:
        load_optimizer(parts.optimizer, state)
        for name, weight in parts.ema.weights.items() if parts.ema is not None else ():
            weight.copy_(like(average[name], weight))
        if state.facts["scaler"] is not None and scaler is not None:
            scaler.load_state_dict(state.facts["scaler"])
    except (LookupError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"The state of step {state.step} does not fit this run ({type(error).__name__}: {error}). Remove "
            "its folder to go on from an older one, or choose another output."
        ) from error
    parts.step = parts.last_good = state.step
    parts.losses = state.facts["losses"]
    log.info("Resuming after step %d", state.step)


def load_optimizer(optimizer: Any, state: State) -> None:
    """Give an optimizer its state back, in tables and lengths that fit its parameters.

    Raises:
        ValueError: they do not; LookupError, TypeError: nor does the form.
    """
    moments = unpack_optimizer(
        state.tensors.get("optimizer", {}), state.facts["optimizer"], optimizer.state_dict()
    )
    present = optimizer.state_dict()["param_groups"]
    saved = moments["param_groups"]
    if [group.get("params") for group in saved] != [group["params"] for group in present]:
        raise ValueError("its groups of parameters are others")
    for group, now in zip(saved, present, strict=True):
        for key, value in now.items():
            if key not in group or not _alike(group[key], value, switches=key not in LOOSE_SWITCHES):
                raise ValueError(f"its group has no usable {key}")
    optimizer.load_state_dict(state_like(moments, optimizer))


LOOSE_SWITCHES = ("foreach", "fused", "capturable", "train_mode")
"""What torch decides by device, and whether weights or their averages are in place; neither is a setting."""


def _alike(saved: Any, now: Any, switches: bool = True) -> bool:
    """Whether a saved setting can stand where an optimizer has this one. Switches cannot have changed."""
    if not switches:
        return saved is None or isinstance(saved, bool)
    if now is None:
        return True  # some optimizers fill it in on the way
    if isinstance(now, bool) or isinstance(saved, bool):
        return saved is now
    if isinstance(now, list | tuple) and isinstance(saved, list | tuple):
        return len(saved) == len(now) and all(map(_alike, saved, now))
    kinds = ((int, float), str, (list, tuple), dict, torch.Tensor)
    return isinstance(saved, next((kind for kind in kinds if isinstance(now, kind)), type(now)))


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
