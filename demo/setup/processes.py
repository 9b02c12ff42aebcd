"""Running other programs: with their output in a log, or on our own terminal; none is left behind."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

from . import places
from .talk import say


def run_logged(command: list[str], log: Path) -> None:
    """Run a command with its output in `log`, showing that it lives. Raises CalledProcessError."""
    log.parent.mkdir(parents=True, exist_ok=True)
    start = shown = time.monotonic()
    terminal = sys.stderr.isatty()
    with open(log, "w", encoding="utf-8") as out:
        process = subprocess.Popen(
            command,
            cwd=places.ROOT,
            env={**os.environ, "PIP_PROGRESS_BAR": "off", "PYTHONUTF8": "1"},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        with stopping(process):
            while process.poll() is None:
                time.sleep(0.2)
                now = time.monotonic()
                if now - shown < (1 if terminal else 20):
                    continue
                shown = now
                line = f"    {now - start:4.0f} s  {last_line(log)}"
                if terminal:
                    sys.stderr.write(f"\r{line[:100]:<100}")
                    sys.stderr.flush()
                else:
                    say(line[:100])
    if terminal:
        sys.stderr.write("\r" + " " * 100 + "\r")
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def last_line(log: Path) -> str:
    """The newest line of a log that says something; pip's warnings do not."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line and not line.startswith("WARNING")), "")


@contextlib.contextmanager
def stopping(process: subprocess.Popen):
    """Never leave the child behind. On Ctrl-C it got the signal too: first let it end by itself."""
    try:
        yield
    except BaseException:
        for seconds, end in ((5, process.terminate), (10, process.kill)):
            try:
                process.wait(seconds)
                break
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                end()
        process.wait()
        raise


def run_here(command: list[str], environment: dict[str, str] | None = None) -> int:
    """Run a command on our own terminal and return its exit status."""
    process = subprocess.Popen(command, cwd=places.ROOT, env={**os.environ, **(environment or {})})
    with stopping(process):
        return process.wait()
