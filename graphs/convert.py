"""A graph of another AnimateDiff pack in, the same graph with our nodes out."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass

from .avx import convert_sampler
from .check import faults
from .cleanup import (
    feeding,
    rename_slots,
    report_left,
    settle_instances,
    take_out_carriers,
    take_out_used,
    take_out_ways,
)
from .document import Document, read_document, types_in
from .errors import GraphError
from .groups import unfold_groups
from .job import Job
from .loaders import LOADERS, read_loader, write_loader
from .offered import convert_offered, offered_types
from .reach import reach, upstream
from .report import Report
from .rules import OLD_NODES
from .rules.artventurex import SAMPLER
from .simple import ORDER, convert_simple
from .world import World


@dataclass(frozen=True)
class Conversion:
    """A converted graph."""

    graph: dict
    """In the format of the document: a workflow, or a prompt."""
    report: Report


def foreign_types(document: object, also: Collection[str] = ()) -> set[str]:
    """Types in a document that :func:`convert` knows; a cheap look, and empty for what is no graph."""
    offered = offered_types(also)
    return {
        kind for kind in types_in(document) if kind in OLD_NODES or kind.startswith("ADE_") or kind in offered
    }


def convert(document: object, *, note: bool = False, also: Collection[str] = ()) -> Conversion:
    """Convert a workflow or a prompt.

    Args:
        document: the parsed JSON of a file: a workflow of any age, a prompt, or a prompt with what is sent
            along (``{"prompt": .., "extra_data": ..}``). It stays as it is.
        note: put the report into the graph, as a note.
        also: packs that work with ours as they are, but may be converted (:data:`~.offered.OFFERED`).

    Raises:
        GraphError: the document is no graph that can be read.
        ValueError: ``also`` names something else.
    """
    if not isinstance(document, dict):
        raise GraphError(f"A graph is a JSON object, got {type(document).__name__}.")
    report = Report()
    new = copy.deepcopy(document)
    parts = read_document(new)
    for part in parts:
        if foreign_types(part.raw, also):
            try:
                _convert_part(part, report, also)
            except (KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
                raise GraphError(f"This graph is damaged: {type(error).__name__} ({error}).") from error
            if note and not part.is_prompt:
                part.add_note(report.as_text())
    return Conversion(new, report)


def _convert_part(part: Document, report: Report, also: Collection[str]) -> None:
    levels = part.levels()
    if not part.is_prompt:
        unfold_groups(levels, report)
    world = World(levels, report)
    job = Job(world)
    if repaired := sum(level.repaired for level in levels):
        report.add("changed", "", "", f"{repaired} links of the file led nowhere and are gone.")
    before = feeding(job)
    _convert_loaders(job)
    for level in levels:
        for node in level.ids():
            if level.type(node) == SAMPLER:
                convert_sampler(job, level, node)
    for kind in ORDER:
        for level in levels:
            for node in level.ids():
                if level.type(node) == kind:
                    convert_simple(job, level, node)
    convert_offered(job, also)
    take_out_carriers(job)
    take_out_used(job)
    take_out_ways(job, before)
    rename_slots(job)
    settle_instances(job)
    report_left(job)
    for level in levels:
        level.reuse_ids()
    if wrong := faults(levels):
        raise GraphError(f"This graph could not be converted without breaking it: {wrong[0]}")
    part.write(levels)


def _convert_loaders(job: Job) -> None:
    loaders = [
        (level, node) for level in job.world.levels for node in level.ids() if level.type(node) in LOADERS
    ]
    behind = {(id(level), node): upstream(job.world, level, node) for level, node in loaders}
    plans = []
    for level, node in loaders:
        walls = [wall for wall in loaders if (level, node) in behind[id(wall[0]), wall[1]]]
        shadowed = any(not reach(job.world, level, (node, 0), wall).samplers for wall in walls)
        plans.append(read_loader(job, level, node, shadowed))
    for plan in plans:
        write_loader(job, plan)
