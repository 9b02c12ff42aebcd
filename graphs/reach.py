"""Which samplers a MODEL reaches, and by which way."""

from __future__ import annotations

from dataclasses import dataclass, field

from .nodes import NEVER
from .rules.samplers import GUIDERS, MODEL_INPUTS, MODEL_KINDS, SAMPLERS, SAMPLING_PATCHES
from .workflow import Source
from .world import EVERYWHERE, Level, World


@dataclass
class Reach:
    """What gets a MODEL."""

    samplers: list[tuple[Level, str]] = field(default_factory=list)
    guiders: list[tuple[Level, str]] = field(default_factory=list)
    patched: list[tuple[Level, str]] = field(default_factory=list)
    """Samplers that are only reached through a node with a noise schedule of its own."""
    nodes: set[tuple[int, str]] = field(default_factory=set)
    """Every node on the way, as (id of the level, node)."""


def reach(world: World, level: Level, source: Source, wall: tuple[Level, str] | None = None) -> Reach:
    """Follow a MODEL through all that patches it or hands it on, but not through ``wall``."""
    plain = _walk(world, level, source, wall, through_patches=False)
    full = _walk(world, level, source, wall, through_patches=True)
    full.patched = [one for one in full.samplers if one not in plain.samplers]
    return full


def _walk(
    world: World,
    level: Level,
    source: Source,
    wall: tuple[Level, str] | None,
    *,
    through_patches: bool,
) -> Reach:
    found = Reach()
    todo, seen = [(level, source)], set()
    while todo:
        level, source = todo.pop()
        if (id(level), source) in seen:
            continue
        seen.add((id(level), source))
        for near, node, place in [*world.fed(level, source), *_everywhere(world, level, source)]:
            if near.is_prompt and near.input_name(node, place).lower() not in MODEL_INPUTS:
                continue
            if wall is not None and near is wall[0] and node == wall[1]:
                continue
            found.nodes.add((id(near), node))
            kind = near.type(node)
            if kind in SAMPLERS or _looks_like_sampler(kind):
                if (near, node) not in found.samplers:
                    found.samplers.append((near, node))
            elif kind in GUIDERS and (near, node) not in found.guiders:
                found.guiders.append((near, node))
            if kind in SAMPLING_PATCHES and not through_patches:
                continue
            todo += [(near, (node, slot)) for slot in _onward(near, node)]
    return found


def _onward(level: Level, node: str) -> list[int]:
    """Outputs in which the MODEL goes on."""
    if level.mode(node) == NEVER:
        return []
    if level.is_prompt:
        return list(range(16)) if level.type(node) not in SAMPLERS or _has_pipe(level, node) else []
    return [slot for slot, kind in enumerate(level.output_kinds(node)) if carries_model(kind)]


def carries_model(kind: str) -> bool:
    """Whether a MODEL may be in what has this type."""
    return kind in MODEL_KINDS or kind.endswith(("PIPE", "PIPE_LINE"))


def _has_pipe(level: Level, node: str) -> bool:
    return "Efficient" in level.type(node) or "Eff." in level.type(node)


def _looks_like_sampler(kind: str) -> bool:
    words = kind.lower()
    return "ksampler" in words and "config" not in words and "select" not in words


def _everywhere(world: World, level: Level, source: Source) -> list[tuple[Level, str, int]]:
    """Unlinked MODEL inputs that an Anything Everywhere node feeds with it."""
    if level.is_prompt:
        return []
    spread = any(EVERYWHERE in near.type(node) for near, node, _ in world.fed(level, source))
    if not spread:
        return []
    return [
        (level, node, place)
        for node in level.ids()
        for place, (_, linked) in enumerate(level.inputs(node))
        if linked is None and level.input_kind(node, place) == "MODEL" and node != source[0]
    ]


def upstream(world: World, level: Level, node: str) -> list[tuple[Level, str]]:
    """The nodes that a MODEL comes through on its way to a node, the nearest first."""
    passed: list[tuple[Level, str]] = []
    source = world.source(level, node, "model", kind="MODEL")
    while (found := world.origin(level, source)) is not None:
        level, (other, _) = found
        if (level, other) in passed:
            break
        passed.append((level, other))
        source = level.source(other, *MODEL_INPUTS)
    return passed
