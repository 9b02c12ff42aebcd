"""The Python environment of a command: which steps it takes, which of them are done, and how it is mended."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from . import packages, places, venv
from .processes import last_line
from .requirements import (
    TORCHAUDIO,
    comfyui_requirements,
    extra_requirements,
    lock_for,
    needs_torchaudio,
    requirement_names,
)
from .stamps import fingerprint, read_stamp, write_stamp
from .talk import Stop, say, step

TORCH_SPACE = 9e9  # bytes; torch with CUDA and the rest take about 7 GB once unpacked
# Runs inside the environment: is what the stamps promise really there?
PROBE = Path(__file__).with_name("probe.py")


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
        self.layer = places.STATE / "environments" / wanted[:12] if layered else None
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
            project = (places.ROOT / "pyproject.toml").read_text(encoding="utf-8")
            self.editable = ["pack", "animatediff-flipbook", "animatediff_flipbook", str(places.ROOT)]
            self.locks["pack"] = lock_for("extras", extra_requirements(project))
            self.steps["pack"] = (
                "Installing this repository with its extras for training and tests",
                ["install", "-e", f"{places.ROOT}[train,dev]"],
                fingerprint(project, str(places.ROOT)),
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
        return venv.python(self.layer)

    def home(self, name: str) -> Path:
        """Where a step installs to."""
        return self.layer if self.layer and name in ("comfyui", "torchaudio") else places.VENV

    def stamp(self, name: str) -> Path:
        return self.home(name) / f"flipbook-{name}.json"

    def probe(self) -> dict:
        """What is broken, by step, and whether torch sees a GPU."""
        wanted = {"distributions": self.names, "modules": self.modules, "editable": self.editable}
        command = [str(self.python), "-I", str(PROBE), json.dumps(wanted)]
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
            if name == "torch" and name in broken and shutil.disk_usage(places.ROOT).free < TORCH_SPACE:
                raise Stop(
                    f"{places.ROOT} has {shutil.disk_usage(places.ROOT).free / 1e9:.1f} GB free and about "
                    f"{TORCH_SPACE / 1e9:.0f} GB are needed. Free some space and run the same command again."
                )
            before = read_stamp(self.stamp(name)).get("wanted")
            self.stamp(name).unlink(missing_ok=True)
            with step(text):
                if name == "torch" and before not in (None, wanted):
                    # pip takes the same version from another index for the same thing, and keeps it
                    packages.pip("torch-removal", "uninstall", "--yes", *self.names["torch"])
                lock = self.locks.get(name)
                packages.pip_by_lock(name, lock, *arguments, folder=self.home(name))
                if lock and name == "pack":  # its own code has no hash; the lock brought what it needs
                    own = ["install", "--no-deps", "-e", str(places.ROOT)]
                    packages.pip("pack", *own, folder=self.home(name))
            write_stamp(self.stamp(name), {"wanted": wanted, "choice": self.torch})
        return bool(todo)

    def ensure(self) -> dict:
        """Bring the environment into order and return the probe's report.

        pip repairs what is missing; it cannot repair half an installation (files without their record), so
        when its work does not stand the probe, the environment is made anew, once.
        """
        for last in (False, True):
            if self.layer and venv.version(self.layer) is None:
                venv.make_layer(self.layer)
            report = self.probe()
            try:
                if not self.install(report["broken"]):
                    return report
                report = self.probe()
                if not report["broken"]:
                    return report
                reason = "; ".join(name for names in report["broken"].values() for name in names)
            except subprocess.CalledProcessError as error:
                newest = max((places.STATE / "logs").glob("pip-*.log"), key=lambda log: log.stat().st_mtime)
                reason = last_line(newest) or str(error)
            if last:
                raise Stop(
                    f"The Python environment stays broken: {reason}\nThe logs are in {places.STATE / 'logs'}."
                )
            if self.layer and all(self.home(name) == self.layer for name in report["broken"]):
                say(f"    the layer for this ComfyUI is damaged ({reason}); making it anew")
                venv.make_layer(self.layer)
            else:
                say(f"    .venv is damaged ({reason}); making it anew")
                venv.make()
        raise AssertionError("unreachable")
