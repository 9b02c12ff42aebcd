"""Several processes are one process with another division of labour."""

import json
import socket
from pathlib import Path

import pytest
from animatediff_flipbook.tests.support_training import start_training
from animatediff_flipbook.training.run.engine import refuse_lonely_launch
from animatediff_flipbook.training.run.states import load_state
from animatediff_flipbook.training.run.train import train
from safetensors.torch import load_file

COMMON = ("train.steps=4", "optimizer.name=SGD", "optimizer.lr=0.1", "checkpoints.every=2")


def assert_same(found: Path, expected: Path) -> None:
    def curve(folder: Path) -> list[float]:
        return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]

    assert curve(found) == pytest.approx(curve(expected), abs=1e-5)
    a, b = load_file(expected / "result.safetensors"), load_file(found / "result.safetensors")
    assert a.keys() == b.keys(), "names carry no `module.`"
    assert max(float((a[key] - b[key]).abs().max()) for key in a) < 1e-5


def launch(config, folder: Path, resume: bool = False) -> None:
    """Train by the command that users type. `--multi_gpu` is its word for several processes, on CPUs too."""
    command = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2"]
    command += ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"]
    process = start_training(config, folder, resume=resume, launcher=command)
    assert process.wait(timeout=600) == 0, (folder / "process.log").read_text()[-3000:]


def test_two_processes_reproduce_one(stage_settings, tmp_path):
    train(stage_settings("motion_module", tmp_path / "one", *COMMON, "train.batch_size=2"))
    launch(stage_settings("motion_module", tmp_path / "two", *COMMON, "train.batch_size=1"), tmp_path)
    assert_same(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow  # a minute of both cores
def test_sharded_over_two_processes_and_resumed_reproduces_one(stage_settings, tmp_path):
    """AdamW's averages and the weights' are divided too; the state in the middle is that of any run. (A large
    eps, because AdamW makes steps of full length from gradients that are nothing but rounding.)"""
    common = ("train.steps=4", "checkpoints.every=2", "train.ema_decay=0.9")
    common += ("optimizer.lr=1e-2", "optimizer.arguments.eps=0.01")
    looks = ("samples.every=4", "samples.prompts=['a circle']", "samples.steps=2")
    train(stage_settings("motion_module", tmp_path / "one", *common, "train.batch_size=2"))
    two = ("motion_module", tmp_path / "two", *common, *looks, "train.batch_size=1", "train.shard=true")
    two += ("train.gradient_checkpointing=true",)
    launch(stage_settings(*two, "train.steps=2"), tmp_path)
    state = load_state(tmp_path / "two" / "checkpoints" / "step-00000002")
    same = load_state(tmp_path / "one" / "checkpoints" / "step-00000002")
    for name, group in same.tensors.items():
        assert state.tensors[name].keys() == group.keys()
        assert all(state.tensors[name][key].shape == tensor.shape for key, tensor in group.items())
    launch(stage_settings(*two), tmp_path, resume=True)
    assert_same(tmp_path / "two", tmp_path / "one")
    final = load_state(tmp_path / "two" / "checkpoints" / "step-00000004")
    before, after = state.tensors["weights"], final.tensors["weights"]
    assert max(float((after[key] - before[key]).abs().max()) for key in before) > 1e-4, "it learns"
    assert list((tmp_path / "two" / "samples").glob("step-00000004-*.webp"))


def test_sharding_needs_processes(stage_settings, tmp_path):
    with pytest.raises(ValueError, match="train.shard divides the weights over processes"):
        train(stage_settings("motion_module", tmp_path, "train.shard=true"))


@pytest.mark.slow
def test_two_machines_reproduce_one_process(stage_settings, tmp_path):
    """Two launches that meet at an address, as on two machines that share a disk; here both are this one."""
    train(stage_settings("motion_module", tmp_path / "one", *COMMON, "train.batch_size=2"))
    config = stage_settings("motion_module", tmp_path / "two", *COMMON, "train.batch_size=1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    machines = []
    for rank in range(2):
        command = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines=2", "--num_processes=2"]
        command += [f"--machine_rank={rank}", "--main_process_ip=127.0.0.1", f"--main_process_port={port}"]
        command += ["--mixed_precision=no", "--dynamo_backend=no"]
        (tmp_path / f"machine{rank}").mkdir()
        machines.append(start_training(config, tmp_path / f"machine{rank}", launcher=command))
    for rank, machine in enumerate(machines):
        log = tmp_path / f"machine{rank}" / "process.log"
        assert machine.wait(timeout=600) == 0, log.read_text()[-3000:]
    assert_same(tmp_path / "two", tmp_path / "one")
    assert not list((tmp_path / "two").rglob("*.tmp*"))


@pytest.mark.slow
def test_two_processes_resume_to_the_same_end(stage_settings, tmp_path):
    train(stage_settings("motion_module", tmp_path / "one", *COMMON, "train.batch_size=2"))
    two = ("motion_module", tmp_path / "two", *COMMON, "train.batch_size=1")
    launch(stage_settings(*two, "train.steps=2"), tmp_path)
    launch(stage_settings(*two), tmp_path, resume=True)
    assert_same(tmp_path / "two", tmp_path / "one")


def test_a_launch_that_starts_one_process_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ValueError, match="--multi_gpu"):
        refuse_lonely_launch()
    monkeypatch.setenv("LOCAL_RANK", "0")
    refuse_lonely_launch()
