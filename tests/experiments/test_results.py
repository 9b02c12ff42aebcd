"""Intervals, resuming, judging and the report, from made results."""

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from animatediff_flipbook.experiments import catalogue, intervals, report, results
from animatediff_flipbook.experiments.results import Result, Table
from PIL import Image

ALPHAS = ("1", "0.75", "0.5", "0.25", "0")


def made(arm, seed, samples, values=None, experiment="e01_alpha", clips=""):
    return Result(experiment, arm, seed, "settings", "0123456789ab", 1.0, samples, values or {}, clips)


def alpha_results(marks, seeds=(1, 2, 3)):
    """Of E1, with given watermarks."""
    clips = results.packed(np.random.default_rng(0).random((6, 8, 8, 8, 3)))
    return [
        made(
            f"alpha_{alpha}",
            seed,
            {
                "watermark": [mark, mark + 0.02],
                "sharpness": [0.02 - 0.01 * mark] * 2,
                "direction": [1.0, 1.0],
                "text": [1.0, 0.0],
            },
            clips=clips if seed == 1 else "",
        )
        for alpha, mark in zip(ALPHAS, marks, strict=True)
        for seed in seeds
    ]


def write_all(folder, found):
    for result in found:
        results.write(results.place(folder, result.experiment, result.arm, result.seed), result)


# --- intervals ---


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(100):
        found = intervals.estimate([rng.normal(3.0, 1.0, 64)], draws=400)
        hits += found.low < 3.0 < found.high
    assert 88 <= hits <= 100


def test_seeds_that_disagree_widen_the_interval():
    alike = intervals.estimate([[1.0, 2.0] * 20] * 3)
    apart = intervals.estimate([[0.0, 1.0] * 20, [1.0, 2.0] * 20, [2.0, 3.0] * 20])
    assert alike.mean == apart.mean == 1.5
    assert apart.high - apart.low > 2 * (alike.high - alike.low)


def test_rank_correlation_knows_ties_and_order():
    assert intervals.spearman([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    assert intervals.spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert intervals.spearman([1, 2, 3, 4], [1, 1, 1, 1]) == 0
    assert 0 < intervals.spearman([1, 2, 3, 4], [1, 1, 2, 2]) < 1


def test_no_sample_is_no_estimate():
    with pytest.raises(ValueError, match="at least one sample"):
        intervals.estimate([[1.0], []])


# --- results ---


def test_a_result_comes_back_and_a_damaged_one_is_made_again(tmp_path):
    clips = np.random.default_rng(0).random((8, 8, 8, 8, 3))
    result = made("alpha_1", 1, {"watermark": [0.5]}, {"loss": 0.25}, clips=results.packed(clips))
    path = results.place(tmp_path, "e01_alpha", "alpha_1", 1)
    results.write(path, result)
    assert results.read(path) == result
    np.testing.assert_array_equal(result.frames(), np.round(clips[:6] * 255).astype(np.uint8))
    path.write_text(path.read_text()[:40])
    assert results.read(path) is None
    assert results.read(tmp_path / "none.json") is None


def test_means_weigh_seeds_equally():
    table = Table(
        [made("a", 1, {"x": [0.0] * 10}), made("a", 2, {"x": [1.0] * 2}), made("b", 1, {}, {"x": 4.0})]
    )
    assert table.mean("a", "x") == 0.5
    assert table.mean("b", "x") == 4.0
    assert table.share("a", "x", 0.5) == 0.5
    with pytest.raises(LookupError, match="no y of a"):
        table.mean("a", "y")


# --- judging and report ---


def test_every_experiment_has_what_the_runner_and_the_report_need():
    found = catalogue.experiments()
    assert len(found) == 14
    priorities = [one.config["priority"] for one in found]
    assert priorities == sorted(priorities, reverse=True)
    for one in found:
        assert one.config["title"] and one.config["claim"] and one.config["measures"]
        arms = one.script.arms(one.config)
        assert len(arms) == len(set(arms)) > 0
        assert one.script.__doc__ and one.script.run.__doc__
    with pytest.raises(ValueError, match="no experiment 'e99'"):
        catalogue.experiments(["e99"])


def test_a_criterion_that_fails_is_reported_as_failed(tmp_path):
    (e1,) = catalogue.experiments(["e01_"])
    write_all(tmp_path, alpha_results((0.9, 0.7, 0.5, 0.3, 0.1)))
    assert report.say(report.verdicts([e1], tmp_path)) == 0
    write_all(tmp_path, alpha_results((0.9, 0.9, 0.9, 0.9, 0.9)))
    assert report.say(report.verdicts([e1], tmp_path)) >= 2


def test_missing_results_fail_and_are_named(tmp_path):
    (e1,) = catalogue.experiments(["e01_"])
    assert report.say(report.verdicts([e1], tmp_path)) == 1
    write_all(tmp_path, alpha_results((0.9, 0.7, 0.5, 0.3, 0.1), seeds=(1, 2)))
    absent = report.missing(e1, report.table_of(e1, tmp_path), (1, 2, 3))
    assert absent == [f"alpha_{alpha} (seed 3)" for alpha in ALPHAS]


def test_report_shows_figures_verdicts_plots_and_moving_clips(tmp_path):
    write_all(tmp_path / "results", alpha_results((0.9, 0.9, 0.5, 0.3, 0.4)))
    report.write(tmp_path / "out", tmp_path / "results")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "0123456789ab" in text
    assert "| E1 | The domain adapter's scale at inference | 2 of 4 criteria hold |" in text
    assert "**fails**" in text and "not run yet" in text
    assert "0.410" in text  # mean of the last arm: 0.4 and 0.42
    assert (tmp_path / "out" / "e01_alpha.svg").read_text().count("<circle") == 5 * (3 + 1)
    with Image.open(tmp_path / "out" / "e01_alpha.webp") as picture:
        assert picture.n_frames == 8


# --- the runner ---


def test_what_is_there_is_skipped_and_what_fails_is_told(tmp_path, monkeypatch, root):
    monkeypatch.syspath_prepend(str(root / "demo"))
    spec = importlib.util.spec_from_file_location("flipbook_experiments", root / "experiments/experiments.py")
    runner = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec.loader.exec_module(runner)
    ran = []

    class Script:
        @staticmethod
        def arms(config):
            return ["one", "two", "broken"]

        @staticmethod
        def run(arm, bench, config):
            ran.append(arm)
            if arm == "broken":
                raise RuntimeError("as it should")
            return results.Outcome(samples={"x": [1.0]})

    fake = replace(catalogue.experiments(["e01_"])[0], name="e01_alpha")
    monkeypatch.setattr(type(fake), "script", Script)
    monkeypatch.setattr(catalogue, "experiments", lambda names=None, tier="full": [fake])
    monkeypatch.setattr(runner, "results_folder", lambda tier: tmp_path)
    monkeypatch.setattr(runner, "enter", lambda folder: None)
    monkeypatch.setenv("FLIPBOOK_EXPERIMENTS", str(tmp_path / "state"))
    assert runner.run_seed("", "quick", [], 1, 1) == ["e01_alpha/broken, seed 1"]
    assert runner.run_seed("", "quick", [], 1, 1) == ["e01_alpha/broken, seed 1"]
    assert ran == ["one", "two", "broken", "broken"]
    kept = json.loads(Path(tmp_path / "e01_alpha" / "one-seed1.json").read_text())
    assert kept["commit"] and kept["samples"] == {"x": [1.0]}
    # made under other settings, it is made again
    path = tmp_path / "e01_alpha" / "one-seed1.json"
    results.write(path, replace(results.read(path), settings="others"))
    runner.run_seed("", "quick", [], 1, 1)
    assert ran[4:] == ["one", "broken"]
