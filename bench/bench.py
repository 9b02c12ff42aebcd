"""How fast full-size models are with our motion modules on this machine, and against diffusers.

    python run.py bench                      tables on stdout, JSON and the tables in .flipbook/bench
    python run.py bench --device cuda
    python run.py bench --families sd15 --types bf16 --parts step modules
    python run.py bench --pack FOLDER        a folder to carry to a machine without network (docs/gpu.md)

Weights are random: they take the time of real ones. Each job (a base in a type) runs in a process of its own,
so that one which runs out of memory takes no other with it, and what is compared takes turns within it. Rows
that would take too long or too much memory are taken smaller, or left out; each says so.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "demo"))
from bootstrap import ROOT, enter

GRACE = 45.0
"""Seconds beyond its share after which a job is stopped: a call that has begun cannot be cut short."""
LEAST = 20.0
"""Seconds without which a job does not begin: it would end before its libraries are loaded."""
SHARE_OF_MEMORY = 0.8


def parse(argv: list[str]) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(prog="run.py bench", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu, cuda or another that torch knows")
    parser.add_argument("--families", nargs="+", choices=("sd15", "sdxl"), default=("sd15", "sdxl"))
    parser.add_argument(
        "--types", nargs="+", choices=("fp16", "bf16", "fp32"), default=("fp16", "bf16", "fp32")
    )
    parts = ("step", "modules", "files", "windows", "train", "compile")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--frames", nargs="+", type=int, default=(16, 32))
    parser.add_argument("--pixels", type=int, default=512, help="height and width, a multiple of 64")
    parser.add_argument("--clip", type=int, default=128, help="frames of the long clip")
    parser.add_argument("--width", type=int, default=320, help="of the models; 320 is full size")
    parser.add_argument("--minutes", type=float, default=14, help="for all of it")
    parser.add_argument(
        "--memory", type=float, help="GiB that may be taken; by default 80 %% of what is free"
    )
    parser.add_argument("--out", type=Path, default=ROOT / ".flipbook" / "bench", help="folder for results")
    parser.add_argument("--comfyui", type=Path, help="ComfyUI's folder")
    parser.add_argument(
        "--pack", type=Path, metavar="FOLDER", help="write a folder to carry, and measure nothing"
    )
    parser.add_argument("--job", nargs=3, help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args(argv)
    if rest and options.pack is None:
        parser.error(f"unknown arguments: {' '.join(rest)}")
    if options.pixels % 64 or options.pixels < 64:
        parser.error(f"--pixels must be a multiple of 64, got {options.pixels}")
    options.rest = rest
    return options


def asked(options: argparse.Namespace):
    """The same for the jobs."""
    from animatediff_flipbook.bench.jobs import Options

    chosen = {name: tuple(getattr(options, name)) for name in ("families", "types", "parts", "frames")}
    single = {name: getattr(options, name) for name in ("pixels", "clip", "width", "device")}
    return Options(**chosen, **single)


def measure(options: argparse.Namespace) -> int:
    """Run all jobs, write the results, print the tables."""
    from animatediff_flipbook.bench.jobs import plan
    from animatediff_flipbook.bench.rows import table

    jobs = plan(asked(options))
    end = time.monotonic() + 60 * options.minutes
    machine, rows = describe_machine(options), []
    for number, job in enumerate(jobs):
        share = job.weight / sum(other.weight for other in jobs[number:])
        seconds = share * max(0.0, end - time.monotonic() - GRACE)
        progress(f"==> {number + 1} of {len(jobs)}: {job.title()}, up to {seconds:.0f} s")
        if seconds < LEAST:
            for row in job.rows:
                row.notes.append("left out: no time was left for it (--minutes)")
            rows += job.rows
        else:
            rows += run_apart(options, number, job, seconds)
        # After each job, so that what is stopped has not been for nothing.
        text = table(rows, machine)
        options.out.mkdir(parents=True, exist_ok=True)
        result = {"machine": machine, "rows": [asdict(row) for row in rows]}
        write(options.out / "bench.json", json.dumps(result, indent=1) + "\n")
        write(options.out / "bench.md", text + "\n")
    print(text)
    progress(f"==> bench.json and bench.md are in {options.out}")
    return 0 if any(row.figures for row in rows) else 1


def progress(line: str) -> None:
    """On stderr."""
    print(line, file=sys.stderr, flush=True)


def write(path: Path, text: str) -> None:
    """Whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def run_apart(options: argparse.Namespace, number: int, job, seconds: float) -> list:
    """A job's rows, measured by a process of its own; rows that it did not come to say why."""
    from animatediff_flipbook.bench.rows import Row

    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "rows.jsonl"
        command = [sys.executable, *(["-P"] if sys.version_info >= (3, 11) else []), __file__, *sys.argv[1:]]
        # Threads that wait for others must not count as work.
        environment = {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ
        process = subprocess.Popen(
            [*command, "--job", str(number), str(seconds), str(results)], env=environment
        )
        try:
            status = process.wait(seconds + GRACE)
            why = f"left out: its process ended with status {status}"
            if status < 0:
                why = f"left out: its process was ended by signal {-status}, as a rule for want of memory"
        except subprocess.TimeoutExpired:
            why = f"left out: not done after {seconds + GRACE:.0f} s"
        finally:
            process.kill()
            process.wait()
        done = {}
        if results.exists():
            for line in results.read_text(encoding="utf-8").splitlines():
                index, row = json.loads(line)
                done[index] = Row(**row)
        for index, row in enumerate(job.rows):
            if index not in done:
                row.notes.append(why)
    return [done.get(index, row) for index, row in enumerate(job.rows)]


def run_job(options: argparse.Namespace) -> int:
    """What the process of one job does: a line of JSON for each row."""
    import torch
    from animatediff_flipbook.bench.jobs import plan, run
    from animatediff_flipbook.bench.machine import GIB, Meter
    from animatediff_flipbook.bench.sizes import Budget

    number, seconds, results = int(options.job[0]), float(options.job[1]), Path(options.job[2])
    free = Meter(torch.device(options.device)).free()
    memory = int(options.memory * GIB) if options.memory else int(SHARE_OF_MEMORY * free)
    budget = Budget(time.monotonic() + seconds, memory)
    chosen = asked(options)

    def emit(index: int, row) -> None:
        with open(results, "a", encoding="utf-8") as file:
            file.write(json.dumps([index, asdict(row)]) + "\n")
        progress(f"    {row.title()}: {'; '.join(row.notes) or 'done'}")

    run(plan(chosen)[number], chosen, budget, emit)
    return 0


def describe_machine(options: argparse.Namespace) -> dict:
    """The machine."""
    import torch
    from animatediff_flipbook.bench.machine import describe

    return describe(torch.device(options.device), ROOT)


def main(argv: list[str]) -> int:
    """0 when something was measured; 130 when it was stopped."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end the job in order, as Ctrl-C does
    options = parse(argv)
    if options.pack is not None:
        sys.path.insert(0, str(Path(__file__).resolve().parent))  # Python's -P leaves it out
        from pack import write_pack

        return write_pack(options.pack, options.comfyui, options.rest)
    enter(options.comfyui, cpu=options.device == "cpu")
    try:
        return run_job(options) if options.job else measure(options)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
