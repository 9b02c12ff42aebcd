"""Ctrl-C and SIGTERM: a run ends after its step, and nothing that it writes is cut off."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop before its first step; everything that was finished is on the disk."""


@contextmanager
def kept_when_stopped() -> Iterator[None]:
    """Ctrl-C or SIGTERM within this block, which writes down what it finishes, loses nothing."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted from error


class Stopping:
    """Whether this process was asked to stop, and whether it may be interrupted.

    Args:
        wanted: asked too.
    """

    def __init__(self, wanted: Callable[[], bool]) -> None:
        self.asked = threading.Event()
        self._wanted = wanted
        self._writing = False

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the run after the current step; a second Ctrl-C ends it at once, unless it
        is writing what it has."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, _) -> None:
            if self._writing:
                self.asked.set()
                log.warning("The run is writing what it has; this takes a moment")
            elif self.asked.is_set() and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.asked.set()

        kept = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)

    @contextmanager
    def uninterrupted(self) -> Iterator[None]:
        """No signal ends what is written within this block."""
        before, self._writing = self._writing, True
        try:
            yield
        finally:
            self._writing = before

    def by_any(self, accelerator: Accelerator) -> bool:
        """Whether any process was asked to stop."""
        asked = self.asked.is_set() or self._wanted()
        if accelerator.num_processes == 1:
            return asked
        return bool(accelerator.reduce(torch.tensor(float(asked), device=accelerator.device), "sum") > 0)
