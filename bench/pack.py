"""A folder to carry to a machine that has torch and no network: this repository, ComfyUI and what both need.

    python run.py bench --pack FOLDER [--python 3.12] [--platform manylinux_2_28_x86_64] [--have NAME ...]

It holds `start.py` (bench/start.py), which unpacks and runs, and two archives: this repository, and ComfyUI
with the packages. torch, torchvision and what they bring (numpy and Pillow among it) are the machine's own.
Packages are those of this environment, in the same versions, for the Python and system named; ``--have``
leaves out what the machine has anyway.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import itertools
import lzma
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY, CARRIED, START = "repository.tar.xz", "carried.tar.xz", "start.py"
LIMIT = 60
"""Megabytes of what is not ours."""

WANTED = (
    # ComfyUI's imports where models are loaded and sampled, no server
    *("torchsde", "einops", "transformers", "tokenizers", "sentencepiece", "safetensors", "aiohttp", "yarl"),
    *("pyyaml", "scipy", "tqdm", "psutil", "av", "requests", "pydantic"),
    # the trainer, the comparison, the tests
    *("accelerate", "peft", "diffusers", "pytest", "pytest-xdist", "hypothesis"),
)
OF_THE_MACHINE = ("torch", "torchvision")
DOWNLOADERS = {"hf-xet"}
"""Of no use without network."""
USELESS = re.compile(r"(^|/)(tests?|testing/data|docs?|examples)/|\.(pyi|pxd|h|hpp|c|cpp|pyx)$")
NEEDED_ALL_THE_SAME = re.compile(r"^(torch|pytest|_pytest|xdist|hypothesis)/|^diffusers/utils/testing")
LEFT_BEHIND = ("docs/", "workflows/", "tests/browser/", "tests/graphs/", "locks/", ".ci/")
"""Of the repository: pictures, pages and the converter's graphs."""


def parse(argv: list[str]) -> argparse.Namespace:
    """Arguments beside the folder."""
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    parser = argparse.ArgumentParser(prog="run.py bench --pack FOLDER", description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=here, help=f"of the machine it is for; by default {here}")
    parser.add_argument(
        "--platform",
        nargs="+",
        default=[f"manylinux_2_{n}_x86_64" for n in (28, 27, 24, 17, 12, 5)] + ["manylinux2014_x86_64"],
        help="pip's names for the machine's system",
    )
    parser.add_argument("--have", nargs="*", default=[], metavar="NAME", help="packages that it has")
    parser.add_argument("--preset", type=int, default=6, help="of xz: 0 fast and large, 9 slow and small")
    return parser.parse_args(argv)


def write_pack(folder: Path, comfyui: Path | None, argv: list[str]) -> int:
    """Write the folder; 1 where there is no ComfyUI."""
    options = parse(argv)
    comfyui = Path(comfyui or os.environ.get("COMFYUI_PATH") or ROOT / ".flipbook" / "comfyui-0.3.75")
    if not (comfyui / "comfy").is_dir():
        print(f"{comfyui} holds no ComfyUI: run `python run.py paths` once, or name one by --comfyui.")
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    wanted, machine = (closure(roots, options.python) for roots in (WANTED, OF_THE_MACHINE))
    names = wanted - machine - DOWNLOADERS - set(map(canonical, options.have))
    write_archive(folder / REPOSITORY, _repository(), options.preset)
    with tempfile.TemporaryDirectory() as wheels:
        fetch(sorted(names), Path(wheels), options)
        packages = _packages(sorted(Path(wheels).glob("*.whl")))
        write_archive(folder / CARRIED, itertools.chain(_comfyui(comfyui), packages), options.preset)
    shutil.copyfile(ROOT / "bench" / START, folder / START)
    ours, others = ((folder / name).stat().st_size / 1e6 for name in (REPOSITORY, CARRIED))
    print(f"{folder}: repository {ours:.1f} MB, ComfyUI and {len(names)} packages {others:.1f} MB")
    print(f"packages: {', '.join(sorted(names))}")
    if others > LIMIT:
        print(
            f"That is more than {LIMIT} MB. Leave out what the machine has, as --have scipy transformers, or"
        )
        print("compress more: --preset 9. It works as it is.")
    return 0


def write_archive(path: Path, content: Iterable[tuple[str, bytes]], preset: int) -> None:
    """Names and contents as an archive, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    with lzma.open(temporary, "wb", preset=preset) as out, tarfile.open(fileobj=out, mode="w|") as tar:
        for name, data in content:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))
    os.replace(temporary, path)


def canonical(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(roots: Iterable[str], python: str) -> set[str]:
    """Packages and all that they need with a Python such as 3.12, as far as what is installed here says."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    waiting = [canonical(name) for name in roots]
    there = {"extra": "", "python_version": python, "python_full_version": f"{python}.0"}
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            lines = importlib.metadata.requires(name) or ()
        except importlib.metadata.PackageNotFoundError:
            lines = ()
        for line in lines:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate(there):
                waiting.append(canonical(needed.name))
    return found


def fetch(names: list[str], folder: Path, options: argparse.Namespace) -> None:
    """Wheels of packages in the versions of this environment."""
    pinned = list(map(_pinned, names))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version", options.python, "--dest", str(folder)]
    command += [word for platform in options.platform for word in ("--platform", platform)]
    print(f"==> Getting {len(pinned)} packages for Python {options.python}", file=sys.stderr, flush=True)
    if pinned:
        subprocess.run([*command, *pinned], check=True)


def _pinned(name: str) -> str:
    """In this environment's version; any version of what only the other Python needs."""
    try:
        return f"{name}=={importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return name


def _repository() -> Iterator[tuple[str, bytes]]:
    """What git tracks, as it stands, less what a machine without a screen has no use for."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(LEFT_BEHIND):
            yield name, (ROOT / name).read_bytes()
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, check=True, text=True
    )
    yield "COMMIT", done.stdout.encode()


def _comfyui(folder: Path) -> Iterator[tuple[str, bytes]]:
    """ComfyUI's code and small data; not what a user has put beside it."""
    own = ("comfy*", "app", "utils", "middleware", "api_server", "blueprints", "custom_nodes")
    files = [file for pattern in own for file in sorted(folder.glob(f"{pattern}/**/*")) if file.is_file()]
    for file in [*sorted(folder.glob("*.py")), *sorted(folder.glob("*.txt")), *files]:
        inside = file.relative_to(folder).as_posix()
        strange = inside.startswith("custom_nodes/") and inside.count("/") > 1
        if not strange and "__pycache__" not in inside and file.stat().st_size < 2**24:
            yield f"comfyui/{inside}", file.read_bytes()


def _packages(wheels: Iterable[Path]) -> Iterator[tuple[str, bytes]]:
    """The content of wheels, less tests and sources."""
    for wheel in wheels:
        print(f"    {wheel.name}", file=sys.stderr, flush=True)
        with zipfile.ZipFile(wheel) as content:
            for name in content.namelist():
                place = re.sub(r"^[^/]+\.data/(purelib|platlib)/", "", name)
                if name.endswith("/") or re.match(r"[^/]+\.data/", place):
                    continue
                if NEEDED_ALL_THE_SAME.match(place) or not USELESS.search(place):
                    yield f"packages/{place}", content.read(name)
