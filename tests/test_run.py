"""run.py without network or installation: what it refuses, and what it prints."""

import ast
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from animatediff_flipbook.demo.setup import venv
from animatediff_flipbook.demo.setup.environment import PROBE, Environment
from animatediff_flipbook.tests.support_setup import fake_comfyui, move_home

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run.py, imported by its path, with its folders moved."""
    move_home(tmp_path, monkeypatch)
    spec = importlib.util.spec_from_file_location("flipbook_run", ROOT / "run.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "flipbook_run", module)
    spec.loader.exec_module(module)
    return module


# --- the file itself ---


def test_starts_where_nothing_is_installed():
    command = [sys.executable, "-I", "-S", str(ROOT / "run.py"), "demo", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "commands:" in done.stdout


@pytest.mark.parametrize("place", ["run.py", "demo/base_directory.py", "demo/setup"])
def test_imports_only_the_standard_library_and_itself(place):
    """Also in functions. The probe is a program for an environment that has everything."""
    files = set((ROOT / place).glob("*.py")) - {PROBE} or {ROOT / place}
    imported = set()
    for node in (node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))):
        if isinstance(node, ast.Import):
            imported |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            imported.add(node.module.split(".")[0])
    assert imported <= {"animatediff_flipbook", *sys.stdlib_module_names}


def test_old_python_gets_a_sentence_and_no_syntax_error(run):
    ast.parse((ROOT / "run.py").read_text(encoding="utf-8"), feature_version=(3, 7))
    major, minor = venv.MINIMUM_PYTHON
    run.check_python((major, minor, 0))
    run.check_python((3, 14, 2))
    with pytest.raises(SystemExit, match=rf"This is Python 3\.{minor - 1}; 3\.{minor} or newer is needed"):
        run.check_python((major, minor - 1, 18))


def test_ci_calls_the_same_door():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK) or os.name == "nt"
    assert "run.py test" in script.read_text(encoding="utf-8")


# --- the command line ---


@pytest.mark.parametrize(
    ("argv", "command", "comfyui", "rest"),
    [
        (["demo"], "demo", None, []),
        (["test", "-k", "golden and not v1", "-x", "tests/motion_core"], "test", None,
         ["-k", "golden and not v1", "-x", "tests/motion_core"]),
        (["--comfyui", "a b", "test", "-q"], "test", "a b", ["-q"]),
        (["comfyui", "--port", "8190", "--comfyui=x", "--cpu"], "comfyui", "x", ["--port", "8190", "--cpu"]),
    ],
)  # fmt: skip
def test_arguments_reach_the_command_in_order(run, argv, command, comfyui, rest):
    options, others = run.parse(argv)
    assert (options.command, options.comfyui, others) == (command, comfyui, rest)


@pytest.mark.parametrize("argv", [[], ["demonstrate"], ["-x", "test"], ["paths", "--verbose"]])
def test_wrong_usage_is_status_2(run, argv, capsys):
    with pytest.raises(SystemExit) as stop:
        run.parse(argv)
    assert stop.value.code == 2
    assert "error" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "status", "words"),
    [
        (KeyboardInterrupt(), 130, "Stopped by you"),
        (PermissionError(13, "Permission denied", "/x/.venv"), 1, "/x/.venv: Permission denied"),
    ],
)
def test_ends_with_a_sentence_and_no_traceback(run, monkeypatch, capsys, raised, status, words):
    def command(options, rest):
        raise raised

    monkeypatch.setitem(run.COMMANDS, "paths", (command, ""))
    assert run.main(["paths"]) == status
    assert words in capsys.readouterr().err


def test_paths_prints_one_json_object_and_nothing_else(run, monkeypatch, capsys, tmp_path):
    comfyui = fake_comfyui(tmp_path / "ComfyUI")
    monkeypatch.setattr(venv, "version", lambda: (3, 11))
    monkeypatch.setattr(Environment, "ensure", lambda self: {"broken": {}, "gpu": False})
    assert run.main(["paths", "--comfyui", str(comfyui)]) == 0
    paths = json.loads(capsys.readouterr().out)
    assert set(paths) == {"python", "comfyui", "base_directory", "pack"}
    assert Path(paths["comfyui"]) == comfyui.resolve()
    assert Path(paths["pack"]).resolve() == ROOT
    assert Path(paths["pack"]).parent == Path(paths["base_directory"]) / "custom_nodes"


def test_environment_variable_names_comfyui_too(run, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("COMFYUI_PATH", str(fake_comfyui(tmp_path / "other")))
    monkeypatch.setattr(venv, "version", lambda: (3, 11))
    monkeypatch.setattr(Environment, "ensure", lambda self: {"broken": {}, "gpu": False})
    assert run.main(["paths"]) == 0
    assert Path(json.loads(capsys.readouterr().out)["comfyui"]) == (tmp_path / "other").resolve()


@pytest.mark.parametrize(("chosen", "several"), [([], True), (["tests/test_run.py"], False), (["-s"], False)])
def test_the_whole_suite_runs_in_several_processes(run, monkeypatch, chosen, several):
    started = []
    paths = {"python": "python", "comfyui": "comfyui"}
    monkeypatch.setattr(run, "prepare", lambda options, extras: paths)
    monkeypatch.setattr(run, "run_here", lambda command, environment: started.append(command) or 0)
    assert run.command_test(None, chosen) == 0
    (command,) = started
    assert ("-n" in command) is several
    assert not several or command[command.index("--maxprocesses") + 1] == "4"
    assert command[len(command) - len(chosen) :] == chosen
