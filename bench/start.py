"""Run what was carried here: `python start.py bench --device cuda`, `python start.py test`.

    python start.py bench [arguments of run.py bench]      results in `results` beside this file
    python start.py test [arguments of pytest]             by default nodes and core, on the GPU
    python start.py test --cpu [...]                       the same on the CPU
    python start.py unpack                                 nothing but unpack

Needs Python with torch, torchvision and numpy, and no network. Standard library only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ARCHIVES = ("repository.tar.xz", "carried.tar.xz")
PLACE = HERE / "unpacked"
TESTS = ("tests/nodes", "tests/motion_core")


def unpack() -> None:
    """Unpack the archives that are new; half an unpacking is done anew."""
    for name in ARCHIVES:
        place = PLACE / name.split(".")[0]
        stamp, found = place / "stamp", (HERE / name).stat()
        state = f"{found.st_size} {found.st_mtime_ns}"
        if stamp.is_file() and stamp.read_text(encoding="utf-8") == state:
            continue
        print(f"==> Unpacking {name}", file=sys.stderr, flush=True)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        with tarfile.open(HERE / name) as tar:
            if hasattr(tarfile, "data_filter"):
                tar.extractall(place, filter="data")
            else:
                tar.extractall(place)
        stamp.write_text(state, encoding="utf-8")


def main(argv: list[str]) -> int:
    """Exit status of what was run; 2 for wrong usage."""
    if not argv or argv[0] not in ("bench", "test", "unpack"):
        print(__doc__, file=sys.stderr)
        return 2
    unpack()
    command, rest = argv[0], argv[1:]
    carried, repository = PLACE / "carried", PLACE / "repository"
    comfyui = carried / "comfyui"
    # What was carried comes before the machine's own: these versions belong together. torch is not among it.
    paths = [str(carried / "packages"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "COMFYUI_PATH": str(comfyui)}
    python = [sys.executable, *(["-P"] if sys.version_info >= (3, 11) else [])]
    if command == "unpack":
        return 0
    if command == "bench":
        own = [] if "--out" in rest else ["--out", str(HERE / "results")]
        script = [*python, str(repository / "bench" / "bench.py"), "--comfyui", str(comfyui), *own, *rest]
        return subprocess.run(script, env=environment, check=False).returncode
    if "--cpu" in rest:
        rest.remove("--cpu")
    else:
        environment["FLIPBOOK_TEST_DEVICE"] = "gpu"
    tests = [] if any(not word.startswith("-") for word in rest) else list(TESTS)
    script = [*python, "-m", "pytest", *rest, *tests]
    return subprocess.run(script, env=environment, cwd=repository, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
