"""The folder that is carried to a machine without network."""

import subprocess
import sys
import zipfile

import pytest


@pytest.fixture
def pack(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "bench"))
    import pack

    return pack


@pytest.fixture
def comfyui(tmp_path):
    """Something with ComfyUI's layout, and beside it what a user has put there."""
    folder = tmp_path / "host"
    for name in (
        "comfy/ops.py",
        "nodes.py",
        "models/a.safetensors",
        "custom_nodes/theirs/x.py",
        "comfy/__pycache__/o",
    ):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("print('here')\n")
    return folder


def unpacked(folder):
    done = subprocess.run([sys.executable, "start.py", "unpack"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    place = folder / "unpacked"
    return {file.relative_to(place).as_posix() for file in place.rglob("*") if file.is_file()}, done.stderr


def test_start_unpacks_what_was_packed_and_only_once(pack, comfyui, tmp_path, monkeypatch, capsys, root):
    if not (root / ".git").exists():
        pytest.skip("needs a checkout")

    def fetch(names, folder, options):
        with zipfile.ZipFile(folder / "thing-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr("thing/__init__.py", "")
            wheel.writestr("thing/tests/test_it.py", "")
            wheel.writestr("thing-1.data/purelib/other.py", "")
            wheel.writestr("thing-1.data/scripts/run", "")
        fetch.names = names

    monkeypatch.setattr(pack, "fetch", fetch)
    # A few of our files are enough to be compressed.
    monkeypatch.setattr(
        pack, "LEFT_BEHIND", ("demo/", "docs/", "graphs/", "locks/", "tests/g", "tests/d", "w")
    )
    folder = tmp_path / "carry"
    assert pack.write_pack(folder, comfyui, ["--preset", "0", "--have", "Einops", "scipy"]) == 0
    assert "torchsde" in fetch.names
    assert not {"torch", "torchvision", "numpy", "pillow", "einops", "scipy"} & set(fetch.names)
    files, _ = unpacked(folder)
    assert {
        "carried/comfyui/comfy/ops.py",
        "carried/comfyui/nodes.py",
        "carried/packages/thing/__init__.py",
    } <= files
    assert {"carried/packages/other.py", "repository/COMMIT", "repository/bench/bench.py"} <= files
    assert "repository/tests/nodes/conftest.py" in files and "repository/__init__.py" in files
    for left in ("models/", "custom_nodes/theirs", "__pycache__", "thing/tests", "scripts/run"):
        assert not [name for name in files if name.startswith("carried") and left in name]
    (folder / "unpacked" / "carried" / "mine").write_text("x")
    again, said = unpacked(folder)
    assert "carried/mine" in again and said == ""  # not done twice


def test_packages_are_those_that_the_other_python_needs(pack, monkeypatch):
    needed = {"pytest": ["tomli>=1; python_version < '3.11'", "iniconfig"]}
    monkeypatch.setattr(pack.importlib.metadata, "requires", lambda name: needed.get(name, []))
    assert pack.closure(["pytest"], "3.10") == {"pytest", "iniconfig", "tomli"}
    assert pack.closure(["pytest"], "3.12") == {"pytest", "iniconfig"}


def test_without_comfyui_it_says_what_to_do(pack, tmp_path, capsys):
    assert pack.write_pack(tmp_path / "carry", tmp_path, []) == 1
    assert "--comfyui" in capsys.readouterr().out
    assert not (tmp_path / "carry").exists()


def test_wrong_words_are_answered_with_how_it_is_called(root):
    done = subprocess.run(
        [sys.executable, str(root / "bench" / "start.py"), "other"], capture_output=True, text=True
    )
    assert done.returncode == 2 and "python start.py bench" in done.stderr
