"""Where the frames of a sequence stand in the position table, when it is not row by row.

Motion modules know as many positions as they were trained with. Stretching lays a part of the table over
more frames: what falls between two rows is mixed from them. With less than a row to a frame the module takes
motion for slower than it is, and makes more of it.
"""

from __future__ import annotations

from dataclasses import dataclass


def too_many_frames(name: str, frames: int, known: int, fix: str, where: str = "in one call") -> ValueError:
    """What is said wherever more frames come together than a motion module has positions for.

    Args:
        name: of the module.
        frames: that came.
        known: the most that it takes.
        fix: a sentence or two: what to do.
        where: they came together.
    """
    return ValueError(
        f"{name} got {frames} frames {where}, expected at most {known}: it has positions for no more. {fix}"
    )


def fewer_in_a_call(known: int, setting: str = "length") -> str:
    """What to do about it at inference; ``setting`` of Context Windows says how many come together."""
    return (
        f"Animate longer clips with Context Windows of `{setting}` {known} or less (the first with "
        "start_percent 0: before it the clip runs whole), or generate fewer frames."
    )


@dataclass(frozen=True)
class PositionStretch:
    """A part of the position table, stretched."""

    rows: int = 0
    """How many rows, from the first on; 0: the whole table."""
    added: int = 0
    """How many more the stretched table has."""
    first: int = 0
    """Row of the stretched table at which a sequence begins."""

    def __post_init__(self) -> None:
        for name in ("rows", "added", "first"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` of a position stretch is 0 or more, got {getattr(self, name)}.")

    def length(self, table: int) -> int:
        """Rows left for a sequence, of a table of ``table`` rows."""
        return min(self.rows or table, table) + self.added - self.first

    def places(self, frames: int, table: int, name: str = "The motion module") -> tuple[float, ...]:
        """Row of the table for each frame of a sequence, 0 .. ``table`` - 1, as bilinear resizing has it: the
        middles of first and last keep their distance from the ends.

        Raises:
            ValueError: there are more frames than rows.
        """
        known = min(self.rows or table, table)
        if frames > self.length(table):
            left = max(self.length(table), 0)
            made = f"Motion Settings makes that of it: {known} rows, stretched by {self.added}, from row "
            fix = f"{made}{self.first} on. Raise its `stretch_by`. {fewer_in_a_call(left) if left else ''}"
            raise too_many_frames(name, frames, left, fix.rstrip())
        step = known / (known + self.added)
        middles = ((self.first + frame + 0.5) * step - 0.5 for frame in range(frames))
        return tuple(min(max(middle, 0.0), known - 1.0) for middle in middles)
