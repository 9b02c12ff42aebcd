"""The set-up's folders in a place of the test's own, and an environment that installs nothing."""

import shutil

import pytest
from animatediff_flipbook.demo.setup import packages
from animatediff_flipbook.demo.setup.environment import Environment
from animatediff_flipbook.demo.setup.requirements import torch_choice
from animatediff_flipbook.tests.support_setup import fake_comfyui, move_home


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Another clone's folders in place of this one's."""
    move_home(tmp_path, monkeypatch)


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """An Environment whose pip only takes notes and whose probe answers from a list."""
    made = Environment(fake_comfyui(tmp_path / "c"), torch_choice(None, None), extras=False)
    made.calls, made.answers = [], []
    monkeypatch.setattr(
        packages, "pip", lambda name, *arguments, folder=None: made.calls.append((name, arguments))
    )
    monkeypatch.setattr(
        made, "probe", lambda: {"broken": made.answers.pop(0) if made.answers else {}, "gpu": False}
    )
    roomy = type("Usage", (), {"free": 1e12})  # whatever this machine has: nothing is installed
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: roomy)
    return made
