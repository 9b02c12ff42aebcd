"""The Python environment: what is installed, when again, and what is made anew."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from animatediff_flipbook.demo.setup import packages, places, venv
from animatediff_flipbook.demo.setup.environment import PROBE, Environment
from animatediff_flipbook.demo.setup.requirements import TORCH, TORCHAUDIO, torch_choice
from animatediff_flipbook.demo.setup.talk import Stop
from animatediff_flipbook.tests.support_setup import fake_comfyui


def test_installs_once_and_then_trusts_stamp_and_probe(environment):
    environment.answers = [{"torch": ["torch"], "comfyui": ["aiohttp"]}]
    environment.ensure()
    assert [name for name, _ in environment.calls] == ["torch", "comfyui"]
    assert environment.calls[0][1] == ("install", *TORCH)
    assert environment.calls[1][1] == ("install", "aiohttp>=3.11.8", "requests")
    environment.calls.clear()
    environment.ensure()
    assert environment.calls == []


def test_installs_again_what_the_probe_finds_broken(environment):
    environment.ensure()
    environment.calls.clear()
    environment.answers = [{"comfyui": ["aiohttp"]}]
    environment.ensure()
    assert [name for name, _ in environment.calls] == ["comfyui"]


def test_an_interrupted_installation_leaves_no_stamp(environment, monkeypatch):
    def interrupted(*_, folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(packages, "pip", interrupted)
    with pytest.raises(KeyboardInterrupt):
        environment.ensure()
    assert not list(places.VENV.glob("flipbook-*.json"))


def test_a_damaged_stamp_counts_as_none(environment):
    environment.ensure()
    environment.calls.clear()
    environment.stamp("comfyui").write_text("{")
    environment.ensure()
    assert [name for name, _ in environment.calls] == ["comfyui"]


def test_makes_a_broken_environment_anew_once(environment, monkeypatch):
    anew = []
    monkeypatch.setattr(venv, "make", lambda: anew.append(True))
    environment.answers = [{"torch": ["torch"]}, {"torch": ["torch"]}, {"torch": ["torch"]}, {}]
    environment.ensure()
    assert anew == [True]
    environment.answers = [{"torch": ["torch (ImportError: no libc10)"]}] * 4
    with pytest.raises(Stop, match="stays broken: torch .ImportError: no libc10"):
        environment.ensure()
    assert anew == [True, True]


def test_a_full_disk_is_said_before_the_download(environment, monkeypatch):
    usage = type("Usage", (), {"free": 2e9})
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    environment.answers = [{"torch": ["torch"]}]
    with pytest.raises(Stop, match=r"2\.0 GB free and about 9 GB are needed"):
        environment.ensure()
    assert environment.calls == []


def test_another_torch_is_remembered_and_replaces_the_first(environment, tmp_path, monkeypatch):
    environment.ensure()
    environment.calls.clear()
    index = "https://example.org/gpu"
    other = Environment(tmp_path / "c", torch_choice(None, index), extras=False)
    monkeypatch.setattr(other, "probe", lambda: {"broken": {}, "gpu": True})
    other.ensure()
    assert [arguments[0] for _, arguments in environment.calls] == ["uninstall", "install"]
    assert environment.calls[-1][1][-2:] == ("--index-url", index)
    assert torch_choice(None, None) == {"requirements": list(TORCH), "index": index, "chosen": True}


def test_probe_looks_for_real_files(tmp_path, monkeypatch):
    """The real probe in this interpreter: a whole package passes, absent and gutted ones are named."""
    site = tmp_path / "site"
    (site / "gutted-1.0.dist-info").mkdir(parents=True)
    (site / "gutted-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: gutted\nVersion: 1.0\n"
    )
    (site / "gutted-1.0.dist-info" / "RECORD").write_text(
        "gutted/__init__.py,,\ngutted-1.0.dist-info/METADATA,,\n"
    )
    wanted = {
        "distributions": {"one": ["pytest"], "two": ["no-such-thing", "gutted"]},
        "modules": {"three": ["json", "no_such_module"]},
        "editable": [],
    }
    code = f"import sys; sys.path.append({str(site)!r})\n{PROBE.read_text(encoding='utf-8')}"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, json.dumps(wanted)], capture_output=True, text=True, check=True
    )
    broken = json.loads(done.stdout)["broken"]
    assert broken["two"] == ["no-such-thing", "gutted"]
    assert len(broken["three"]) == 1 and re.match("no_such_module .ModuleNotFoundError", broken["three"][0])
    assert "one" not in broken


def test_an_environment_asks_the_probe(tmp_path, monkeypatch):
    asked = Environment(fake_comfyui(tmp_path / "c"), torch_choice(None, None), extras=False)
    asked.names, asked.modules = {"torch": ["pytest", "no-such-thing"]}, {"comfyui": ["json"]}
    assert set(asked.probe()["broken"]) == {"torch", "comfyui"}, "there is no environment yet"
    monkeypatch.setattr(venv, "python", lambda folder=None: Path(sys.executable))
    report = asked.probe()
    assert report["broken"] == {"torch": ["no-such-thing"]} and report["gpu"] is False


# --- a layer for another ComfyUI ---


@pytest.fixture
def other_comfyui(tmp_path):
    folder = fake_comfyui(tmp_path / "other", "0.33.0")
    (folder / "comfy" / "audio.py").write_text("import torch\nimport torchaudio\n")
    return folder


def test_requirements_of_another_comfyui_go_into_a_layer(other_comfyui, monkeypatch):
    made, calls = [], []
    monkeypatch.setattr(venv, "make_layer", made.append)
    monkeypatch.setattr(
        packages, "pip", lambda name, *arguments, folder: calls.append((name, folder, arguments))
    )
    layered = Environment(other_comfyui, torch_choice(None, None), extras=True, layered=True)
    monkeypatch.setattr(layered, "probe", lambda: {"broken": {}, "gpu": False})
    layered.layer.mkdir(parents=True)  # where the stamps go
    layered.ensure()
    assert made == [layered.layer]
    assert layered.python == venv.python(layered.layer)
    assert {name: folder for name, folder, _ in calls} == {
        "torch": places.VENV, "pack": places.VENV, "comfyui": layered.layer, "torchaudio": layered.layer
    }  # fmt: skip
    assert [arguments for name, _, arguments in calls if name == "torchaudio"] == [
        ("install", "--no-deps", TORCHAUDIO)
    ]
    again = Environment(other_comfyui, torch_choice(None, None), extras=True, layered=True)
    assert again.layer == layered.layer
    (other_comfyui / "requirements.txt").write_text("torch\naiohttp>=3.12\n")
    changed = Environment(other_comfyui, torch_choice(None, None), extras=True, layered=True)
    assert changed.layer != layered.layer


@pytest.mark.parametrize(
    ("broken", "anew"), [("comfyui", "layer"), ("torchaudio", "layer"), ("torch", "venv"), ("pack", "venv")]
)
def test_what_is_damaged_is_made_anew_and_not_more(other_comfyui, monkeypatch, broken, anew):
    made, answers = [], [{broken: ["x"]}, {broken: ["x"]}, {broken: ["x"]}, {}]
    monkeypatch.setattr(venv, "make_layer", lambda folder: made.append("layer"))
    monkeypatch.setattr(venv, "make", lambda: made.append("venv"))
    monkeypatch.setattr(venv, "version", lambda folder=None: (3, 11))
    monkeypatch.setattr(packages, "pip", lambda *_, folder: None)
    layered = Environment(other_comfyui, torch_choice(None, None), extras=True, layered=True)
    monkeypatch.setattr(layered, "probe", lambda: {"broken": answers.pop(0), "gpu": False})
    layered.layer.mkdir(parents=True)
    layered.ensure()
    assert made == [anew]


def test_a_layer_has_what_lies_below_and_its_own_comes_first():
    """Real environments: one package below, one in both, one by a .pth file below."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(places.VENV)], check=True)
    layer = places.STATE / "environments" / "a layer"
    venv.make_layer(layer)
    assert venv.version(layer) == sys.version_info[:2]
    below, own = (next(folder.rglob("site-packages")) for folder in (places.VENV, layer))
    (below / "only_below.py").write_text("")
    (places.STATE / "elsewhere").mkdir()
    (places.STATE / "elsewhere" / "by_pth.py").write_text("")
    (below / "link.pth").write_text(str(places.STATE / "elsewhere"))
    for place in (below, own):
        (place / "both.py").write_text(f"place = {str(place)!r}")
    code = "import only_below, by_pth, both; print(both.place)"
    done = subprocess.run([str(venv.python(layer)), "-I", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == str(own), done.stderr


def test_a_venv_that_does_not_run_is_noticed():
    assert venv.version() is None
    venv.python().parent.mkdir(parents=True)
    venv.python().write_text("not a program")
    assert venv.version() is None
