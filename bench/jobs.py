"""What is measured: jobs, each in a process of its own, with the rows that it fills."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from .machine import Meter
from .rows import Row
from .sizes import Budget, TooLarge

Emit = Callable[[int, Row], None]
ROW_WEIGHTS = {"step": 3, "modules": 1, "files": 1, "windows": 6, "train": 1, "compile": 1}
"""Shares of a job's time that its rows may take."""


@dataclass(frozen=True)
class Options:
    """What was asked for."""

    families: tuple[str, ...] = ("sd15", "sdxl")
    types: tuple[str, ...] = ("fp16", "bf16", "fp32")
    parts: tuple[str, ...] = ("step", "modules", "files", "windows", "train", "compile")
    frames: tuple[int, ...] = (16, 32)
    pixels: int = 512
    clip: int = 128
    width: int = 320
    device: str = "cpu"


@dataclass(frozen=True)
class Job:
    """Rows that share their models."""

    kind: str
    family: str
    dtype: str
    weight: float
    """Its share of the time, against those of the other jobs."""
    rows: tuple[Row, ...]

    def title(self) -> str:
        """For progress."""
        return f"{self.kind}, {self.family}, {self.dtype}"


def plan(options: Options) -> list[Job]:
    """All jobs, the most telling first: where time runs out, the last ones suffer."""
    preferred = ("bf16", "fp16", "fp32") if options.device == "cpu" else ("fp16", "bf16", "fp32")
    types = [dtype for dtype in preferred if dtype in options.types]
    jobs: list[Job] = []
    weights = (3.0, 1.0, 2.0) if options.device == "cpu" else (3.0, 2.0, 2.0)
    graph_weight = 5.0 if options.device == "cpu" else 3.0

    def compiling(family: str) -> Row:
        return Row("compile", {"base": family, "type": types[0], "frames": options.frames[0]})

    for family in options.families:
        for number, dtype in enumerate(types):
            steps, modules = (
                [Row(part, {"base": family, "type": dtype, "frames": frames}) for frames in options.frames]
                for part in ("step", "modules")
            )
            # The most telling first; then what is cheap; then what may take longer than there is time.
            rows = [steps[0], *modules, *steps[1:]]
            if number == 0 and options.device == "cpu":  # where it is a matter of seconds
                rows.append(compiling(family))
            jobs.append(_job("step", family, dtype, weights[number], rows, options))
        graph = [
            Row("files", {"base": family, "what": "motion module"}),
            Row("files", {"base": family, "what": "MotionLoRA, rank 64"}),
            Row("windows", {"base": family, "type": types[0], "frames": options.clip}),
        ]
        jobs.append(_job("graph", family, types[0], graph_weight, graph, options))
        precision = "bf16" if "bf16" in types else types[0]
        training = [
            Row(
                "train",
                {"base": family, "type": precision, "stage": stage, "frames": options.frames[0]},
            )
            for stage in ("motion_module", "motion_lora", "domain_adapter")
        ]
        jobs.append(_job("train", family, precision, 4.0, training, options))
        if options.device != "cpu":
            jobs.append(_job("compile", family, types[0], 6.0, [compiling(family)], options))
    # The first base in its best type, then everything else of it, then its other types.
    jobs.sort(key=lambda job: (options.families.index(job.family), job.kind == "step", job.dtype != types[0]))
    key = ("step", options.families[0], types[0])
    leading = [job for job in jobs if (job.kind, job.family, job.dtype) == key]
    others = [job for job in jobs if job not in leading]
    # Twice the share, so that one row is at a size that tells something.
    return [job for job in (*(replace(job, weight=2 * job.weight) for job in leading), *others) if job.rows]


def _job(kind: str, family: str, dtype: str, weight: float, rows: list[Row], options: Options) -> Job:
    return Job(kind, family, dtype, weight, tuple(row for row in rows if row.part in options.parts))


def run(job: Job, options: Options, budget: Budget, emit: Emit) -> None:
    """Measure a job's rows, in this process; each is handed on when it is done."""
    import torch

    from .models import FAMILIES

    family, meter = FAMILIES[job.family](options.width), Meter(torch.device(options.device))
    with torch.inference_mode(job.kind != "train"), tempfile.TemporaryDirectory() as folder:
        try:
            measure = _prepared(job, family, meter, budget, Path(folder), options)
        except (Exception, MemoryError) as error:
            for number, row in enumerate(job.rows):
                row.notes.append(reason(error))
                emit(number, row)
            return
        for number, row in enumerate(job.rows):
            try:
                rest = sum(ROW_WEIGHTS[other.part] for other in job.rows[number:])
                measure(row, budget.part(ROW_WEIGHTS[row.part] / rest))
            except (Exception, MemoryError) as error:  # the other rows go on
                row.notes.append(reason(error))
            emit(number, row)


def reason(error: BaseException) -> str:
    """Why a row is left out."""
    if isinstance(error, TooLarge):
        return str(error)
    lines = str(error).strip().splitlines() or [""]
    return f"left out: {type(error).__name__}: {lines[0][:200]}"


def _prepared(
    job: Job, family: object, meter: Meter, budget: Budget, folder: Path, options: Options
) -> Callable[[Row, Budget], None]:
    """The models of a job, and what fills one of its rows."""
    if job.kind == "graph":
        from . import graphs

        graph = graphs.Graph(family, job.dtype, meter, budget, folder)

        def of_graph(row: Row, own: Budget) -> None:
            if row.part == "windows":
                graph.ensure_module()
                graphs.measure_windows(row, graph, options.clip, options.pixels, own)
            elif row.case["what"] == "motion module":
                graphs.measure_module_file(row, graph, own)
            else:
                graph.ensure_module()
                graphs.measure_lora(row, graph, own)

        return of_graph
    if job.kind == "train":
        from . import training

        trainer = training.Trainer(family, job.dtype, meter, budget, options.frames[0])
        return lambda row, own: training.measure_stage(row, trainer, row.case["stage"], options.pixels, own)
    from . import steps

    models = steps.Models(family, job.dtype, meter, budget)
    fill = {
        "step": steps.measure_step,
        "modules": steps.measure_modules,
        "compile": steps.measure_compiled,
    }
    return lambda row, own: fill[row.part](row, models, row.case["frames"], options.pixels, own)
