"""Rows of the result and the table made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Figure = str | int | float | None

PARTS = {
    "step": "One UNet step: the image model alone, with its motion module, and diffusers' UNetMotionModel",
    "modules": "The motion modules of such a step, beside their matrix products alone",
    "files": "Files: read into memory, and a MotionLoRA put on a motion module",
    "windows": "A long clip: one sampling step in context windows",
    "train": "One training step",
    "compile": "torch.compile",
}
"""Parts of the result, in order, with their titles."""


@dataclass
class Row:
    """One line of a table."""

    part: str
    case: dict[str, Figure]
    """What was asked for."""
    figures: dict[str, Figure] = field(default_factory=dict)
    """What was measured; empty where the row was left out."""
    notes: list[str] = field(default_factory=list)
    """Why it is smaller than asked for, why it was left out, why there is nothing to compare it with."""

    def title(self) -> str:
        """For progress and for messages."""
        return " ".join([self.part, *(shown(value) for value in self.case.values())])


def shown(value: Figure) -> str:
    """A figure with three digits that count."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)


def table(rows: Sequence[Row], machine: Mapping[str, Figure]) -> str:
    """All parts as tables in Markdown, which a terminal shows as they are; notes stand below each."""
    lines = ["; ".join(f"{name} {shown(value)}" for name, value in machine.items() if value is not None)]
    for part, title in PARTS.items():
        own = [row for row in rows if row.part == part]
        if own:
            lines += ["", f"### {title}", "", *_part(own)]
    return "\n".join(lines)


def _part(rows: Sequence[Row]) -> list[str]:
    notes: list[str] = []
    for row in rows:
        notes += [note for note in row.notes if note not in notes]
    heads = list(dict.fromkeys(key for row in rows for key in (*row.case, *row.figures)))
    body = []
    for row in rows:
        values = row.case | row.figures
        marks = " ".join(f"({notes.index(note) + 1})" for note in row.notes)
        body.append([*(shown(values.get(head)) for head in heads), marks])
    widths = [max(map(len, column)) for column in zip([*heads, ""], *body, strict=True)]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    ruler = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    below = [f"({number}) {note}" for number, note in enumerate(notes, 1)]
    # A blank line apart, or Markdown makes one paragraph of them.
    return [line([*heads, ""]), ruler, *map(line, body), *(text for note in below for text in ("", note))]
