"""Killed at any moment and resumed, a run ends with the bits of an uninterrupted one."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from animatediff_flipbook.tests.support_training import start_training
from animatediff_flipbook.training.run import saving, states
from animatediff_flipbook.training.run.states import clean_up, load_state, newest_state, save_state
from animatediff_flipbook.training.run.train import Run, train
from safetensors.torch import load_file

STEPS = 12
SETTINGS = (
    f"train.steps={STEPS}",
    "train.batch_size=1",
    "checkpoints.every=2",
    "checkpoints.keep=2",
    "train.ema_decay=0.9",
)


def last_step(folder) -> int:
    """The last step that a run has logged."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    complete = [line for line in lines if line.endswith("}")]
    return json.loads(complete[-1])["step"] if complete else 0


def run_and_kill(config, after_step: int, delay: float) -> bool:
    """Start or resume a run in a process of its own and kill -9 it; whether it was alive then."""
    folder = Path(config.output)
    process = start_training(config, folder / "process", resume=True)
    while process.poll() is None and last_step(folder) < after_step:
        time.sleep(0.01)
    time.sleep(delay)
    alive = process.poll() is None
    process.kill()
    process.wait()
    return alive


def assert_same_result(folder, reference) -> None:
    found, expected = load_file(folder / "result.safetensors"), load_file(reference / "result.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in found)
    a, b = newest_state(folder / "checkpoints"), newest_state(reference / "checkpoints")
    assert a.step == b.step == STEPS
    for group in ("weights", "optimizer", "ema"):
        assert all(torch.equal(a.tensors[group][key], b.tensors[group][key]) for key in b.tensors[group])


@pytest.fixture(scope="module")
def reference(stage_settings, tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    train(stage_settings("motion_module", folder, *SETTINGS))
    return folder


@pytest.mark.slow  # starts eleven processes
def test_killed_ten_times(stage_settings, reference, tmp_path):
    config = stage_settings("motion_module", tmp_path, *SETTINGS)
    chance = random.Random(1)
    kills = 0
    while kills < 10:
        # Somewhere in the next steps, at any moment of them: in a forward pass, while a state is written, ...
        done = last_step(tmp_path)
        if not run_and_kill(config, min(done + chance.randint(0, 2), STEPS - 1), chance.random() * 0.4):
            break
        kills += 1
        newest = newest_state(tmp_path / "checkpoints")
        assert newest is None or newest.step <= STEPS
    assert kills >= 5
    train(config, resume=True)
    assert_same_result(tmp_path, reference)
    assert not list((tmp_path / "checkpoints").glob(".*")), "unfinished states are cleaned up"
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith((".tmp", ".partial"))]
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, STEPS + 1)), "every step is logged once"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_saves_and_goes_on_exactly(number, stage_settings, reference, tmp_path):
    config = stage_settings("motion_module", tmp_path, *SETTINGS, "checkpoints.every=100")
    process = start_training(config, tmp_path / "process", resume=True)
    while process.poll() is None and last_step(tmp_path) < 3:
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait() == 0, (tmp_path / "process" / "process.log").read_text()[-3000:]
    state = newest_state(tmp_path / "checkpoints")
    assert 3 <= state.step < STEPS
    assert not (tmp_path / "result.safetensors").exists()
    train(config, resume=True)
    assert_same_result(tmp_path, reference)


def test_a_run_in_parts_is_the_whole_run(stage_settings, reference, tmp_path, caplog):
    part = stage_settings("motion_module", tmp_path, *SETTINGS, "train.stop_at=5")
    for _ in range(2):  # the second time there is nothing left to do
        result = train(part, resume=True)
        assert (result.file, result.steps) == (None, 5)
    assert "Stopped by train.stop_at after step 5" in caplog.text
    train(stage_settings("motion_module", tmp_path, *SETTINGS), resume=True)
    assert_same_result(tmp_path, reference)


def test_a_damaged_state_is_passed_over(stage_settings, reference, tmp_path, caplog):
    config = stage_settings("motion_module", tmp_path, *SETTINGS)
    run_and_kill(config, 7, 0.0)
    newest = sorted((tmp_path / "checkpoints").glob("step-*"))[-1]
    weights = newest / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match="weights.safetensors has changed"):
        load_state(newest)
    train(config, resume=True)
    assert f"State {newest.name} is damaged" in caplog.text
    assert_same_result(tmp_path, reference)


def test_resuming_with_other_settings_is_said(stage_settings, tmp_path, caplog):
    train(stage_settings("domain_adapter", tmp_path, "train.steps=2"))
    train(stage_settings("domain_adapter", tmp_path, "train.steps=3", "optimizer.lr=5e-4"), resume=True)
    assert "optimizer.lr was 0.001, is 0.0005" in caplog.text
    with pytest.raises(ValueError, match="2 clips per step, now there are 4"):
        train(stage_settings("domain_adapter", tmp_path, "train.steps=4", "train.batch_size=4"), resume=True)


def test_an_average_that_begins_later_begins_with_the_weights_of_then(stage_settings, tmp_path):
    train(stage_settings("domain_adapter", tmp_path, "train.steps=2"))
    config = stage_settings("domain_adapter", tmp_path, "train.steps=3", "train.ema_decay=0.9")
    run = Run(config, resume=True)
    try:
        assert all(
            torch.equal(run.parts.ema.weights[name], weight) for name, weight in run.parts.weights.items()
        )
    finally:
        run.close()


@pytest.mark.parametrize(
    "change",
    ["optimizer.arguments={weight_decay=0.5}", "optimizer.name=SGD", "optimizer.lora_plus_ratio=4.0"],
)
def test_an_optimizer_s_state_goes_on_with_its_own_settings_only(change, stage_settings, tmp_path):
    train(stage_settings("domain_adapter", tmp_path, "train.steps=1"))
    with pytest.raises(ValueError, match=rf"{change.split('=')[0]}.* was .*, is .* Set it back"):
        train(stage_settings("domain_adapter", tmp_path, "train.steps=2", change), resume=True)


@pytest.mark.parametrize("content", ["{}", "[]", '{"step": 3, "hashes": {}, "facts": null}'])
def test_a_state_without_its_facts_is_passed_over(content, stage_settings, tmp_path, caplog):
    train(stage_settings("domain_adapter", tmp_path, "train.steps=2", "checkpoints.every=1"))
    newest = sorted((tmp_path / "checkpoints").glob("step-*"))[-1]
    (newest / "state.json").write_text(content)
    assert newest_state(tmp_path / "checkpoints").step == 1
    assert f"State {newest.name} is damaged" in caplog.text


def test_stopped_at_a_checkpoint_a_state_is_written_once(stage_settings, tmp_path, monkeypatch):
    run = Run(stage_settings("domain_adapter", tmp_path, "checkpoints.every=2", "train.steps=9"), False)
    saved, step = [], run.take_step
    monkeypatch.setattr(saving, "save_state", lambda folder, number, *_: saved.append(number))

    def stops(number: int) -> dict:
        if number == 3:
            run.stopping.asked.set()
        return step(number)

    monkeypatch.setattr(run, "take_step", stops)
    run.loop()
    run.close()
    assert saved == [2, 4]


def test_a_state_just_written_stays_beside_later_ones_that_are_damaged(tmp_path):
    """A run that passed over them starts earlier; what it saves is all that it has."""
    weights = {"weights": {"a": torch.ones(2)}}
    for step in (200, 300):
        (save_state(tmp_path, step, weights, {}, keep=2) / "state.json").write_text("{")
    (tmp_path / "step-00000100_good").mkdir()
    for step in (50, 100, 150):
        save_state(tmp_path, step, weights, {}, keep=1)
        assert newest_state(tmp_path).step == step
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["step-00000100_good", "step-00000150", "step-00000200", "step-00000300"]
    save_state(tmp_path, 400, weights, {}, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000100_good", "step-00000400"]


def test_writing_a_state_again_leaves_one_at_any_moment(tmp_path, monkeypatch):
    weights = {"weights": {"a": torch.ones(2)}}
    save_state(tmp_path, 1, weights, {"old": True}, keep=1)
    save_state(tmp_path, 1, weights, {"old": False}, keep=1)
    assert newest_state(tmp_path).facts == {"old": False}
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    move, moves = os.replace, []

    def killed(source, target) -> None:
        if Path(target).name.startswith("step-"):
            moves.append(target)
            if len(moves) == 2:
                raise KeyboardInterrupt
        move(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_state(tmp_path, 1, weights, {"old": True}, keep=1)
    monkeypatch.undo()
    assert newest_state(tmp_path).facts == {"old": False}
    save_state(tmp_path, 1, weights, {"old": True}, keep=1)
    assert newest_state(tmp_path).facts == {"old": True}
    save_state(tmp_path, 2, weights, {}, keep=1)
    clean_up(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


@pytest.mark.parametrize("every", [1, 9], ids=["due", "at the end"])
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_while_the_state_is_written_loses_nothing(
    stage_settings, tmp_path, monkeypatch, first, every
):
    every = f"checkpoints.every={every}"
    run = Run(stage_settings("domain_adapter", tmp_path, "train.steps=9", every), False)
    save, step = saving.save_state, run.take_step

    def impatient(*arguments) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
        save(*arguments)

    def stopped(number: int) -> dict:
        os.kill(os.getpid(), first)
        return step(number)

    monkeypatch.setattr(saving, "save_state", impatient)
    monkeypatch.setattr(run, "take_step", stopped)
    assert run.loop().steps == 1
    run.close()
    assert newest_state(tmp_path / "checkpoints").step == 1


def test_a_run_whose_states_are_all_damaged_is_not_begun_anew(stage_settings, tmp_path):
    config = stage_settings("domain_adapter", tmp_path, "train.steps=2", "checkpoints.every=1")
    before = train(config).file.read_bytes()
    for path in (tmp_path / "checkpoints").glob("step-*/state.json"):
        path.write_text("x")
    for resume in (False, True):
        with pytest.raises(ValueError, match="holds a run, but none of its states can be read"):
            train(config, resume=resume)
    assert (tmp_path / "result.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("stage", "change"),
    [
        ("motion_module", "motion.num_heads=4"),
        ("motion_module", "motion.generation=v1"),
        ("domain_adapter", "lora.alpha=1.0"),
        ("domain_adapter", "objective.prediction=v"),
    ],
)
def test_what_the_weights_mean_cannot_change_on_the_way(stage_settings, tmp_path, stage, change):
    train(stage_settings(stage, tmp_path, "train.steps=1"))
    with pytest.raises(
        ValueError, match=rf"{change.split('=')[0]} was .*, is .*: the weights .* Set it back"
    ):
        train(stage_settings(stage, tmp_path, "train.steps=2", change), resume=True)


def test_a_full_disk_keeps_the_older_state_and_no_rubbish(tmp_path, monkeypatch):
    weights = {"weights": {"a": torch.ones(2)}}
    save_state(tmp_path, 1, weights, {}, 2)

    def full(*_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(states, "write_json", full)
    with pytest.raises(OSError, match="No space left"):
        save_state(tmp_path, 2, weights, {}, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
