"""Intervals, resuming, judging and the report, from made results."""

import functools
import importlib
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from animatediff_flipbook.experiments import catalogue, intervals, report, results
from animatediff_flipbook.experiments.results import Result, Table
from PIL import Image

ALPHAS = ("1", "0.75", "0.5", "0.25", "0")
FULL = catalogue.settings("full")


@functools.cache
def state_of(experiment):
    (one,) = catalogue.experiments([experiment])
    return one.fingerprint(FULL), one.criteria()


def made(arm, seed, samples, values=None, experiment="e01_alpha", clips=""):
    fingerprint, criteria = state_of(experiment)
    more = {"clips": clips, "criteria": criteria, "weights": ["ba9876543210"]}
    return Result(experiment, arm, seed, fingerprint, "0123456789ab", 1.0, samples, values or {}, **more)


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


def test_one_value_a_seed_has_students_interval():
    found = intervals.estimate([[1.0], [2.0], [3.0]])
    assert found.mean == 2.0 and found.high == pytest.approx(2 + 4.302653 / 3**0.5)
    rng = np.random.default_rng(2)
    ends = [intervals.estimate(rng.normal(3.0, 1.0, (3, 1)).tolist()) for _ in range(400)]
    assert 0.92 <= np.mean([one.low < 3.0 < one.high for one in ends]) <= 0.98
    alone = intervals.estimate([[2.0]])
    assert (alone.mean, alone.low, alone.high) == (2.0, -np.inf, np.inf)


def test_yes_or_no_throughout_still_has_an_interval():
    yes, no = intervals.estimate([[1.0] * 32] * 3), intervals.estimate([[0.0] * 32] * 3)
    assert yes.mean == yes.high == 1 and yes.low == pytest.approx(0.9615, abs=1e-4)  # Wilson, 96 of 96
    assert no.mean == no.low == 0 and no.high == pytest.approx(1 - yes.low)


def test_alike_figures_that_are_no_yes_or_no_have_no_spread():
    still = [made("frozen", seed, {"speed": [0.0] * 4, "right": [0.0] * 4}) for seed in (1, 2, 3)]
    moving = [made("moving", seed, {"speed": [0.5, 0.6, 0.7, 0.8], "right": [1.0] * 4}) for seed in (1, 2, 3)]
    table = results.Table([*still, *moving])
    frozen, right = table.estimate("frozen", "speed"), table.estimate("frozen", "right")
    assert (frozen.low, frozen.high) == (0.0, 0.0) and right.high > 0.2


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


def test_differences_are_taken_clip_by_clip():
    rng = np.random.default_rng(3)
    each = [rng.normal(0, 5.0, 32) for _ in range(3)]  # clips differ far more than arms do
    table = Table(
        [made("a", seed, {"x": list(x)}, {"y": 1.0 + seed}) for seed, x in enumerate(each)]
        + [made("b", seed, {"x": list(x + 0.5 + 0.01 * x)}, {"y": 2.0 * seed}) for seed, x in enumerate(each)]
    )
    found = table.difference("a", "b", "x")
    assert found.mean == pytest.approx(table.mean("a", "x") - table.mean("b", "x"))
    assert found.high < 0 and table.estimate("a", "x").high > table.estimate("b", "x").low
    back = table.difference("b", "a", "x")
    assert (back.mean, back.low, back.high) == pytest.approx((-found.mean, -found.high, -found.low), abs=5e-3)
    assert table.difference("a", "a", "x") == intervals.Estimate(0.0, 0.0, 0.0, 3)
    values = table.difference("a", "b", "y")  # 1, 0, -1
    assert values.mean == 0 and values.high == pytest.approx(4.302653 / 3**0.5)


def test_what_differs_always_differs_for_certain():
    table = Table([made(arm, 1, {"x": [value] * 32}) for arm, value in (("a", 0.0), ("b", 1.0))])
    assert -1 == table.difference("a", "b", "x").low < table.difference("a", "b", "x").high < -0.85
    assert 0.85 < table.difference("b", "a", "x").low < table.difference("b", "a", "x").high == 1


def test_what_cannot_be_paired_is_no_difference():
    table = Table(
        [made("a", 1, {"x": [1.0, 2.0]}), made("a", 2, {"x": [1.0]}), made("b", 1, {"x": [1.0, 2.0]})]
        + [made("c", 1, {"x": [1.0]}), made("c", 2, {"x": [1.0]})]
    )
    with pytest.raises(ValueError, match=r"x of a and b cannot be paired: seeds \[1, 2\] against \[1\]"):
        table.difference("a", "b", "x")
    with pytest.raises(ValueError, match="x of a and c cannot be paired: 2 samples"):
        table.difference("a", "c", "x")
    with pytest.raises(LookupError, match="no y of a"):
        table.difference("a", "b", "y")


# --- what a result depends on ---


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of the experiments' files, to be changed."""
    here = tmp_path / "experiments"
    shutil.copytree(catalogue.HERE, here, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(catalogue, "HERE", here)
    return here


def prints():
    return {one.name: one.fingerprint(catalogue.settings("full")) for one in catalogue.experiments()}


def changed_by(copied, name, old, new):
    """Experiments whose fingerprints a change of a file changes."""
    before, text = prints(), (copied / name).read_text()
    assert old in text
    (copied / name).write_text(text.replace(old, new))
    after = prints()
    (copied / name).write_text(text)
    return {one for one in before if before[one] != after[one]}


@pytest.mark.parametrize("name", ["measures", "probes", "convolution"])
def test_what_all_experiments_use_makes_all_of_them_anew(copied, name):
    assert changed_by(copied, f"{name}.py", "import annotations", "import annotations  # changed") == set(
        prints()
    )


def test_a_script_makes_itself_anew_and_what_imports_it(copied):
    assert changed_by(copied, "expectation.py", "def losses(", "def  losses(") == {"e05_rank"}
    assert changed_by(copied, "e09_debiased.py", "def run(", "def  run(") == {"e09_debiased"}
    assert changed_by(copied, "e05_rank.toml", "zoom = 0.04", "zoom = 0.05") == {"e05_rank"}
    assert changed_by(copied, "settings.toml", "moving = 32", "moving = 33") == set(prints())


def test_what_only_judges_or_tells_makes_nothing_anew(copied):
    for name in ("report", "intervals", "results", "catalogue", "experiments"):
        assert not changed_by(copied, f"{name}.py", "import annotations", "import annotations  # changed")
    assert not changed_by(copied, "e05_rank.toml", "Section 5.3", "Section 5")
    assert not changed_by(copied, "settings.toml", "seeds = [1, 2, 3]", "seeds = [1, 2, 3, 4]")
    (before,) = catalogue.experiments(["e05"])
    told = before.criteria()
    assert not changed_by(copied, "e05_rank.py", "<= 0.3", "<= 0.4")
    (copied / "e05_rank.py").write_text((copied / "e05_rank.py").read_text().replace("<= 0.3", "<= 0.4"))
    assert before.criteria() != told


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
    assert report.say(report.verdicts([e1], tmp_path, FULL)) == 0
    write_all(tmp_path, alpha_results((0.9, 0.9, 0.9, 0.9, 0.9)))
    assert report.say(report.verdicts([e1], tmp_path, FULL)) >= 2


def test_missing_results_fail_and_are_named(tmp_path):
    (e1,) = catalogue.experiments(["e01_"])
    assert report.say(report.verdicts([e1], tmp_path, FULL)) == 1
    write_all(tmp_path, alpha_results((0.9, 0.7, 0.5, 0.3, 0.1), seeds=(1, 2)))
    absent = report.missing(e1, report.table_of(e1, tmp_path, FULL), (1, 2, 3))
    assert absent == [f"alpha_{alpha} (seed 3)" for alpha in ALPHAS]


def test_results_of_another_state_or_seed_are_missing(tmp_path):
    (e1,) = catalogue.experiments(["e01_"])
    found = alpha_results((0.9, 0.7, 0.5, 0.3, 0.1), seeds=(1, 2, 3, 4))
    old = next(result for result in found if (result.arm, result.seed) == ("alpha_0.5", 2))
    found[found.index(old)] = replace(old, fingerprint="another")
    write_all(tmp_path, found)
    table = report.table_of(e1, tmp_path, FULL)
    assert {result.seed for result in table.results} == {1, 2, 3}
    assert report.missing(e1, table, FULL["seeds"]) == ["alpha_0.5 (seed 2)"]
    report.write(tmp_path / "out", tmp_path)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "1 results are missing" in text and "not since it was changed: alpha_0.5 (seed 2)" in text


def test_report_names_criteria_that_changed_after_the_run(tmp_path):
    found = alpha_results((0.9, 0.7, 0.5, 0.3, 0.1))
    words = "criteria has changed since"
    for results_, told in ((found, False), ([replace(found[0], criteria="another"), *found[1:]], True)):
        write_all(tmp_path, results_)
        report.write(tmp_path / "out", tmp_path)
        assert (words in (tmp_path / "out" / "README.md").read_text()) == told


def test_hypotheses_are_counted_apart(tmp_path):
    arms = {"transformer": (1.0, 0.9, 0.5), "convolution": (0.9, 0.95, 0.25)}
    write_all(
        tmp_path,
        [
            made(
                *(arm, seed, {"speed": [speed] * 4, "smoothness": [alike] * 4, "direction": [right] * 4}),
                values={"values": 1000.0, "held_out_loss": 0.1},
                experiment="e04_convolution",
            )
            for arm, (speed, alike, right) in arms.items()
            for seed in (1, 2, 3)
        ],
    )
    (e4,) = catalogue.experiments(["e04"])
    table = report.table_of(e4, tmp_path, FULL)
    criteria = [results.Verdict("a", "", True), *(results.Verdict("b", "", h, False) for h in (1, 0, 1))]
    line = report._line(e4, table, criteria, ["one"])
    assert line.endswith("| all 1 criteria hold; hypotheses seen: 2 of 3; 1 results are missing |")


def test_report_shows_figures_verdicts_plots_and_moving_clips(tmp_path):
    write_all(tmp_path / "results", alpha_results((0.9, 0.9, 0.5, 0.3, 0.4)))
    report.write(tmp_path / "out", tmp_path / "results")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "results at commit 0123456789ab, weights trained at commit ba9876543210." in text
    assert "0.500 [0.500" not in text and "<sub>0.910, 0.910, 0.910</sub>" in text
    assert "1.000 [0.610, 1.000]" in text  # six of six: Wilson
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
            bench.lab.used.add("ba9876543210")
            if arm == "broken":
                raise RuntimeError("as it should")
            return results.Outcome(samples={"x": [1.0]})

    fake = replace(catalogue.experiments(["e01_"])[0], name="e01_alpha")
    monkeypatch.setattr(type(fake), "script", Script)
    monkeypatch.setattr(catalogue, "experiments", lambda names=None, tier="full": [fake])
    monkeypatch.setattr(runner, "results_folder", lambda tier: tmp_path)
    monkeypatch.setattr(runner, "enter", lambda folder: None)
    monkeypatch.setenv("FLIPBOOK_EXPERIMENTS", str(tmp_path / "state"))
    told = ("", "quick", 1, 1, "0123456789ab", {"e01_alpha": fake.fingerprint(catalogue.settings("quick"))})
    assert runner.run_seed(*told) == ["e01_alpha/broken, seed 1"]
    assert runner.run_seed(*told) == ["e01_alpha/broken, seed 1"]
    assert ran == ["one", "two", "broken", "broken"]
    kept = json.loads(Path(tmp_path / "e01_alpha" / "one-seed1.json").read_text())
    assert kept["commit"] == "0123456789ab" and kept["samples"] == {"x": [1.0]}
    assert kept["config"] == fake.config and kept["weights"] == ["ba9876543210"]
    # made by another state of the experiment, it is made again
    path = tmp_path / "e01_alpha" / "one-seed1.json"
    results.write(path, replace(results.read(path), fingerprint="others"))
    runner.run_seed(*told)
    assert ran[4:] == ["one", "broken"]
    # files that changed between the command's start and a seed's
    with pytest.raises(RuntimeError, match="e01_alpha has changed"):
        runner.run_seed(*told[:-1], {"e01_alpha": "others"})
