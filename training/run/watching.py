"""Who looks on while a run is at work, and may stop it: a program that has started it, such as a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image


class Watcher:
    """Is told how far a run has come. This one is told and does nothing."""

    interrupts: tuple[type[BaseException], ...] = ()
    """What a layer may raise in the middle of a step when the run is to end. ComfyUI's do: the step is given
    up, and what was done before is saved."""

    def interrupted(self) -> None:
        """One of them was raised, and will not be raised again."""

    def doing(self, what: str, done: int = 0, total: int = 0) -> None:
        """What the run is at between encoding and steps, and how far; without a total nobody knows."""

    def encoded(self, what: str, done: int, total: int) -> None:
        """So much is encoded."""

    def stepped(self, step: int, values: Mapping[str, float]) -> None:
        """An optimizer step is done, the ``step``-th; ``values`` holds its ``loss`` and more."""

    def rendered(self, step: int, frames: Sequence[Image.Image], fps: float) -> None:
        """A clip was rendered."""

    def wants_stop(self) -> bool:
        """Whether the run is to end: it saves what it has and can be gone on with. Asked often."""
        return False
