"""What a run shows: progress on the terminal, TensorBoard, and the same numbers as JSON lines beside it."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 20.0
"""Without a terminal, a line of progress this often."""


class Report:
    """Progress and logs of one process; all but the first of several keep silent.

    Args:
        folder: of the run.
        steps: optimizer steps in all.
        start: the first step of this session, so that lines of a longer, lost session can be dropped.
        main: whether this process speaks.
        on_terminal: whether the terminal, if there is one, is for a bar of progress.
    """

    def __init__(self, folder: Path, steps: int, start: int, main: bool, *, on_terminal: bool = True) -> None:
        self.steps, self.main = steps, main
        self._first = self._now = start
        self._began = self._last_line = time.monotonic()
        self._smooth: float | None = None
        self._bar = self._task = self._board = self._lines = None
        if not main:
            return
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "metrics.jsonl"
        _drop_later_lines(path, start)
        self._lines = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start or None)
        if on_terminal and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[facts]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task("train", total=steps, completed=start, facts="")

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Log the numbers of optimizer step ``step`` (counted from 1)."""
        if not self.main:
            return
        self._now = step
        loss = values["loss"]
        self._smooth = loss if self._smooth is None else 0.98 * self._smooth + 0.02 * loss
        self.values(step, values)
        speed = (step - self._first) / max(time.monotonic() - self._began, 1e-9)
        facts = f"loss {self._smooth:.4f}  {_speed(speed)}  {_memory()}"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, facts=facts)
        elif time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES or step == self.steps:
            self._last_line = time.monotonic()
            left = (self.steps - step) / speed
            log.info(
                "step %d/%d  %s  %d:%02d:%02d left",
                step,
                self.steps,
                facts,
                left // 3600,
                left // 60 % 60,
                left % 60,
            )

    def values(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers to the files only."""
        if not self.main:
            return
        self._lines.write(json.dumps({"step": step, **values}) + "\n")
        self._lines.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def animation(self, step: int, name: str, frames: list, duration: int) -> None:
        """A rendered clip for TensorBoard: PIL images, ``duration`` milliseconds each."""
        if not self.main:
            return
        from tensorboard.compat.proto.summary_pb2 import Summary

        gif = io.BytesIO()
        frames[0].save(gif, format="GIF", save_all=True, append_images=frames[1:], duration=duration, loop=0)
        width, height = frames[0].size
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif.getvalue())
        self._board.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)

    def close(self) -> None:
        """Write out what is buffered."""
        if self._bar is not None:
            self._bar.stop()
        if self._board is not None:
            self._board.close()
            self._lines.close()


def _drop_later_lines(path: Path, start: int) -> None:
    """A resumed run repeats the steps after its state; their old lines go."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= start:
                kept.append(line)
        except (ValueError, LookupError, TypeError, RecursionError):
            continue  # a line that a kill cut off
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    os.replace(temporary, path)


def _speed(steps_per_second: float) -> str:
    return (
        f"{steps_per_second:.2f} steps/s"
        if steps_per_second >= 1
        else f"{1 / max(steps_per_second, 1e-9):.2f} s/step"
    )


def _memory() -> str:
    """Peak memory: of the GPU if one is used, else of the process."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return f"GPU {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
    return f"{process_memory() / 2**30:.1f} GiB"


def process_memory() -> int:
    """Peak resident memory of this process in bytes; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def setup_logging(main: bool = True) -> None:
    """Messages of the trainer to stderr, those of libraries only if they are warnings."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger(OWN).setLevel(logging.INFO if main else logging.ERROR)
    for handler in logging.getLogger().handlers:
        if not any(isinstance(found, _Shown) for found in handler.filters):
            handler.addFilter(_Shown())


OWN = __package__.rpartition(".")[0]
"""Beginning of the names of the trainer's loggers."""

MOST_CHARACTERS = 4000
"""Of a message."""


def printable(text: str) -> str:
    """Text that may quote a file: no line breaks, no words to the terminal, no megabytes."""
    cut = text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} ..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


class _Shown(logging.Filter):
    """What a user sees, and how.

    ComfyUI warns of a missing torchaudio wherever it is imported: training makes no sound, and a new user
    would take it for an error of ours.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if record.name.startswith(OWN):
            record.msg, record.args = printable(message), None
            return True
        return "torchaudio" not in message


def facts_line(**facts: Any) -> str:
    """``a 1  b 2`` for logs."""
    return "  ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())
