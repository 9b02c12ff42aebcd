"""What is required, pip by locks and without, and pip's troubles as sentences."""

import subprocess
from pathlib import Path

import pytest
from animatediff_flipbook.demo.setup import packages, places
from animatediff_flipbook.demo.setup.environment import Environment
from animatediff_flipbook.demo.setup.requirements import comfyui_requirements, needs_torchaudio, torch_choice
from animatediff_flipbook.demo.setup.stamps import fingerprint
from animatediff_flipbook.demo.setup.talk import Stop
from animatediff_flipbook.tests.support_setup import fake_comfyui


def test_requirements_leave_the_torch_family_out(tmp_path):
    text = "--extra-index-url x\ntorch\ntorchsde\ntorchvision\ntorchaudio\n\n# a note\npydantic~=2.0  # why\n"
    (tmp_path / "requirements.txt").write_text(text)
    assert comfyui_requirements(tmp_path) == ["torchsde", "pydantic~=2.0", "requests"]


@pytest.mark.parametrize(
    ("line", "needed"),
    [
        ("import torchaudio", True),
        ("import torchaudio.functional as AF", True),
        ("from torchaudio.transforms import MelScale", True),
        ("try:\n    import torchaudio\nexcept ImportError:\n    pass", False),
        ("def decode():\n    import torchaudio", False),
        ("import torchaudiofx", False),
    ],
)
def test_torchaudio_is_wanted_where_comfyui_always_imports_it(tmp_path, line, needed):
    folder = fake_comfyui(tmp_path / "c")
    (folder / "comfy" / "audio.py").write_text(f"import os\n{line}\n")
    assert needs_torchaudio(folder) is needed


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("Failed to resolve: Temporary failure in name resolution", "No connection to the package index"),
        ("ERROR: Could not install: [Errno 28] No space left on device", "The disk is full"),
        ("ERROR: No matching distribution found for torch==2.14.1", "Use another Python"),
        ("ERROR: [Errno 30] Read-only file system: 'x'", "cannot be written to"),
        ("ERROR: No matching distribution found for comfy-kitchen==9", "does not offer comfy-kitchen==9 for"),
    ],
)
def test_pip_trouble_becomes_a_sentence(monkeypatch, log, words):
    def failing(command, path):
        path.write_text(log)
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(packages, "run_logged", failing)
    with pytest.raises(Stop, match=words) as stop:
        packages.pip("torch", "install", "torch")
    assert "pip-torch.log" in str(stop.value)


# --- hashes ---


@pytest.fixture
def locked(environment, tmp_path):
    """The environment again, with a lock for what ComfyUI requires."""
    places.LOCKS.mkdir()
    wanted = fingerprint(comfyui_requirements(tmp_path / "c"))
    (places.LOCKS / "comfyui.txt").write_text(f"# Made for {wanted}\naiohttp==3.11.8 --hash=sha256:00\n")
    (places.LOCKS / "torch.txt").write_text("# Made for other requirements\n")

    def made(**options):
        return Environment(tmp_path / "c", torch_choice(None, None), extras=False, **options)

    return made


def test_only_a_lock_that_was_made_for_the_requirements_is_used(locked):
    assert locked().locks == {"comfyui": places.LOCKS / "comfyui.txt", "torch": None}
    assert locked(hashes=False).locks == {}
    assert locked(layered=True).locks["comfyui"], "another ComfyUI that wants the same"


def test_a_new_lock_is_a_reason_to_install_again(locked):
    before = locked().steps["comfyui"][2]
    with open(places.LOCKS / "comfyui.txt", "a") as lock:
        lock.write("attrs==1 --hash=sha256:00\n")
    assert locked().steps["comfyui"][2] != before != locked(hashes=False).steps["comfyui"][2]


def pip_that_says(monkeypatch, words):
    """pip that fails with these words where it is to check hashes, and works else; returns its commands."""
    commands = []

    def logged(command, log):
        commands.append(command[command.index("install") + 1 :])
        if "--require-hashes" in command:
            log.write_text(words)
            raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(packages, "run_logged", logged)
    return commands


@pytest.mark.parametrize(
    "words",
    ["ERROR: No matching distribution found for aiohttp==3.11.8", "error: subprocess-exited-with-error"],
)
def test_without_hashes_where_a_lock_has_nothing_for_this_system_and_it_says_so(monkeypatch, capsys, words):
    commands = pip_that_says(monkeypatch, words)
    packages.pip_by_lock("comfyui", Path("comfyui.txt"), "install", "aiohttp", folder=places.VENV)
    assert commands == [["--no-deps", "--require-hashes", "-r", "comfyui.txt"], ["aiohttp"]]
    assert "installing without hashes" in capsys.readouterr().err


def test_another_file_than_the_lock_s_is_not_installed(monkeypatch):
    words = "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE."
    commands = pip_that_says(monkeypatch, words)
    with pytest.raises(Stop, match="not the one that it should be"):
        packages.pip_by_lock("comfyui", Path("comfyui.txt"), "install", "aiohttp", folder=places.VENV)
    assert len(commands) == 1
