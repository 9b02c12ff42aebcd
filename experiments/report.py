"""The report: for each experiment the paper's claim in words, what was found, the criteria and whether they
hold, a plot and moving clips. Made from the results' JSON files alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from . import results
from .catalogue import HERE, Experiment, experiments, settings
from .measures import TITLES
from .results import Table, Verdict

SCALE, GAP = 8, 4
"""Of shown clips: pixels to a pixel of the world, and between clips."""
SHOWN = 5
"""Clips of an arm in a picture."""
OWN_TITLES = {
    "differing_clip": "values that differ, 8 frames",
    "differing_frame": "values that differ, 1 frame",
    "differing_weights": "weights of the base that differ",
    "held_out_loss": "loss on held-out clips",
    "camera_loss": "loss on zooming videos",
    "still_steadiness": "steadiness of still captions",
    "order_matters": "difference that the order makes",
    "values": "trained values",
    "leak": "likeness to a reference clip",
    "distance": "distance from the hint, px",
}


def title(measure: str) -> str:
    """A measure in words."""
    return OWN_TITLES.get(measure) or TITLES.get(measure, measure)


def table_of(experiment: Experiment, folder: Path, told: dict[str, Any]) -> Table:
    """The results of an experiment's arms and of a tier's seeds, made by what the experiment is now; those of
    an earlier state of it are left out, and are missing.

    told: the tier's settings.
    """
    fingerprint, found = experiment.fingerprint(told), []
    for arm in experiment.script.arms(experiment.config):
        for seed in told["seeds"]:
            result = results.read(results.place(folder, experiment.name, arm, seed))
            if result is not None and result.fingerprint == fingerprint:
                found.append(result)
    return Table(found)


def missing(experiment: Experiment, table: Table, seeds: Sequence[int]) -> list[str]:
    """Arms and seeds that have no result in the table."""
    there = {(result.arm, result.seed) for result in table.results}
    arms = experiment.script.arms(experiment.config)
    return [f"{arm} (seed {seed})" for arm in arms for seed in seeds if (arm, seed) not in there]


def verdicts(chosen: Sequence[Experiment], folder: Path, told: dict[str, Any]) -> dict[str, list[Verdict]]:
    """Experiment -> its criteria; one that cannot be judged yet has failed."""
    found = {}
    for experiment in chosen:
        try:
            table = table_of(experiment, folder, told)
            found[experiment.name] = experiment.script.judge(table, experiment.config)
        except (LookupError, ValueError, ZeroDivisionError) as error:
            found[experiment.name] = [Verdict("all arms have results", str(error), False)]
    return found


def say(found: dict[str, list[Verdict]]) -> int:
    """Print every criterion; returns how many gates do not hold."""
    for name, criteria in found.items():
        for one in criteria:
            word = "holds" if one.holds else ("FAILS" if one.gate else "not seen")
            print(f"{name:18} {word:9} {one.text}: {one.figure}", flush=True)
    return sum(one.gate and not one.holds for criteria in found.values() for one in criteria)


def write(target: Path, folder: Path) -> None:
    """Write README.md, plots and clips into ``target``."""
    told = settings("full")
    target.mkdir(parents=True, exist_ok=True)
    every, parts, overview = experiments(), [], []
    judged = verdicts(every, folder, told)
    commits, weights = set(), set()
    for experiment in every:
        table = table_of(experiment, folder, told)
        commits |= {result.commit for result in table.results}
        weights |= {commit for result in table.results for commit in result.weights}
        absent = missing(experiment, table, told["seeds"])
        if table.results:
            parts.append(_section(experiment, table, judged[experiment.name], absent, target))
        overview.append(_line(experiment, table, judged[experiment.name], absent))
    head = (HERE / "report_head.md").read_text(encoding="utf-8")
    made = (
        f"Made by `python run.py experiments full`: results at commit {', '.join(sorted(commits))}, "
        f"weights trained at commit {', '.join(sorted(weights)) or 'unknown'}."
    )
    if not commits:
        made = (
            "**Nothing of it has been run in full yet**: `python run.py experiments full` does, and goes on."
        )
    rows = "\n".join(["| | Claim | Result |", "|---|---|---|", *overview])
    text = "\n\n".join([head.strip(), made, rows, *parts]) + "\n"
    (target / "README.md").write_text(text, encoding="utf-8")


def short(experiment: Experiment) -> str:
    """`E1b` of `e01b_necessity`."""
    return "E" + (experiment.name.split("_")[0][1:].lstrip("0") or "0")


def _line(experiment: Experiment, table: Table, criteria: list[Verdict], absent: list[str]) -> str:
    name = short(experiment)
    if not table.results:
        return f"| {name} | {experiment.config['title']} | not run yet |"
    gates = [one for one in criteria if one.gate]
    held = sum(one.holds for one in gates)
    word = "all" if held == len(gates) else f"{held} of"
    note = f"; {len(absent)} results are missing" if absent else ""
    if hopes := [one for one in criteria if not one.gate]:
        note = f"; hypotheses seen: {sum(one.holds for one in hopes)} of {len(hopes)}{note}"
    return f"| {name} | {experiment.config['title']} | {word} {len(gates)} criteria hold{note} |"


def _section(
    experiment: Experiment, table: Table, criteria: list[Verdict], absent: list[str], target: Path
) -> str:
    """One experiment."""
    config, measures = experiment.config, experiment.config["measures"]
    name = short(experiment)
    lines = [f"## {name}. {config['title']}", f"*The paper.* {config['claim']}"]
    if experiment.script.run.__doc__:
        lines.append(
            f"*Here.* {_words(experiment.script.__doc__)} Sampled: {_words(experiment.script.run.__doc__)}"
        )
    marks = {True: "holds", False: "**fails**"}
    rows = ["| Criterion | Found | |", "|---|---|---|"]
    for one in criteria:
        word = marks[one.holds] if one.gate else f"{'seen' if one.holds else 'not seen'} (hypothesis)"
        rows.append(f"| {one.text} | {one.figure} | {word} |")
    lines.append("\n".join(rows))
    lines.append(_figures(table, measures))
    if any(result.criteria != experiment.criteria() for result in table.results):
        lines.append("**The code of the criteria has changed since some of these results were made.**")
    if absent:
        lines.append(f"Not run yet, or not since it was changed: {', '.join(absent)}.")
    plot = target / f"{experiment.name}.svg"
    plot.write_text(_plot(table, measures[0]), encoding="utf-8")
    lines.append(f"![{title(measures[0])}]({plot.name})")
    if _clips(table, target / f"{experiment.name}.webp"):
        arms = ", ".join(result.arm for result in table.results if result.clips)
        lines.append(f"![moving clips]({experiment.name}.webp)\n\nFrom top to bottom: {arms}.")
    return "\n\n".join(lines)


def _words(text: str) -> str:
    """A docstring as one sentence after another, without the experiment's number."""
    flat = " ".join(text.split())
    return flat.split(": ", 1)[1] if flat[:1] == "E" and ": " in flat[:8] else flat


def _figures(table: Table, measures: Sequence[str]) -> str:
    """Means with intervals, and each seed's own mean below."""
    head = ["", *map(title, measures)]
    rows = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for arm in table.arms:
        cells = [_cell(table, arm, measure) for measure in measures]
        rows.append(f"| {arm.replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _cell(table: Table, arm: str, measure: str) -> str:
    try:
        found, groups = table.estimate(arm, measure), table.groups(arm, measure)
    except LookupError:
        return ""
    told = number(found.mean)
    if found.low < found.high < math.inf:
        told += f" [{number(found.low)}, {number(found.high)}]"
    if len(groups) > 1 and any(min(group) < max(group) for group in groups + [sum(groups, [])]):
        told += f"<br><sub>{', '.join(number(float(np.mean(group))) for group in groups)}</sub>"
    return told


def number(value: float) -> str:
    """Three figures that matter."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 1e-3:
        return f"{value:.0e}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _plot(table: Table, measure: str) -> str:
    """An SVG: a row for each arm, its mean with its interval, a small dot for each seed."""
    found = {}
    for arm in table.arms:
        try:
            seeds = [float(np.mean(group)) for group in table.groups(arm, measure)]
            found[arm] = (table.estimate(arm, measure), seeds)
        except LookupError:
            continue
    every = [value for e, seeds in found.values() for value in (e.low, e.high, *seeds)]
    ends = [value for value in every if math.isfinite(value)] or [0.0]
    low, high = min(0.0, *ends), max(ends)
    high = high if high > low else low + 1

    def x(value: float) -> float:
        return 190 + 400 * (value - low) / (high - low)

    height = 40 + 26 * len(found)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="{height}" font-family="sans-serif" '
        'font-size="13">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="190" y="18" font-weight="bold">{title(measure)}</text>',
        f'<line x1="{x(0):.1f}" x2="{x(0):.1f}" y1="26" y2="{height - 6}" stroke="#bbbbbb"/>',
    ]
    for row, (arm, (mean, seeds)) in enumerate(found.items()):
        y = 42 + 26 * row
        left, right = (mean.low, mean.high) if math.isfinite(mean.high) else (mean.mean, mean.mean)
        parts += [
            f'<text x="180" y="{y + 4}" text-anchor="end">{arm.replace("_", " ")}</text>',
            f'<line x1="{x(left):.1f}" x2="{x(right):.1f}" y1="{y}" y2="{y}" stroke="#4477aa" '
            'stroke-width="3"/>',
            *(f'<circle cx="{x(seed):.1f}" cy="{y}" r="2.5" fill="#999999"/>' for seed in seeds),
            f'<circle cx="{x(mean.mean):.1f}" cy="{y}" r="5" fill="#4477aa"/>',
            f'<text x="598" y="{y + 4}">{number(mean.mean)}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def _clips(table: Table, path: Path) -> bool:
    """A moving picture: a row for each arm, the same scenes and noise in each column."""
    rows = [frames[:SHOWN] for frames in (result.frames() for result in table.results) if frames is not None]
    if not rows:
        return False
    count, frames, size = len(rows), rows[0].shape[1], rows[0].shape[2]
    step = size * SCALE + GAP
    columns = max(len(row) for row in rows)
    page = np.full((frames, count * step - GAP, columns * step - GAP, 3), 255, np.uint8)
    for row, clips in enumerate(rows):
        for column, clip in enumerate(clips):
            big = clip.repeat(SCALE, 1).repeat(SCALE, 2)
            top, left = row * step, column * step
            page[:, top : top + size * SCALE, left : left + size * SCALE] = big
    first, *rest = (Image.fromarray(frame) for frame in page)
    durations = [160] * (frames - 1) + [600]  # a rest at the end tells where a clip begins anew
    first.save(path, save_all=True, append_images=rest, duration=durations, loop=0, lossless=True, method=6)
    return True
