"""Write locks/*.txt anew: what run.py installs, with versions and the hashes of all their files.

    pip install uv
    python locks/make.py            about half a minute; needs the pinned ComfyUI (python run.py paths)

Run it after a change of the pins in demo/setup/requirements.py or of the extras in pyproject.toml, or for
newer versions. A lock is for every system and Python that ComfyUI runs on. torch itself is in torch.txt
alone, because somebody may have chosen another build; all else is in every lock that needs it, at the same
version.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "demo"))

from setup.comfyui import pinned_comfyui  # noqa: E402
from setup.places import LOCKS  # noqa: E402
from setup.requirements import TORCH, comfyui_requirements, extra_requirements  # noqa: E402
from setup.stamps import fingerprint  # noqa: E402
from setup.venv import MINIMUM_PYTHON  # noqa: E402

TORCH_FAMILY = re.compile(r"(torch|torchvision|triton|nvidia-[\w-]+|cuda-[\w-]+)==")


def compiled(folder: Path, requirements: list[str], below: list[str]) -> str:
    """The lock of some requirements that agrees with the locks below it."""
    source = folder / "requirements.in"
    source.write_text("\n".join(requirements), encoding="utf-8")
    command = ["uv", "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-annotate"]
    command += ["--no-header", "--python-version", "{}.{}".format(*MINIMUM_PYTHON), str(source)]
    for number, lock in enumerate(below):
        constraints = folder / f"below-{number}.txt"
        constraints.write_text(lock, encoding="utf-8")
        command += ["--constraint", str(constraints)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def without_torch(lock: str) -> str:
    """A lock without torch and the libraries for GPUs that it brings."""
    kept, keep = [], True
    for line in lock.splitlines(keepends=True):
        if line[:1].isalnum():
            keep = not TORCH_FAMILY.match(line)
        if keep:
            kept.append(line)
    return "".join(kept)


def main() -> None:
    comfyui = comfyui_requirements(pinned_comfyui())
    extras = extra_requirements((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    below: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, requirements in (("torch", list(TORCH)), ("comfyui", comfyui), ("extras", extras)):
            lock = compiled(Path(folder), [*requirements, *(TORCH if below else ())], below)
            below.append(lock)
            text = without_torch(lock) if name != "torch" else lock
            header = f"# Made by locks/make.py for {fingerprint(requirements)}\n"
            LOCKS.joinpath(f"{name}.txt").write_text(header + text, encoding="utf-8")


if __name__ == "__main__":
    main()
