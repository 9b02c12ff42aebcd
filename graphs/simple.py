"""Nodes that become one node, in their place."""

from __future__ import annotations

from collections.abc import Callable

from .job import Job, split
from .nodes import ALWAYS
from .reach import reach
from .rules import artventurex
from .rules.evolved import BETA_SCHEDULES, LOADS
from .values import MASKED, PLAIN, convert_keyframe, convert_value
from .world import Level

VHS = "VHS_"
"""Types of VideoHelperSuite, which most of these graphs have."""


def convert_simple(job: Job, level: Level, node: str) -> bool:
    """Convert a node that stands for itself; whether this one does."""
    rule = _RULES.get(level.type(node))
    if rule is not None:
        rule(job, level, node)
    return rule is not None


def _lora(job: Job, level: Level, node: str) -> None:
    kind = level.type(node)
    values = job.values(level, node)
    name = "name" if "name" in values else "lora_name"
    constants, links = split({"motion_lora": values[name], "strength": values["strength"]})
    links["previous"] = level.source(node, "prev_motion_lora", "lora_stack")
    level.become(node, "FlipbookLoadMotionLora", constants, links, job.complain(level, node))
    job.say("mapped", level, node, "Became Load MotionLoRA.", kind)


def _load(job: Job, level: Level, node: str) -> None:
    kind = level.type(node)
    if "Inject" in kind:
        job.say("lost", level, node, "Became Load Motion Module; the control that it adds is not taken over.")
    constants, links = split({"motion_module": job.values(level, node)["model_name"]})
    constants["groupnorm"] = "joint" if (id(level), node) in job.joint else "auto"
    level.become(node, "FlipbookLoadMotionModule", constants, links, job.complain(level, node))
    job.say("mapped", level, node, "Became Load Motion Module.", kind)


def _empty_latent(job: Job, level: Level, node: str) -> None:
    kind = level.type(node)
    constants, links = split(job.values(level, node))
    level.become(node, "EmptyLatentImage", constants, links, job.complain(level, node))
    job.say("mapped", level, node, "Became Empty Latent Image.", kind)


def _unload(job: Job, level: Level, node: str) -> None:
    source = level.source(node, "model")
    job.say("mapped", level, node, "Taken out: it only freed memory. Its MODEL goes straight on.")
    if source:
        level.redirect((node, 0), source)
    level.remove(node)


def _checkpoint(job: Job, level: Level, node: str) -> None:
    kind = level.type(node)
    values = job.values(level, node)
    constants, links = split({"ckpt_name": values["ckpt_name"]})
    name = str(values["beta_schedule"].constant)
    if values["use_custom_scale_factor"].constant:
        job.say("lost", level, node, "The scale factor of its own for the VAE has no counterpart.")
    goal = reach(job.world, level, (node, 0))
    animated = {(id(near), other) for near, other in goal.samplers if _is_animated(job, near, other)}
    plain = [one for one in goal.samplers if (id(one[0]), one[1]) not in animated and one not in goal.patched]
    level.become(
        node,
        "CheckpointLoaderSimple",
        constants,
        links,
        job.complain(level, node),
        outputs={0: 0, 1: 1, 2: 2},
    )
    text = f"Became Load Checkpoint; the schedule {name} is set where the motion module is."
    schedule = BETA_SCHEDULES.get(name)
    if name in ("use existing", "autoselect", "linear (HotshotXL/default)"):
        text = "Became Load Checkpoint."
    elif plain and schedule is not None and schedule.lcm and schedule.choice == "keep":
        complain = job.complain(level, node)
        made = level.add("ModelSamplingDiscrete", {"sampling": "lcm"}, {}, node, complain, shift=(0, 140))
        level.redirect((node, 0), (made, 0))
        level.connect((node, 0), made, "model", "MODEL")
        text = "Became Load Checkpoint and ModelSamplingDiscrete (lcm)."
    elif plain:
        near, sampler = plain[0]
        job.say(
            "lost",
            level,
            node,
            f"Its schedule {name} is not set for {near.type(sampler)} #{sampler}: no motion module there.",
            kind,
        )
    job.say("mapped", level, node, text, kind)


def _is_animated(job: Job, level: Level, node: str) -> bool:
    """Whether Apply Motion Module is on a sampler's way up."""
    from .reach import upstream

    return any(
        near.type(other) == "FlipbookApplyMotionModule" for near, other in upstream(job.world, level, node)
    )


def _combine(job: Job, level: Level, node: str) -> None:
    kind = level.type(node)
    values = job.values(level, node)
    source = level.source(node, "images")
    plain = {name: value.constant for name, value in values.items()}
    complain = job.complain(level, node)
    has_vhs = any(near.type(other).startswith(VHS) for near in job.world.levels for other in near.ids())
    if has_vhs or str(plain["format"]).startswith("video/") or plain["pingpong"]:
        constants, links = split({name: value for name, value in values.items() if name != "save_image"})
        constants["save_output"] = plain["save_image"]
        links["images"] = source
        level.become(node, "VHS_VideoCombine", constants, links, complain, outputs={})
        job.say(
            "mapped", level, node, "Became Video Combine of VideoHelperSuite, with the same settings.", kind
        )
        return
    if plain["loop_count"]:
        job.say("lost", level, node, f"A WEBP runs for ever, not {plain['loop_count']} times.", kind)
    constants, links = split({"filename_prefix": values["filename_prefix"], "fps": values["frame_rate"]})
    links["images"] = source
    level.become(node, "SaveAnimatedWEBP", constants, links, complain, outputs={})
    job.say("changed", level, node, f"Became Save Animated WEBP: {plain['format']} is WEBP now.", kind)


def _value(job: Job, level: Level, node: str) -> None:
    if (id(level), node) in job.wanted:
        convert_value(job, level, node)


def _settings(job: Job, level: Level, node: str) -> None:
    values = job.tuned.get((id(level), node))
    if values is None:
        return
    kind = level.type(node)
    level.become(node, "FlipbookMotionSettings", values, {}, job.complain(level, node))
    job.say("mapped", level, node, "Became Motion Settings, with all that led to it.", kind)


_SETTINGS = ("ADE_AnimateDiffSettings", "ADE_AnimateDiffModelSettings_Release")
_SETTINGS += ("ADE_AnimateDiffModelSettingsSimple", "ADE_AnimateDiffModelSettings")
_SETTINGS += ("ADE_AnimateDiffModelSettingsAdvancedAttnStrengths",)
_RULES: dict[str, Callable[[Job, Level, str], None]] = {
    "ADE_AnimateDiffKeyframe": convert_keyframe,
    "ADE_AnimateDiffLoRALoader": _lora,
    artventurex.LORA: _lora,
    artventurex.LOAD: _load,
    **dict.fromkeys(LOADS, _load),
    "ADE_EmptyLatentImageLarge": _empty_latent,
    "ADE_AnimateDiffUnload": _unload,
    "CheckpointLoaderSimpleWithNoiseSelect": _checkpoint,
    "ADE_AnimateDiffCombine": _combine,
    artventurex.COMBINE: _combine,
    **dict.fromkeys((*PLAIN, MASKED), _value),
    **dict.fromkeys(_SETTINGS, _settings),
}
ORDER = tuple(_RULES)
"""In which the types are converted: keyframes first, because they ask for values."""

__all__ = ["ALWAYS", "ORDER", "convert_simple"]
