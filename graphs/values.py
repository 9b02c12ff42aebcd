"""Scale and effect: a multival of AnimateDiff-Evolved, as a widget's value, a link or a Motion Value."""

from __future__ import annotations

from .job import Job, Value, split
from .workflow import Source
from .world import Level

PLAIN = ("ADE_MultivalDynamic", "ADE_MultivalDynamicFloatInput", "ADE_MultivalDynamicFloats")
MASKED = "ADE_MultivalScaledMask"


def motion_value(job: Job, level: Level, source: Source | None) -> Value | None:
    """What a scale or effect widget gets in place of a multival."""
    found = job.world.origin(level, source)
    if found is None:
        return None
    near, (node, _) = found
    kind = near.type(node)
    if kind in PLAIN and not near.source(node, "mask_optional"):
        value = job.values(near, node)["float_val"]
        if value.link is None or near is level:
            job.mark(near, node)
            text = (
                "Its link goes straight on." if value.link else f"Became the value {value.constant:g} there."
            )
            job.say("mapped", near, node, text)
            return value
    if kind not in (*PLAIN, MASKED):
        job.say("lost", near, node, f"{kind} is not known; 1 is taken in its place.")
        return None
    job.wanted.add((id(near), node))
    return Value(1.0, source)


def convert_value(job: Job, level: Level, node: str) -> None:
    """A multival that stays a node becomes Motion Value."""
    kind = level.type(node)
    values = job.values(level, node)
    if kind == MASKED:
        new = {
            "value": values["max_float_val"],
            "lowest": values["min_float_val"],
            "scaling": values["scaling"],
        }
        mask = level.source(node, "mask")
    else:
        new, mask = {"value": values["float_val"]}, level.source(node, "mask_optional")
    constants, links = split(new)
    complain = job.complain(level, node)
    level.become(node, "FlipbookMotionValue", constants, {**links, "mask": mask}, complain)
    job.say("mapped", level, node, "Became Motion Value.", kind)


def convert_keyframe(job: Job, level: Level, node: str) -> None:
    """A keyframe becomes Motion Keyframe."""
    kind = level.type(node)
    links: dict[str, Source | None] = {"previous": level.source(node, "prev_ad_keyframes")}
    for ours, names in (("scale", ("scale_multival",)), ("effect", ("effect_multival",))):
        source = level.source(node, *names)
        if (found := job.world.origin(level, source)) is not None:
            if found.level.type(found.source[0]) in (*PLAIN, MASKED):
                job.wanted.add((id(found.level), found.source[0]))
                job.done.discard((id(found.level), found.source[0]))
                links[ours] = source
            elif found.level.type(found.source[0]) == "FlipbookMotionValue":
                links[ours] = source
    if level.source(node, "per_block_replace"):
        job.say("lost", level, node, "No counterpart here for strengths of single blocks.", kind)
    constants, linked = split(job.values(level, node))
    complain = job.complain(level, node)
    level.become(node, "FlipbookMotionKeyframe", constants, {**linked, **links}, complain)
    job.say("mapped", level, node, "Became Motion Keyframe.", kind)
