"""Plain nodes of Advanced-ControlNet as ComfyUI's own."""

from __future__ import annotations

from .job import Job, Value, split
from .old import Old, read_widgets
from .rules.advanced_controlnet import (
    APPLIES,
    APPLIES_ONE,
    BEYOND,
    LOADERS,
    NEUTRAL,
    PLAIN_LOADERS,
    SPECIAL_FILES,
)
from .world import Level

SHORT_HINTS = (
    " With fewer pictures than frames it begins again with the first; Advanced-ControlNet held the last."
)


def convert_loader(job: Job, level: Level, node: str) -> None:
    """A loader without keyframes, of a file of a usual kind."""
    kind = level.type(node)
    old = LOADERS[kind]
    name = _values(job, level, node, old)["control_net_name"]
    reason = _beyond(job, level, node, old)
    if not reason and (special := _special(name)):
        reason = f"ComfyUI's loader does not know the kind of file that is called {special}"
    if reason:
        _leave(job, level, node, reason)
        return
    constants, links = split({"control_net_name": name})
    target = "ControlNetLoader"
    if model := level.source(node, "model"):
        target, links["model"] = "DiffControlNetLoader", model
    level.become(node, target, constants, links, job.complain(level, node))
    job.say("mapped", level, node, "Became Load ControlNet Model.", kind)


def convert_apply(job: Job, level: Level, node: str) -> None:
    """An apply node without masks, keyframes and weights."""
    kind = level.type(node)
    old = APPLIES[kind] if kind in APPLIES else APPLIES_ONE[kind]
    values = _values(job, level, node, old)
    if reason := _beyond(job, level, node, old) or _unusual(job, level, node, values):
        _leave(job, level, node, reason)
        return
    conditionings = ("positive", "negative") if kind in APPLIES else ("conditioning",)
    _hand_on_model(level, node, len(conditionings))
    links = {name: level.source(node, name) for name in (*conditionings, "control_net", "image")}
    if kind in APPLIES:
        constants, linked = split(values)
        links |= {**linked, "vae": level.source(node, "vae_optional")}
        target, text = "ControlNetApplyAdvanced", "Became Apply ControlNet."
    else:
        constants, linked = split({"strength": values["strength"]})
        links |= linked
        target, text = "ControlNetApply", "Became Apply ControlNet (for one prompt)."
    outputs = {place: place for place in range(len(conditionings))}
    level.become(node, target, constants, links, job.complain(level, node), outputs=outputs)
    job.say("changed", level, node, text + SHORT_HINTS, kind)


def _values(job: Job, level: Level, node: str, old: Old) -> dict[str, Value]:
    plain = read_widgets(old, level.named_widgets(node) or level.widgets(node), job.complain(level, node))
    return {name: Value(value, level.source(node, *old.aliases(name))) for name, value in plain.items()}


def _beyond(job: Job, level: Level, node: str, old: Old) -> str | None:
    """What is linked that ComfyUI's nodes cannot take."""
    for name in BEYOND:
        found = job.world.origin(level, level.source(node, *old.aliases(name)))
        if found is None:
            continue
        near, (other, _) = found
        if near.type(other) != NEUTRAL or near.source(other, "cn_extras"):
            return f"its {name} is in use"
    return None


def _unusual(job: Job, level: Level, node: str, values: dict[str, Value]) -> str | None:
    """Why an apply node has no counterpart, beside what it is linked to."""
    near, loader = _loader(job, level, node)
    kind = near.type(loader) if loader else "nowhere"
    if kind not in PLAIN_LOADERS:
        return f"its ControlNet comes from {kind}"
    if kind in LOADERS:
        special = _special(_values(job, near, loader, LOADERS[kind])["control_net_name"])
        if special:
            return f"its ControlNet is of a kind of that pack's own ({special})"
    single = level.type(node) in APPLIES_ONE
    plain = {"start_percent": 0.0, "end_percent": 1.0}
    if single and any(values[name].link or values[name].constant != end for name, end in plain.items()):
        return "ComfyUI's node for one prompt has no start and end"
    if single and level.source(node, "vae_optional"):
        return "ComfyUI's node for one prompt takes no VAE"
    if level.consumers((node, 1 if single else 2)) and not level.source(node, "model_optional"):
        return "its MODEL output is in use and gets none"
    return None


def _loader(job: Job, level: Level, node: str) -> tuple[Level, str | None]:
    """Where a ControlNet comes from; also a loader that is switched off together with the apply node."""
    source = level.source(node, "control_net")
    found = job.world.origin(level, source)
    if found is not None:
        return found.level, found.source[0]
    return level, source[0] if source and source[0] in level.ids() else None


def _special(name: Value) -> str | None:
    """The part of a file's name that says that it is of a kind of Advanced-ControlNet's own."""
    if name.link:
        return None
    return next((part for part in SPECIAL_FILES if part in str(name.constant).lower()), None)


def neutral_in_use(level: Level) -> list[str]:
    """Default weights that something has a link to."""
    nodes = [node for node in level.ids() if level.type(node) == NEUTRAL]
    return [node for node in nodes if any(level.consumers((node, place)) for place in (0, 1))]


def _hand_on_model(level: Level, node: str, place: int) -> None:
    """The MODEL only passed through."""
    if source := level.source(node, "model_optional"):
        level.redirect((node, place), source)


def _leave(job: Job, level: Level, node: str, reason: str) -> None:
    job.say("left", level, node, f"Stays a node of Advanced-ControlNet: {reason}.")
