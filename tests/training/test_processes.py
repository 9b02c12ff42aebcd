"""Several processes are one process with another division of labour."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from animatediff_flipbook.training.config import to_dict
from animatediff_flipbook.training.train import train
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]

LAUNCH = """
import json, sys
sys.path[:] = [p for p in sys.path if p]
sys.path.insert(0, {comfyui!r})
import importlib.util
spec = importlib.util.spec_from_file_location(
    "animatediff_flipbook", {root!r} + "/__init__.py", submodule_search_locations=[{root!r}]
)
module = importlib.util.module_from_spec(spec)
sys.modules["animatediff_flipbook"] = module
spec.loader.exec_module(module)
import torch
torch.set_num_threads(1)
from animatediff_flipbook.training.config import from_dict
from animatediff_flipbook.training.train import train
train(from_dict(json.load(open({config!r}))))
"""


def launch(config, tmp_path, num_processes: int = 2) -> None:
    """Run a configuration under ``accelerate launch`` on CPUs (gloo).

    ``--multi_gpu`` is accelerate's word for several local processes; its ``--cpu`` starts only one.
    """
    settings = tmp_path / "config.json"
    settings.write_text(json.dumps(to_dict(config)))
    script = tmp_path / "launch.py"
    script.write_text(LAUNCH.format(comfyui=config.base.comfyui, root=str(ROOT), config=str(settings)))
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes",
        str(num_processes), "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
        "--main_process_port", "0", str(script),
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=400, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]


def curve(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_reproduce_one(stage_settings, tmp_path):
    common = ("train.steps=6", "optimizer.name=SGD", "optimizer.lr=0.1")
    one = stage_settings("motion_module", tmp_path / "one", *common, "train.batch_size=2")
    two = stage_settings("motion_module", tmp_path / "two", *common, "train.batch_size=1")
    train(one)
    launch(two, tmp_path)
    assert curve(tmp_path / "two") == pytest.approx(curve(tmp_path / "one"), abs=1e-5)
    a, b = (
        load_file(tmp_path / "one" / "result.safetensors"),
        load_file(tmp_path / "two" / "result.safetensors"),
    )
    assert max(float((a[key] - b[key]).abs().max()) for key in a) < 1e-5
    assert all(torch.isfinite(tensor).all() for tensor in b.values())
