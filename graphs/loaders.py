"""Nodes that put motion on a MODEL: AnimateDiff-Evolved's loaders and Evolved Sampling.

Each becomes a row of ours: ModelSamplingDiscrete (for LCM), Apply Motion Module, Context Windows, Model
FreeInit, Model Noise. The last one of the row feeds what the old node fed. All of them are read before the
first one is written, because they may share what they read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .carriers import (
    Settings,
    Tuning,
    Windows,
    module_chain,
    read_settings,
    read_tuning,
    read_windows,
    report_unsupported,
)
from .controls import add_control
from .edges import carry
from .job import Job, Value
from .nodes import ALWAYS, BYPASSED
from .reach import Reach, reach, upstream
from .row import Module, Row
from .rules.evolved import APPLIES, BETA_SCHEDULES, EVOLVED_SAMPLING, GEN1, LOADS, Schedule
from .rules.samplers import SAMPLING_PATCHES
from .samplers import write_cfg, write_noise, write_seed
from .values import motion_value
from .workflow import Source
from .world import Level

LOADERS = (*GEN1, EVOLVED_SAMPLING)
ANIMATE_LCM = re.compile(r"lcm|t2v_beta", re.IGNORECASE)
"""Files of AnimateLCM, by their names."""
V2 = re.compile(r"v15_v2|sd15_v2|v2_15|mm[-_]?v2|lcm|t2v_beta", re.IGNORECASE)
"""Modules with a mid block (v2, AnimateLCM), by their names."""
OTHERS = re.compile(r"v14|v15|v3_|temporaldiff|stabili[sz]ed|mm-p|lightning|hotshot|sdxl", re.IGNORECASE)
"""Further modules whose kind the name says."""


@dataclass
class Plan:
    """What one loader becomes."""

    level: Level
    node: str
    modules: list[Module]
    stages: list[Windows]
    settings: Settings | None
    schedule: Schedule
    goal: Reach
    shadowed: bool


def read_loader(job: Job, level: Level, node: str, shadowed: bool) -> Plan:
    """Read a loader and all that it is given.

    ``shadowed``: another loader behind it replaces what it does.
    """
    job.mark(level, node)
    goal = reach(job.world, level, (node, 0))
    gen1 = level.type(node) in GEN1
    modules = [_gen1(job, level, node)] if gen1 else _gen2(job, level, node)
    settings = read_settings(job, level, _socket(job, level, node, "sample_settings", "SAMPLE_SETTINGS"))
    contexts = _socket(job, level, node, "context_options", "CONTEXT_OPTIONS")
    stages = read_windows(job, level, contexts)
    if level.type(node) == "ADE_AnimateDiffLoaderV1Advanced":
        stages = [_own_windows(job, level, node)]
    report_unsupported(job, level, node)
    schedule = _schedule(job, level, node, modules, settings, goal)
    return Plan(level, node, modules, stages, settings, schedule, goal, shadowed)


def _socket(job: Job, level: Level, node: str, name: str, kind: str) -> Source | None:
    return job.world.source(level, node, *job.old(level, node).aliases(name), kind=kind)


def write_loader(job: Job, plan: Plan) -> None:
    """Put the row in the loader's place."""
    level, node = plan.level, plan.node
    kind = level.type(node)
    row = Row(job, level, node, BYPASSED if plan.shadowed else level.mode(node))
    if kind.startswith(("AnimateDiffLoaderV1", "ADE_AnimateDiffLoaderV1")):
        latents = level.source(node, "latents")
        if latents:
            level.redirect((node, 1), latents)
    _settle_sampling(row, plan.schedule, bool(plan.modules))
    for number, module in enumerate(plan.modules):
        beta = "keep" if number else plan.schedule.choice
        row.apply(module, beta, in_place=kind in GEN1)
    for stage in plan.stages:
        row.windows(stage, plan.goal)
    if plan.settings is not None:
        _write_settings(row, plan)
    row.finish()
    parts = ["Load and Apply Motion Module"] * bool(plan.modules) + ["Context Windows"] * bool(plan.stages)
    text = (
        f"Became {' and '.join(parts)}." if parts else "Changed nothing on its MODEL, which goes straight on."
    )
    if len(plan.modules) > 1:
        text += f" {len(plan.modules)} motion modules in a row, the last one of the old chain first."
    if plan.shadowed:
        text += " A loader behind it replaces all of it in that pack: it is bypassed here."
    job.say("changed" if plan.shadowed or len(plan.modules) > 1 else "mapped", level, node, text, kind)


def _write_settings(row: Row, plan: Plan) -> None:
    job, settings = row.job, plan.settings
    if row.mode == BYPASSED:
        if settings.cfg or settings.seed_override:
            job.say(
                "lost",
                plan.level,
                plan.node,
                "It is bypassed: its cfg and seed are written nowhere.",
                row.kind,
            )
        settings.cfg = settings.seed_override = None
    if settings.cfg:
        write_cfg(job, settings.level, plan.goal, settings.cfg)
    if settings.seed_override:
        write_seed(job, settings.level, plan.goal, settings.seed_override)
    if settings.free_init:
        row.add("FlipbookModelFreeInit", settings.free_init, {})
        job.say("changed", settings.level, settings.node, "FreeInit became Model FreeInit, on the MODEL.")
    write_noise(job, row, settings, plan.stages, plan.goal)
    job.say("mapped", settings.level, settings.node, "Its settings stand at the nodes that they concern.")


def _gen1(job: Job, level: Level, node: str) -> Module:
    values = job.values(level, node)
    module = Module(level, node, values["model_name"], groupnorm=_groupnorm(job, level, node, values))
    module.links["motion_lora"] = _socket(job, level, node, "motion_lora", "MOTION_LORA")
    module.links["motion_keyframes"] = job.socket(level, node, "ad_keyframes")
    module.values["scale"] = values.get("motion_scale", Value(1.0))
    _add_values(job, module)
    _add_tuning(job, module, read_tuning(job, level, job.socket(level, node, "ad_settings")))
    return module


def _groupnorm(job: Job, level: Level, node: str, values: dict[str, Value]) -> str:
    """AnimateDiff-Evolved can treat v2 modules as if they were v1, and did in 2023."""
    if level.type(node).endswith(("V1", "V1Advanced")):
        properly = False
    else:
        properly = values.get("apply_v2_models_properly", Value(True)).constant
    if properly:
        return "auto"
    name = str(values["model_name"].constant)
    if V2.search(name):
        job.say("changed", level, node, "v2 was not applied properly there: groupnorm is joint, as it was.")
        return "joint"
    if not OTHERS.search(name):
        text = "apply_v2_models_properly is off: if this is a v2 module, set groupnorm to joint."
        job.say("changed", level, node, text)
    return "auto"


def _gen2(job: Job, level: Level, node: str) -> list[Module]:
    chain = module_chain(job, level, _socket(job, level, node, "m_models", "M_MODELS"))
    return [_applied(job, near, apply) for near, apply in chain]


def _applied(job: Job, level: Level, node: str) -> Module:
    values = job.values(level, node)
    source = _socket(job, level, node, "motion_model", "MOTION_MODEL_ADE")
    found = job.world.origin(level, source)
    module = Module(level, node, Value(""))
    tuning = None
    if found is not None and found.level.type(found.source[0]) in LOADS:
        near, (load, _) = found
        module.name = job.values(near, load)["model_name"]
        tuning = read_tuning(job, near, job.socket(near, load, "ad_settings"))
        if values.get("apply_v2_properly", Value(True)).constant is False and V2.search(
            str(module.name.constant)
        ):
            job.joint.add((id(near), load))
            job.say(
                "changed", level, node, "v2 was not applied properly there: groupnorm is joint, as it was."
            )
        module.load = source
    elif found is not None:
        module.load = source
        job.say("lost", level, node, f"Its motion module comes from {found.level.type(found.source[0])}.")
    else:
        job.say("lost", level, node, "No motion module is connected; choose one in Load Motion Module.")
    module.links["motion_lora"] = _socket(job, level, node, "motion_lora", "MOTION_LORA")
    module.links["motion_keyframes"] = job.socket(level, node, "ad_keyframes")
    _add_values(job, module)
    _add_tuning(job, module, tuning)
    for name in ("start_percent", "end_percent"):
        if name in values:
            module.values[name] = values[name]
    if control := add_control(job, level, node):
        module.links["motion_control"] = control
    report_unsupported(job, level, node)
    job.say("mapped", level, node, "Became Apply Motion Module, on the MODEL itself.")
    return module


def _add_values(job: Job, module: Module) -> None:
    """Scale and effect from multivals."""
    for name in ("scale", "effect"):
        value = motion_value(job, module.level, job.socket(module.level, module.node, f"{name}_multival"))
        if value is not None:
            module.values[name] = value


def _add_tuning(job: Job, module: Module, tuning: Tuning | None) -> None:
    """AD_SETTINGS: Motion Settings, and a mask for the scale."""
    if tuning is None:
        return
    level, node = tuning.level, tuning.node
    job.mark(level, node)
    if tuning.values:
        if link := carry(job.world, level, (node, 0), module.level):
            job.tuned[id(level), node] = tuning.values
            module.links["motion_settings"] = link
        else:
            text = "Settings of the module cannot follow out of a subgraph that is used more than once."
            job.say("lost", level, node, text)
    else:
        job.say("mapped", level, node, "All of it is neutral: there is nothing to take over.")
    if tuning.mask:
        scale = module.values.get("scale", Value(1.0))
        factor = 1.0 if scale.link else scale.constant
        if scale.link:
            job.say("lost", level, node, "A mask and a linked scale cannot be multiplied: the mask counts.")
        values = {
            "value": tuning.highest * factor,
            "lowest": tuning.lowest * factor,
            "scaling": "relative",
        }
        made = level.add(
            "FlipbookMotionValue", values, {"mask": tuning.mask}, node, job.complain(level, node)
        )
        link = carry(job.world, level, (made, 0), module.level)
        if link is None:
            level.remove(made)
            job.say("lost", level, node, "The mask of the motion scale cannot follow out of its subgraph.")
            return
        module.values["scale"] = Value(1.0, link)
        job.say("changed", level, node, "The mask of the motion scale became Motion Value.")


def _own_windows(job: Job, level: Level, node: str) -> Windows:
    """Context options that stand on the loader itself (2023)."""
    old = job.values(level, node)
    names = {"length": "context_length", "overlap": "context_overlap", "stride": "context_stride"}
    values = {ours: old[theirs] for ours, theirs in names.items()}
    values |= {
        "closed_loop": old["closed_loop"],
        "schedule": Value("looped_uniform"),
        "fuse": Value("flat"),
        "start_percent": Value(0.0),
    }
    return Windows(level, node, "", values)


def _schedule(
    job: Job, level: Level, node: str, modules: list[Module], settings: Settings | None, goal: Reach
) -> Schedule:
    """What the noise schedule becomes."""
    name = settings.beta_schedule if settings and settings.beta_schedule else None
    if name is None:
        name = str(job.settled(level, node)["beta_schedule"])
    if goal.samplers and len(goal.patched) == len(goal.samplers):
        if name not in ("use existing", "autoselect") or modules:
            text = (
                f"beta_schedule {name} is keep now: a sampling node behind it sets another one in both packs."
            )
            job.say("changed", level, node, text)
        return Schedule("keep")
    if name not in BETA_SCHEDULES:
        job.say("lost", level, node, f"The beta_schedule {name!r} is not known; taken: auto.")
        name = "autoselect"
    if name == "autoselect":
        if not modules:
            return Schedule("keep")
        module = str(modules[0].name.constant)
        if ANIMATE_LCM.search(module) and not modules[0].name.link:
            job.say(
                "changed", level, node, "autoselect means lcm for AnimateLCM: ModelSamplingDiscrete sets it."
            )
            return BETA_SCHEDULES["lcm"]
    if name == "use existing":
        for near, other in upstream(job.world, level, node):
            if near.type(other) in SAMPLING_PATCHES:
                break
            if near.type(other) == "CheckpointLoaderSimpleWithNoiseSelect":
                chosen = str(job.settled(near, other)["beta_schedule"])
                if chosen in BETA_SCHEDULES and chosen not in ("use existing", "autoselect"):
                    job.say(
                        "changed",
                        level,
                        node,
                        f"The schedule of the checkpoint loader, {chosen}, stands here.",
                    )
                    return BETA_SCHEDULES[chosen]
                break
    if name.startswith("lcm"):
        job.say("changed", level, node, f"beta_schedule {name}: ModelSamplingDiscrete (lcm) stands in front.")
    return BETA_SCHEDULES[name]


def _settle_sampling(row: Row, schedule: Schedule, has_modules: bool) -> None:
    """Sampling nodes in front of the row: AnimateDiff-Evolved overrides them, Flipbook keeps their kind."""
    job, level, node = row.job, row.level, row.node
    if schedule == Schedule("keep"):
        return
    patches = [(near, other) for near, other in upstream(job.world, level, node) if _patches(near, other)]
    if not has_modules and not schedule.lcm and schedule.choice != "linear":
        text = f"Without a motion module nothing here sets the noise schedule {schedule.choice}."
        job.say("lost", level, node, text)
        return
    if schedule.lcm:
        if not patches or not _is_lcm(*patches[0]):
            row.add("ModelSamplingDiscrete", {"sampling": "lcm"}, {})
        return
    left = []
    for near, other in patches:
        source = near.source(other, "model")
        others = reach(job.world, near, (other, 0), wall=(level, node)).samplers
        if near is level and source and not others:
            kind = near.type(other)
            near.redirect((other, 0), source)
            near.remove(other)
            text = f"{kind} #{other} in front of it is taken off: that pack overrides it."
            job.say("changed", level, node, text)
        else:
            left.append(other)
    row.end = level.source(node, "model")
    if left or not has_modules:
        row.add("ModelSamplingDiscrete", {"sampling": "eps"}, {})
        if left:
            text = f"The sampling node #{left[0]} in front serves others, too: one behind it undoes it."
            job.say("changed", level, node, text)


def _patches(level: Level, node: str) -> bool:
    return level.type(node) in SAMPLING_PATCHES


def _is_lcm(level: Level, node: str) -> bool:
    values = level.widgets(node)
    if isinstance(values, dict):
        values = [values.get("sampling"), values.get("zsnr")]
    return level.type(node) == "ModelSamplingDiscrete" and values == ["lcm", False]


__all__ = ["ALWAYS", "APPLIES", "LOADERS", "Plan", "read_loader", "write_loader"]
