"""The reading of ComfyUI's names: what it finds in small trees, and that the records are true."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def reading():
    spec = importlib.util.spec_from_file_location("host_names", HERE / "host_names.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["host_names"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


OURS = """
import comfy.windows
from comfy.windows import Window as Base, run as start

class Mine(Base):
    def __init__(self, frames):
        super().__init__(frames, dim=0)

    def cut(self, full):
        return start(full, 2)

def place():
    return comfy.windows.Kind.GOOD
"""
HOST = """
class Window(ABC):
    def __init__(self, frames, dim=0):
        pass

    def cut(self, full):
        pass

def run(full, times, quick=False):
    pass

class Kind:
    GOOD = 1
"""


@pytest.fixture
def differences(reading, tmp_path):
    """``differences(changed text of the host, reviewed)``: sentences, against HOST as the known version."""

    def tree(text):
        folder = tmp_path / f"host{len(list(tmp_path.iterdir()))}"
        (folder / "comfy").mkdir(parents=True)
        (folder / "comfy" / "windows.py").write_text(text)
        (folder / "comfy" / "__init__.py").write_text("from .windows import *")
        return reading.Tree(folder)

    def compare(text, reviewed=None):
        ours = tmp_path / "ours"
        (ours / "nodes").mkdir(parents=True, exist_ok=True)
        (ours / "nodes" / "node.py").write_text(OURS)
        uses = reading.our_uses(ours)
        known = reading.record(tree(HOST), uses)
        return reading.differences(tree(text), uses, known, reviewed or {})

    return compare


def test_the_same_tree_differs_in_nothing(differences):
    assert differences(HOST) == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("frames, dim=0", "frames, dim=0, total_frames=0", "Window.__init__: new: total_frames=0"),
        ("frames, dim=0", "frames, axis=0", "it does not know dim"),
        ("frames, dim=0", "frames, total, dim=0", "it wants total"),
        ("full, times, quick", "full, quick, times", "argument 2 is quick, and was times"),
        ("full, times, quick=False", "full, *, times, quick=False", "2 arguments, and it takes 1"),
        ("quick=False", "quick=True", "no longer: quick=False"),
        ("def run(", "def run_all(", "comfy.windows.run is gone"),
        ("GOOD", "BEST", "comfy.windows.Kind.GOOD is gone"),
        ("def cut(self, full)", "def cut(self, full, device=None)", "Window.cut: new: device=None"),
        ("run(full, times, quick=False):\n    pass", "_run(): pass\nrun = _run", "is of another kind"),
    ],
)
def test_finds_what_would_break_us(differences, old, new, words):
    assert old in HOST
    said = differences(HOST.replace(old, new))
    assert any(words in sentence for sentence in said), said
    assert any("nodes/node.py:" in sentence for sentence in said)


def test_what_somebody_has_judged_is_not_said_again(differences):
    text = HOST.replace("frames, dim=0", "frames, dim=0, total_frames=0")
    judged = {"total_frames": "passed by us"}
    names = ("comfy.windows.Window", "comfy.windows.Window.__init__")
    assert differences(text, dict.fromkeys(names, judged)) == []
    assert len(differences(text, {names[0]: judged})) == 1


@pytest.mark.parametrize("dropped", ["total_frames", "downscale_ratio_spacial"])
def test_an_argument_that_we_no_longer_pass_is_said_again(reading, tmp_path, dropped):
    """Of our own code: the judgement that we pass it does not outlive the passing."""
    reviewed = json.loads(reading.REVIEWED.read_text())
    judgements = {j[dropped] for j in reviewed.values() if dropped in j}
    assert all(reading._holds(j, dropped, reading.ROOT) for j in judgements) and judgements
    text = (reading.ROOT / "nodes" / "compat.py").read_text().replace(f'"{dropped}"', '"something"')
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes" / "compat.py").write_text(text)
    assert not any(reading._holds(j, dropped, tmp_path) for j in judgements)


def test_this_comfyui_holds_nothing_that_nobody_has_looked_at(reading, capsys, monkeypatch):
    """Of the pinned version: the record is true. Of another: the door for its changes is this test."""
    import folder_paths

    folder = os.path.dirname(folder_paths.__file__)
    monkeypatch.setattr(sys, "argv", ["host_names.py", "--comfyui", folder])
    assert reading.main() == 0, capsys.readouterr().out


def test_every_judgement_has_a_reason_and_a_name_that_we_use(reading):
    known = json.loads(reading.KNOWN.read_text())
    for name, judged in json.loads(reading.REVIEWED.read_text()).items():
        assert name == "*" or name in known
        assert all(len(reason) > 15 for reason in judged.values())
