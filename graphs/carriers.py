"""What AnimateDiff-Evolved hands to its loaders in objects of its own: context options, sample settings,
settings of the module. Read into plain values; the nodes themselves go.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .errors import GraphError
from .job import Job, Value
from .nodes import ALWAYS
from .rules.evolved import APPLIES, UNSUPPORTED_INPUTS, VIEW_TYPES, WINDOW_TYPES
from .targets import FUSE_METHODS
from .workflow import Source
from .world import Level

LABEL = "\N{MICROSCOPE}"


@dataclass
class Windows:
    """One stage of context windows."""

    level: Level
    node: str
    kind: str
    """Type of the old node."""
    values: dict[str, Value]
    """By the names of Context Windows."""
    on_equal_length: bool = False
    in_use: bool = True
    """False where the node is muted or bypassed: its successor is bypassed, too."""
    viewed: bool = False


@dataclass
class Settings:
    """Sample settings."""

    level: Level
    node: str
    values: dict[str, object]
    seed_override: Value | None = None
    cfg: Value | None = None
    beta_schedule: str | None = None
    free_init: dict[str, object] | None = None


@dataclass
class Tuning:
    """AD_SETTINGS."""

    level: Level
    node: str
    values: dict[str, object] = field(default_factory=dict)
    """Of Motion Settings; empty where all is neutral."""
    mask: Source | None = None
    lowest: float = 1.0
    highest: float = 1.0


def read_windows(job: Job, level: Level, source: Source | None) -> list[Windows]:
    """All stages that arrive at ``context_options``, the first one first."""
    stages: list[Windows] = []
    seen = set()
    while source is not None:
        near, node = _even_muted(job, level, source)
        if near is None or (id(near), node) in seen:
            break
        seen.add((id(near), node))
        kind = near.type(node)
        if kind not in WINDOW_TYPES and kind != "ADE_ViewsOnlyContextOptions":
            job.say("lost", near, node, f"{kind} is not known; its context settings are not taken over.")
            break
        stages.append(_stage(job, near, node))
        job.mark(near, node)
        level, source = near, job.socket(near, node, "prev_context")
    return stages[::-1]


def _even_muted(job: Job, level: Level, source: Source) -> tuple[Level | None, str]:
    """The node behind a link, also where a mode takes it out of use."""
    node = source[0]
    if node in level.nodes and level.type(node) in (*WINDOW_TYPES, "ADE_ViewsOnlyContextOptions"):
        return level, node
    found = job.world.origin(level, source)
    return (found.level, found.source[0]) if found else (None, "")


def _stage(job: Job, level: Level, node: str) -> Windows:
    kind = level.type(node)
    old = job.values(level, node)
    schedule, _ = WINDOW_TYPES.get(kind, ("standard_static", ""))
    values = {
        "length": old.get("context_length", Value(128)),
        "overlap": old.get("context_overlap", Value(0)),
        "stride": old.get("context_stride", Value(1)),
        "schedule": Value(schedule),
        "fuse": Value(_fuse(job, level, node, old.get("fuse_method"))),
        "closed_loop": old.get("closed_loop", Value(False)),
        "start_percent": old["start_percent"] if "start_percent" in old else Value(0.0),
    }
    _fit_overlap(job, level, node, values, "length", "overlap")
    if (guarantee := old.get("guarantee_steps")) and guarantee.constant != 1:
        job.say("lost", level, node, f"guarantee_steps {guarantee.constant} has no counterpart.")
    stage = Windows(
        level,
        node,
        kind,
        values,
        bool(old["use_on_equal_length"].constant) if "use_on_equal_length" in old else False,
        level.mode(node) == ALWAYS,
    )
    if level.source(node, "context_extras"):
        job.say("lost", level, node, "Context extras (ContextRef, NaiveReuse) have no counterpart.")
    views = level.source(node, "view_opts", "view_opts_req")
    if views and (found := job.world.origin(level, views)):
        _add_view(job, stage, *found)
    if kind == "ADE_ViewsOnlyContextOptions":
        job.say("changed", level, node, "Views only: windows of 128 frames with these views inside.")
    return stage


def _add_view(job: Job, stage: Windows, level: Level, source: Source) -> None:
    node = source[0]
    if level.type(node) not in VIEW_TYPES:
        job.say("lost", level, node, "These view options are not known.")
        return
    job.mark(level, node)
    old = job.values(level, node)
    stage.viewed = True
    stage.values |= {
        "view_length": old["view_length"],
        "view_overlap": old["view_overlap"],
        "view_schedule": Value(VIEW_TYPES[level.type(node)]),
        "view_fuse": Value(_fuse(job, level, node, old["fuse_method"])),
    }
    _fit_overlap(job, level, node, stage.values, "view_length", "view_overlap")
    if old.get("view_stride", Value(1)).constant != 1 or old.get("closed_loop", Value(False)).constant:
        job.say("lost", level, node, "Views have no stride and no closed loop here.")
    job.say("mapped", level, node, "The view settings of Context Windows.")


def _fuse(job: Job, level: Level, node: str, value: Value | None) -> str:
    if value is None:
        return FUSE_METHODS[1]
    name = str(value.constant).replace(LABEL, "").strip()
    if name not in FUSE_METHODS:
        job.say("lost", level, node, f"The fuse method {name!r} is not known; taken: pyramid.")
        return FUSE_METHODS[0]
    return name


def _fit_overlap(job: Job, level: Level, node: str, values: dict, length: str, overlap: str) -> None:
    """An overlap must be smaller than the window."""
    long, shared = values[length], values[overlap]
    if long.link or shared.link:
        return
    longest = max(2, min(int(long.constant), 128))
    if shared.constant >= longest:
        values[overlap] = Value(longest - 1)
        job.say(
            "lost",
            level,
            node,
            f"An overlap of {shared.constant} frames is no smaller than the window of {long.constant}; "
            f"taken: {longest - 1}.",
        )


def read_settings(job: Job, level: Level, source: Source | None) -> Settings | None:
    """What arrives at ``sample_settings``."""
    found = job.world.origin(level, source)
    if found is None:
        return None
    level, (node, _) = found
    if level.type(node) != "ADE_AnimateDiffSamplingSettings":
        job.say("lost", level, node, f"{level.type(node)} is not known; its settings are not taken over.")
        return None
    job.mark(level, node)
    old = job.values(level, node)
    settings = Settings(level, node, {name: value.constant for name, value in old.items()})
    if old["seed_override"].link or (level.is_prompt and "seed_override" in level.widgets(node)):
        settings.seed_override = old["seed_override"]
    if old["adapt_denoise_steps"].constant:
        job.say("changed", level, node, "adapt_denoise_steps has no effect in that pack any more; left out.")
    report_unsupported(job, level, node)
    settings.cfg = _read_cfg(job, level, job.socket(level, node, "custom_cfg"))
    settings.beta_schedule = _read_sigmas(job, level, job.socket(level, node, "sigma_schedule"))
    settings.free_init = _read_iterations(job, level, job.socket(level, node, "iteration_opts"))
    return settings


def report_unsupported(job: Job, level: Level, node: str) -> None:
    """Name the inputs in use that nothing takes over."""
    for name, source in level.inputs(node):
        if source and name in UNSUPPORTED_INPUTS:
            job.say("lost", level, node, f"No counterpart here for {UNSUPPORTED_INPUTS[name]}.")


def _read_cfg(job: Job, level: Level, source: Source | None) -> Value | None:
    found = job.world.origin(level, source)
    if found is None:
        return None
    level, (node, _) = found
    job.mark(level, node)
    report_unsupported(job, level, node)
    if level.type(node) == "ADE_CustomCFGSimple":
        value = job.values(level, node)["cfg"]
        job.say("changed", level, node, "Written as cfg at every sampler that the model reaches.")
        return value
    if level.type(node) == "ADE_CustomCFG" and (
        inner := job.world.origin(level, level.source(node, "cfg_multival"))
    ):
        place, (multival, _) = inner
        if place.type(multival) == "ADE_MultivalDynamic" and not place.source(multival, "mask_optional"):
            job.say("changed", level, node, "Written as cfg at every sampler that the model reaches.")
            return job.values(place, multival)["float_val"]
    job.say("lost", level, node, "A cfg that changes over steps, frames or the picture has no counterpart.")
    return None


def _read_sigmas(job: Job, level: Level, source: Source | None) -> str | None:
    found = job.world.origin(level, source)
    if found is None:
        return None
    level, (node, _) = found
    job.mark(level, node)
    if level.type(node) == "ADE_SigmaSchedule":
        return str(job.settled(level, node)["beta_schedule"])
    job.say("lost", level, node, "Only a sigma schedule with a name is taken over, not one put together.")
    return None


def _read_iterations(job: Job, level: Level, source: Source | None) -> dict[str, object] | None:
    found = job.world.origin(level, source)
    if found is None:
        return None
    level, (node, _) = found
    job.mark(level, node)
    if level.type(node) == "ADE_IterationOptsDefault":
        if job.settled(level, node)["iterations"] != 1:
            job.say("lost", level, node, "Sampling several times without FreeInit has no counterpart.")
        return None
    if level.type(node) != "ADE_IterationOptsFreeInit":
        job.say("lost", level, node, f"{level.type(node)} is not known.")
        return None
    old = job.settled(level, node)
    if old["init_type"] == "DinkInit_v1":
        job.say("lost", level, node, "DinkInit_v1 mixes noise in a way of its own; FreeInit takes its place.")
    for name, plain in (("sigma_step", 999), ("iter_batch_offset", 0), ("iter_seed_offset", 1)):
        if old[name] != plain:
            job.say("lost", level, node, f"{name} {old[name]} has no counterpart; FreeInit has {plain}.")
    return {
        "iterations": old["iterations"],
        "filter": old["filter"],
        "spatial_cutoff": old["d_s"],
        "temporal_cutoff": old["d_t"],
        "order": old["n_butterworth"],
        "from_pictures": old["apply_to_1st_iter"],
    }


def read_tuning(job: Job, level: Level, source: Source | None) -> Tuning | None:
    """What arrives at ``ad_settings``."""
    found = job.world.origin(level, source)
    if found is None:
        return None
    level, (node, _) = found
    kind = level.type(node)
    tuning = Tuning(level, node)
    if kind == "ADE_AnimateDiffSettings":
        for one in _chain(job, level, level.source(node, "pe_adjust"), "prev_pe_adjust"):
            _add_positions(job, tuning, *one)
        for one in _chain(job, level, level.source(node, "weight_adjust"), "prev_weight_adjust"):
            _add_factors(job, tuning, *one)
    elif kind.startswith("ADE_AnimateDiffModelSettings"):
        _add_positions(job, tuning, level, node)
        _add_factors(job, tuning, level, node)
        if mask := job.socket(level, node, "mask_motion_scale"):
            old = job.settled(level, node)
            tuning.mask, tuning.lowest = mask, old["min_motion_scale"]
            tuning.highest = old["max_motion_scale"]
    else:
        job.say("lost", level, node, f"{kind} is not known; its settings are not taken over.")
        return None
    neutral = {"stretch_rows": 0, "stretch_to": 0, "first_position": 0}
    tuning.values = {name: value for name, value in tuning.values.items() if value != neutral.get(name, 1.0)}
    return tuning


def _chain(job: Job, level: Level, source: Source | None, previous: str) -> list[tuple[Level, str]]:
    nodes: list[tuple[Level, str]] = []
    while (found := job.world.origin(level, source)) is not None:
        level, (node, _) = found
        if (level, node) in nodes:
            raise GraphError(f"The links around node {job.world.label(level, node)} run in a circle.")
        nodes.append((level, node))
        job.mark(level, node)
        source = level.source(node, previous)
    return nodes[::-1]


def _add_positions(job: Job, tuning: Tuning, level: Level, node: str) -> None:
    """Changes of the position table."""
    if "ADE_AdjustWeight" in level.type(node):
        return
    old = job.settled(level, node)
    rows = old.get("sweetspot", old.get("cap_initial_pe_length", 0))
    to = old.get("new_sweetspot", old.get("interpolate_pe_to_length", 0))
    if stretch := old.get("motion_pe_stretch", old.get("pe_stretch", 0)):
        size = 32
        rows, to = size, size + stretch
        job.say(
            "changed",
            level,
            node,
            f"Stretches the whole position table by {stretch}: written as {rows} to {to} rows, which is right "
            "for modules of 32 positions (v2, v3). For v1 set 24 and "
            f"{24 + stretch} in Motion Settings.",
        )
    if rows and not to:
        job.say("lost", level, node, f"A position table cut to {rows} rows has no counterpart.")
        rows = 0
    if to and not rows:
        rows = 32
        job.say("changed", level, node, "Stretches the whole table, taken as 32 positions (v2, v3).")
    if old.get("final_pe_idx_offset"):
        job.say("lost", level, node, "final_pe_idx_offset has no counterpart.")
    first = old.get("initial_pe_idx_offset", 0)
    if (rows and rows != to) or first:
        if tuning.values.get("stretch_rows") or tuning.values.get("first_position"):
            job.say("lost", level, node, "A second change of the position table has no counterpart.")
            return
        tuning.values["first_position"] = first
        if rows != to:
            tuning.values |= {"stretch_rows": rows, "stretch_to": to}


FACTORS: dict[str, tuple[str, ...]] = {
    "all": ("all_weights",),
    "pe": ("positions",),
    "attn": ("q", "k", "v", "out"),
    "attn_q": ("q",),
    "attn_k": ("k",),
    "attn_v": ("v",),
    "attn_out": ("out",),
}
"""Part of the weights there -> factors of Motion Settings."""


def _add_factors(job: Job, tuning: Tuning, level: Level, node: str) -> None:
    """Factors on the weights."""
    old = job.settled(level, node)
    for name, value in old.items():
        if name.endswith("_ADD") and value:
            job.say("lost", level, node, f"{name} {value:g}: adding to weights has no counterpart.")
    parts = {
        name.removesuffix("_MULT").removesuffix("_strength"): value
        for name, value in old.items()
        if name.endswith(("_MULT", "_strength"))
    }
    weight, bias = parts.pop("attn_out_weight", 1.0), parts.pop("attn_out_bias", 1.0)
    if weight != bias:
        job.say(
            "lost", level, node, "Weight and bias of output layers have one factor here, the weight's."
        )
    parts["attn_out"] = weight
    if (other := parts.pop("other", 1.0)) != 1.0:
        job.say("lost", level, node, f"A factor of {other:g} on all but the attention has no counterpart.")
    for part, factor in parts.items():
        for name in FACTORS.get(part, ()):
            tuning.values[name] = tuning.values.get(name, 1.0) * factor


def module_chain(job: Job, level: Level, source: Source | None) -> list[tuple[Level, str]]:
    """The Apply nodes behind ``m_models``, in the order in which they work: the last one first."""
    chain: list[tuple[Level, str]] = []
    while (found := job.world.origin(level, source)) is not None:
        level, (apply, _) = found
        if (level, apply) in chain:
            raise GraphError(f"The links around node {job.world.label(level, apply)} run in a circle.")
        if level.type(apply) not in APPLIES:
            job.say("lost", level, apply, f"{level.type(apply)} is not known; its motion module is left out.")
            break
        chain.append((level, apply))
        source = level.source(apply, "prev_m_models")
    return chain
