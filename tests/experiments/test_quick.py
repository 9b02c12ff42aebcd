"""The quick tier whole: it trains, measures, and its gates hold. Minutes, so it is marked slow."""

import os
import subprocess
import sys
import time

import pytest


@pytest.mark.slow
def test_quick_holds_its_gates_in_five_minutes(root, tmp_path):
    start = time.monotonic()
    command = [
        sys.executable,
        str(root / "experiments/experiments.py"),
        "--comfyui",
        os.environ["COMFYUI_PATH"],
    ]
    environment = os.environ | {"FLIPBOOK_EXPERIMENTS": str(tmp_path)}
    done = subprocess.run([*command, "quick"], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "holds" in done.stdout and "FAILS" not in done.stdout
    assert time.monotonic() - start < 300
    # once more: everything is there
    again = subprocess.run([*command, "quick"], capture_output=True, text=True, env=environment, check=False)
    assert again.returncode == 0 and "step" not in again.stderr
