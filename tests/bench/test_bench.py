"""The bench itself: rows, sizes, jobs, and the whole command at a small size."""

import json
import subprocess
import sys
import time
from dataclasses import asdict

import pytest
from animatediff_flipbook.bench import jobs
from animatediff_flipbook.bench.machine import Measured, Meter, describe
from animatediff_flipbook.bench.rows import PARTS, Row, table
from animatediff_flipbook.bench.sizes import (
    ONE_ROUND,
    Budget,
    Taken,
    TooLarge,
    climb,
    ladder,
    measured_at,
    pairs,
    ratio,
)

SMALL = jobs.Options(
    families=("sd15",), types=("fp32",), parts=("step", "modules"), frames=(2,), pixels=64, width=32
)


class FreeMemory:
    """A meter of a machine with so much memory."""

    def __init__(self, size=2**40):
        self.size = size

    def free(self):
        return self.size


def one(seconds=1.0, peak=0):
    return Measured(seconds, seconds, peak)


def budget(seconds=1e6, memory=2**40):
    return Budget(time.monotonic() + seconds, memory)


def test_sizes_lead_up_to_the_one_asked_for():
    assert ladder(512) == [64, 128, 256, 512]
    assert ladder(192) == [96, 192]
    assert ladder(64) == [64]


def test_a_row_that_fits_is_taken_as_asked_for():
    tried = []
    taken = climb(512, lambda size: tried.append(size) or {"a": one()}, budget(), FreeMemory(), 2)
    assert (taken.pixels, taken.note) == (512, None)
    assert tried == [64, 64, 128, 256, 512]  # the smallest twice, to warm up


@pytest.mark.parametrize(
    ("limits", "meter", "measured", "word"),
    [
        ({"seconds": 200.0}, FreeMemory(), one(seconds=30.0), "s left"),
        ({"memory": 2**30}, FreeMemory(), one(peak=2**29), "GiB left"),
        ({}, FreeMemory(2**30), one(peak=2**29), "GiB left"),
    ],
    ids=["time", "memory allowed", "memory free"],
)
def test_a_row_that_does_not_fit_is_taken_smaller_and_says_why(limits, meter, measured, word):
    taken = climb(512, lambda size: {"a": measured}, budget(**limits), meter, 1)
    assert taken.pixels == 64
    assert taken.note.startswith("64 px and not 512") and taken.note.endswith(word)


def test_a_row_that_runs_out_of_memory_is_taken_smaller():
    def trial(size):
        if size > 128:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return {"a": one()}

    taken = climb(512, trial, budget(), FreeMemory(), 1)
    assert taken.pixels == 128 and taken.note == "128 px and not 512: 256 px ran out of memory"
    with pytest.raises(RuntimeError, match="shape"):
        climb(512, lambda size: (_ for _ in ()).throw(RuntimeError("shape")), budget(), FreeMemory(), 1)


def test_without_time_a_row_is_left_out():
    with pytest.raises(TooLarge, match="no time was left"):
        climb(512, lambda size: {"a": one()}, budget(seconds=-1.0), FreeMemory(), 1)


def test_a_long_trial_of_the_smallest_size_is_not_repeated():
    tried = []

    def trial(size):
        tried.append(size)
        time.sleep(0.05)
        return {"a": one()}

    taken = climb(512, trial, budget(seconds=0.3), FreeMemory(), 0)
    assert tried == [64] and taken.trial.keys() == {"a"}


@pytest.mark.parametrize(("seconds", "rounds"), [(100.0, 2), (0.5, 1)], ids=["time", "no time"])
def test_on_a_cpu_the_trial_is_a_round_and_a_second_follows_if_there_is_time(seconds, rounds):
    row, taken = Row("windows", {}), Taken(64, None, {"a": one(1.0), "b": one(1.0)})
    meter = Meter(__import__("torch").device("cpu"))
    found = measured_at(taken, {"a": int, "b": int}, meter, budget(seconds=seconds), row)
    assert [len(measured) for measured in found.values()] == [rounds, rounds]
    assert found["a"][0] is taken.trial["a"]
    assert row.notes == ([] if rounds == 2 else [ONE_ROUND])


def test_what_is_compared_takes_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    found = pairs(calls, Meter(__import__("torch").device("cpu")), 2)
    assert order == ["a", "b", "c", "b", "c", "a"]
    assert [len(measured) for measured in found.values()] == [2, 2, 2]


def test_ratio_is_the_median_of_the_turns():
    ours, theirs = [one(1.0), one(8.0), one(3.0)], [one(2.0), one(2.0), one(2.0)]
    assert ratio(ours, theirs) == 1.5


def test_an_error_leaves_out_its_row_alone(monkeypatch):
    def prepared(*_):
        def fill(row, own):
            if row.part == "step":
                raise RuntimeError("CUDA out of memory.\nmore words")
            row.figures["s"] = 1.0

        return fill

    monkeypatch.setattr(jobs, "_prepared", prepared)
    rows = []
    jobs.run(jobs.plan(SMALL)[0], SMALL, budget(), lambda number, row: rows.append(row))
    assert [row.notes for row in rows] == [["left out: RuntimeError: CUDA out of memory."], []]
    assert rows[1].figures == {"s": 1.0}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_part_is_planned_for_every_base_and_type(device):
    planned = [row for job in jobs.plan(jobs.Options(device=device)) for row in job.rows]
    steps = {(r.case["base"], r.case["type"], r.case["frames"]) for r in planned if r.part == "step"}
    assert len(steps) == 12
    assert {row.part for row in planned} == set(PARTS)
    stages = {(row.case["base"], row.case["stage"]) for row in planned if row.part == "train"}
    assert len(stages) == 6


def test_table_and_json_of_a_tiny_configuration(root, monkeypatch):
    """Figures of a real step and its modules, at a tenth of the width, on a machine without diffusers."""
    import torch
    from animatediff_flipbook.bench import steps

    def missing(*_):
        raise ImportError("No module named 'diffusers'")

    monkeypatch.setattr(steps, "diffusers_twin", missing)
    rows = []
    (job,) = jobs.plan(SMALL)
    jobs.run(job, SMALL, budget(), lambda number, row: rows.append(row))
    step, modules = rows
    assert step.figures["px"] == modules.figures["px"] == 64
    assert step.figures["plain s"] > 0 and step.figures["motion s"] > 0
    assert modules.figures["modules"] == 20
    assert modules.figures["ours / products"] > 0
    assert modules.figures["kernels a module"] > 20
    json.loads(json.dumps([asdict(row) for row in rows]))
    machine = describe(torch.device("cpu"), root)
    assert str(root) not in json.dumps(machine)
    text = table(rows, machine)
    heads = [line for line in text.splitlines() if line.startswith("| base")]
    assert len(heads) == 2 and "motion / plain" in heads[0]
    assert all(steps.NO_DIFFUSERS in row.notes for row in rows)
    for row in rows:
        for note in row.notes:
            assert note in text


def test_a_row_left_out_stands_in_the_table_with_its_reason():
    rows = [
        Row("step", {"base": "sd15"}, {"s": 1.23456}),
        Row("step", {"base": "sdxl"}, {}, ["left out: too large"]),
    ]
    lines = table(rows, {"device": "cpu", "GPU": None}).splitlines()
    assert lines[0] == "device cpu"
    assert [line.split("|")[1:-1] for line in lines if line.startswith("| sd")] == [
        [" sd15 ", " 1.23 ", "     "],
        [" sdxl ", " -    ", " (1) "],
    ]
    assert lines[-1] == "(1) left out: too large"


@pytest.mark.slow
def test_the_whole_command_at_a_small_size(root, tmp_path):
    command = [sys.executable, "-P", str(root / "bench" / "bench.py"), "--out", str(tmp_path)]
    command += ["--width", "64", "--pixels", "64", "--frames", "4", "--clip", "20", "--types", "fp32"]
    done = subprocess.run(
        [*command, "--families", "sd15", "--minutes", "10"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "bench.json").read_text())
    assert {row["part"] for row in result["rows"]} == set(PARTS)
    measured = [row for row in result["rows"] if row["figures"]]
    # compiling needs a C++ compiler, which not every machine has
    assert {row["part"] for row in measured} >= set(PARTS) - {"compile"}, result["rows"]
    assert (tmp_path / "bench.md").read_text().strip() in done.stdout
