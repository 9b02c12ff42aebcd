"""What a person at the keyboard is told: on stderr, so that stdout carries what was asked for."""

from __future__ import annotations

import contextlib
import sys
import time


class Stop(Exception):
    """The reason why we cannot go on, as a sentence for the person at the keyboard."""


def say(text: str) -> None:
    """One line of progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def step(text: str):
    """Announce a step and, when it is done, how long it took."""
    start = time.monotonic()
    say(f"==> {text}")
    yield
    say(f"    done in {time.monotonic() - start:.1f} s")
