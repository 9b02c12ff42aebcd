"""The sampler of ArtVentureX's pack: Apply Motion Module, Context Windows and KSampler."""

from __future__ import annotations

from .carriers import Windows
from .job import Job, Value
from .loops import EMPTY_LATENTS
from .old import as_number
from .reach import Reach
from .row import Module, Row
from .rules.artventurex import LOAD, WINDOWS
from .workflow import Source
from .world import Level

KEPT = ("seed", "steps", "cfg", "sampler_name", "scheduler", "denoise")
SOCKETS = ("positive", "negative", "latent_image")


def convert_sampler(job: Job, level: Level, node: str) -> None:
    """Put our nodes in the place of AnimateDiffSampler."""
    job.mark(level, node)
    kind = level.type(node)
    values = job.values(level, node)
    if values["inject_method"].constant != "default":
        text = f"inject_method {values['inject_method'].constant} has no counterpart; it is the default one."
        job.say("lost", level, node, text)
    row = Row(job, level, node, level.mode(node))
    row.apply(_module(job, level, node), "auto", in_place=False)
    frames = as_number(values["frame_number"].constant, whole_number=True)
    if values["frame_number"].link:
        frames = as_number(job.world.constant(level, values["frame_number"].link), whole_number=True)
    for stage in _windows(job, level, level.source(node, "sliding_window_opts")):
        row.windows(stage, Reach(), num_frames=frames)
    latent = _frames(job, row, level, node, values["frame_number"])
    constants = {name: values[name].constant for name in KEPT}
    links = {name: values[name].link for name in KEPT}
    links |= {name: level.source(node, name) for name in SOCKETS}
    links |= {"model": row.end, "latent_image": latent}
    control = values["control_after_generate"].constant
    level.become(node, "KSampler", constants, links, job.complain(level, node), control=str(control))
    job.say("mapped", level, node, "Became Apply Motion Module and KSampler.", kind)


def _module(job: Job, level: Level, node: str) -> Module:
    source = level.source(node, "motion_module")
    module = Module(level, node, Value(""), source)
    found = job.world.origin(level, source)
    if found is None or found.level.type(found.source[0]) != LOAD:
        job.say("lost", level, node, "No motion module is connected; choose one in Load Motion Module.")
        module.load = None
    elif found.level is level:
        module.links["motion_lora"] = level.source(found.source[0], "lora_stack")
    elif found.level.source(found.source[0], "lora_stack"):
        job.say("lost", level, node, "MotionLoRAs cannot follow out of their subgraph.")
    return module


def _windows(job: Job, level: Level, source: Source | None) -> list[Windows]:
    found = job.world.origin(level, source)
    if found is None:
        return []
    near, (node, _) = found
    if near.type(node) != WINDOWS:
        job.say("lost", near, node, "These window options are not known.")
        return []
    job.mark(near, node)
    old = job.values(near, node)
    values = {
        "length": old["context_length"],
        "overlap": old["context_overlap"],
        "stride": old["context_stride"],
        "closed_loop": old["closed_loop"],
        "schedule": Value("looped_uniform"),
        "fuse": Value("flat"),
        "start_percent": Value(0.0),
    }
    return [Windows(near, node, near.type(node), values)]


def _frames(job: Job, row: Row, level: Level, node: str, frames: Value) -> Source | None:
    """The latent with as many frames as the sampler was told; there it had one, here each has its own."""
    latent = level.source(node, "latent_image")
    found = job.world.origin(level, latent)
    if found is None:
        return latent
    near, (maker, slot) = found
    alone = near is level and near.consumers((maker, slot)) and len(near.consumers((maker, slot))) == 1
    if near.type(maker) in EMPTY_LATENTS and alone and latent == (maker, slot):
        links = {name: near.source(maker, name) for name in ("width", "height")}
        given = near.widgets(maker)
        if not isinstance(given, dict):
            given = dict(zip(("width", "height", "batch_size"), given or (), strict=False))
        given = {name: given[name] for name in ("width", "height") if name in given}
        kind = near.type(maker)
        if frames.link:
            links["batch_size"] = frames.link
        near.become(
            maker,
            "EmptyLatentImage",
            {**given, "batch_size": frames.constant},
            links,
            job.complain(near, maker),
        )
        job.say(
            "changed", near, maker, f"batch_size is {frames.constant} now, the sampler's frame_number.", kind
        )
        return latent
    links = {"samples": latent}
    if frames.link:
        links["amount"] = frames.link
    made = row.add("RepeatLatentBatch", {"amount": frames.constant}, links, feeds=False)
    job.say("changed", level, node, "Repeat Latent Batch makes its latent as long as frame_number says.")
    return made, 0
