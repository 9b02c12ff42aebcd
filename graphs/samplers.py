"""Samplers that a MODEL reaches: cfg, seed and start noise, which that pack carries on the MODEL."""

from __future__ import annotations

from .carriers import Settings, Windows
from .edges import carry
from .job import Job, Value
from .old import Old, as_number, choice, number, read_widgets, text, whole
from .reach import Reach
from .rules.evolved import NOISE_KINDS
from .rules.samplers import GUIDERS, SAMPLERS
from .workflow import Source
from .world import Level

KSAMPLER = Old(
    {
        "seed": whole(0),
        "control": choice("fixed"),
        "steps": whole(20),
        "cfg": number(8.0),
        "sampler_name": text("euler"),
        "scheduler": text("normal"),
        "denoise": number(1.0),
    },
    (
        "seed control steps cfg sampler_name scheduler denoise",
        "seed steps cfg sampler_name scheduler denoise",
    ),
)
RANDOM_NOISE = Old({"noise_seed": whole(0), "control": choice("fixed")}, ("noise_seed control", "noise_seed"))
KSAMPLER_SOCKETS = ("model", "positive", "negative", "latent_image")
CONTROLS = ("fixed", "increment", "decrement", "randomize")


def _order(kind: str) -> list[str] | None:
    order = SAMPLERS.get(kind, GUIDERS.get(kind))
    return None if order is None else order.split()


def _set(job: Job, level: Level, node: str, name: str, value: Value) -> bool:
    """Give a sampler's widget a value or a link; whether it has that widget."""
    if level.is_subgraph and len(job.world.instances(level)) != 1:
        return False
    if level.is_prompt:
        if name not in dict(level.nodes[node].get("inputs", {})):
            return False
        level.set_widget(node, name, value.constant, name)
    else:
        values = level.widgets(node)
        if isinstance(values, dict):
            if name not in values:
                return False
            place: object = name
        else:
            order = _order(level.type(node)) or []
            if name not in order or not isinstance(values, list):
                return False
            place = order.index(name)
            if len(values) <= place or as_number(values[place]) is None:
                return False
        slot = level.place_of(node, name)
        if slot is not None:
            level.disconnect(node, slot)
        level.set_widget(node, place, value.constant, name)
    if value.link:
        level.connect(value.link, node, name, "FLOAT" if name == "cfg" else "INT")
    return True


def _on_level(job: Job, level: Level, value: Value, near: Level) -> Value:
    """The value where a sampler stands; its constant is None where a link cannot follow."""
    if value.link is None or near is level:
        return value
    if (known := job.world.constant(level, value.link)) is not None:
        return Value(known)
    link = carry(job.world, level, value.link, near)
    return Value(value.constant if link else None, link)


def write_cfg(job: Job, level: Level, goal: Reach, cfg: Value) -> None:
    """Set cfg at every sampler and guider that gets the MODEL."""
    for near, node in [*goal.samplers, *goal.guiders]:
        kind = near.type(node)
        if kind in ("SamplerCustomAdvanced", "BasicGuider"):
            continue  # the guider has the cfg; a BasicGuider has none in either pack
        value = _on_level(job, level, cfg, near)
        if value.constant is not None and _set(job, near, node, "cfg", value):
            shown = "linked" if value.link else f"{value.constant:g}"
            job.say("changed", near, node, f"cfg is {shown} now: the custom cfg on its MODEL counted there.")
        else:
            job.say("lost", near, node, f"Set cfg to {cfg.constant:g} by hand: the custom cfg counted there.")


def write_seed(job: Job, level: Level, goal: Reach, seed: Value) -> None:
    """Set the seed at every sampler that gets the MODEL."""
    for near, node in goal.samplers:
        value = _on_level(job, level, seed, near)
        done = value.constant is not None and any(
            _set(job, near, node, name, value) for name in ("seed", "noise_seed")
        )
        if done:
            job.say("changed", near, node, "Its seed is the seed_override of the sample settings now.")
        else:
            job.say("lost", near, node, "The seed_override of the sample settings did not find a seed here.")


def write_noise(job: Job, row: object, settings: Settings, stages: list[Windows], goal: Reach) -> None:
    """Start noise: Frame Noise at the samplers where that says all of it, else Model Noise on the MODEL."""
    level, old = settings.level, settings.values
    kind = old["noise_type"]
    if kind == "empty":
        for near, node in goal.samplers:
            _without_noise(job, near, node)
        return
    if kind not in NOISE_KINDS:
        job.say("lost", level, settings.node, f"The noise_type {kind!r} is not known.")
        return
    if "gpu" in str(old["seed_gen"]):
        job.say(
            "lost", level, settings.node, "Noise is drawn on the CPU here, with other numbers than on a GPU."
        )
    frames = str(old["seed_gen"]).startswith("auto1111")
    shifted = bool(old["seed_offset"] or old["batch_offset"])
    ours = NOISE_KINDS[kind]
    first = stages[0] if stages else None
    if ours in ("repeated", "freenoise") and first is None:
        job.say("changed", level, settings.node, f"{kind} does nothing without context options.")
        ours = "independent"
    if ours == "independent" and not frames and not shifted:
        return
    shape = _shape(row, first)
    simple = (
        len(stages) == 1 and first.in_use and not first.viewed and first.values["start_percent"] == Value(0.0)
    )
    if simple and not frames and not shifted and _all_take_noise(row.level, goal):
        made: dict[tuple, str] = {}
        for near, node in goal.samplers:
            _give_noise(job, row, near, node, ours, shape, first, made)
        job.say("changed", level, settings.node, f"{kind} became Frame Noise at the samplers.")
        return
    values = {
        "kind": ours,
        "seeding": "frame" if frames else "clip",
        "seed_offset": old["seed_offset"],
        "frame_offset": old["batch_offset"],
        **{name: value.constant for name, value in shape.items()},
    }
    row.add("FlipbookModelNoise", values, {name: value.link for name, value in shape.items() if value.link})
    job.say("changed", level, settings.node, f"{kind} became Model Noise, for every sampler behind it.")


def _shape(row: object, stage: Windows | None) -> dict[str, Value]:
    """Length and overlap of the noise, those of the windows."""
    if stage is None:
        return {}
    names = ("view_length", "view_overlap") if stage.viewed else ("length", "overlap")
    length, overlap = (row.local(stage.values[name], stage.level) for name in names)
    return {"length": length, "overlap": overlap}


def _all_take_noise(level: Level, goal: Reach) -> bool:
    """Whether every sampler stands on the row's level and gets a socket for noise."""
    return bool(goal.samplers) and all(
        near is level
        and (
            near.type(node) in ("KSampler", "FlipbookContextSampler")
            or (near.type(node) == "SamplerCustomAdvanced" and _random_noise(near, node) is not None)
        )
        for near, node in goal.samplers
    )


def _random_noise(level: Level, node: str) -> str | None:
    source = level.source(node, "noise")
    return (
        source[0] if source and source[0] in level.nodes and level.type(source[0]) == "RandomNoise" else None
    )


def _give_noise(
    job: Job,
    row: object,
    level: Level,
    node: str,
    kind: str,
    shape: dict[str, Value],
    stage: Windows,
    made: dict[tuple, str],
) -> None:
    if level.type(node) == "SamplerCustomAdvanced":
        drawn = _random_noise(level, node)
        values = read_widgets(RANDOM_NOISE, level.widgets(drawn), job.complain(level, drawn))
        seed, link = values["noise_seed"], level.source(drawn, "noise_seed")
    else:
        values = read_widgets(KSAMPLER, level.widgets(node), job.complain(level, node))
        seed, link = values["seed"], level.source(node, "seed")
    control = values["control"] if values["control"] in CONTROLS else "fixed"
    key = (seed, link, control)
    if key not in made:
        constants = {"kind": kind, "seed": seed, **{name: value.constant for name, value in shape.items()}}
        links = {name: value.link for name, value in shape.items() if value.link}
        made[key] = level.add(
            "FlipbookFrameNoise",
            constants,
            {**links, "seed": link},
            node,
            job.complain(level, node),
            shift=(-340, -60),
            control=control,
        )
    noise: Source = (made[key], 0)
    if level.type(node) == "SamplerCustomAdvanced":
        level.connect(noise, node, "noise", "NOISE")
        job.say("changed", level, node, "Gets its noise from Frame Noise, with the seed of Random Noise.")
        return
    old_kind = level.type(node)
    if old_kind == "FlipbookContextSampler":
        level.connect(noise, node, "noise", "NOISE")
        return
    windows = {
        name: row.local(stage.values[name], stage.level)
        for name in ("length", "overlap", "stride", "schedule", "fuse", "closed_loop")
    }
    windows["closed_loop"] = row.loops.get((id(stage.level), stage.node), windows["closed_loop"])
    constants = {
        name: values[name] for name in ("seed", "steps", "cfg", "sampler_name", "scheduler", "denoise")
    }
    links = {name: level.source(node, name) for name in (*constants, *KSAMPLER_SOCKETS)}
    links |= {name: value.link for name, value in windows.items() if value.link}
    constants |= {name: value.constant for name, value in windows.items()}
    complain = job.complain(level, node)
    level.become(
        node, "FlipbookContextSampler", constants, {**links, "noise": noise}, complain, control=control
    )
    job.say(
        "changed",
        level,
        node,
        "Became Context Sampler with Frame Noise: its steps, cfg and sampler, and the windows of its MODEL.",
        old_kind,
    )


def _without_noise(job: Job, level: Level, node: str) -> None:
    """The sampler adds no noise."""
    kind = level.type(node)
    if kind == "KSamplerAdvanced":
        _set_first(level, node, "add_noise", "disable")
    elif kind == "SamplerCustom":
        _set_first(level, node, "add_noise", False)
    elif kind == "SamplerCustomAdvanced":
        empty = level.add("DisableNoise", {}, {}, node, job.complain(level, node), shift=(-340, -60))
        level.connect((empty, 0), node, "noise", "NOISE")
    elif kind == "KSampler" and _settled_denoise(job, level, node):
        _without_noise_advanced(job, level, node)
    else:
        job.say("lost", level, node, "Let this sampler add no noise, by hand: its MODEL had empty noise.")
        return
    job.say("changed", level, node, "Adds no noise: its MODEL had empty noise.", kind)


def _set_first(level: Level, node: str, name: str, value: object) -> None:
    if level.is_prompt:
        level.set_widget(node, name, value, name)
        return
    widgets = level.widgets(node)
    if isinstance(widgets, dict):
        level.set_widget(node, name, value, name)
    elif isinstance(widgets, list) and widgets:
        level.set_widget(node, 0, value, name)


def _settled_denoise(job: Job, level: Level, node: str) -> bool:
    return not level.source(node, "denoise") and not (
        level.source(node, "steps")
        and read_widgets(KSAMPLER, level.widgets(node), job.complain(level, node))["denoise"] != 1.0
    )


def _without_noise_advanced(job: Job, level: Level, node: str) -> None:
    """KSampler has no switch for noise, KSampler (Advanced) has."""
    values = read_widgets(KSAMPLER, level.widgets(node), job.complain(level, node))
    steps, denoise = values["steps"], values["denoise"]
    total = int(steps / denoise) if 0.0 < denoise < 1.0 else steps
    constants = {
        "add_noise": "disable",
        "noise_seed": values["seed"],
        "steps": total,
        "start_at_step": total - steps,
        **{name: values[name] for name in ("cfg", "sampler_name", "scheduler")},
    }
    links = {name: level.source(node, name) for name in (*KSAMPLER_SOCKETS, "steps", "cfg")}
    links["noise_seed"] = level.source(node, "seed")
    control = values["control"] if values["control"] in CONTROLS else "fixed"
    level.become(node, "KSamplerAdvanced", constants, links, job.complain(level, node), control=control)
