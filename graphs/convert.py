"""A graph of another AnimateDiff pack in, the same graph with our nodes out."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from .errors import GraphError
from .report import Report


@dataclass(frozen=True)
class Conversion:
    """A converted graph."""

    graph: dict
    """In the format of the document: a workflow, or a prompt."""
    report: Report


def foreign_types(document: object) -> set[str]:
    """Types in a document that :func:`convert` has a rule for; a cheap look, and empty for what is no graph."""
    found: set[str] = set()
    todo = [document]
    while todo:
        part = todo.pop()
        if isinstance(part, dict):
            for key in ("type", "class_type"):
                value = part.get(key)
                if isinstance(value, str) and value.startswith(("ADE_", "AnimateDiff")):
                    found.add(value)
            todo += part.values()
        elif isinstance(part, list):
            todo += part
    return found


def convert(document: object, *, note: bool = False) -> Conversion:
    """Convert a workflow or a prompt.

    Raises:
        GraphError: the document is no graph that can be read.
    """
    if not isinstance(document, dict):
        raise GraphError(f"A graph is a JSON object, got {type(document).__name__}.")
    return Conversion(copy.deepcopy(document), Report())
