"""The committed locks: for what is required today, with hashes, and of one mind."""

from pathlib import Path

import pytest
from animatediff_flipbook.demo.setup.comfyui import pinned_comfyui
from animatediff_flipbook.demo.setup.requirements import (
    TORCH,
    comfyui_requirements,
    extra_requirements,
    lock_for,
)
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


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
    if name == "comfyui" and not pinned_comfyui().is_dir():
        pytest.skip("the suite runs on another ComfyUI, and the pinned one is not here")
    wanted = {
        "torch": lambda: list(TORCH),
        "comfyui": lambda: comfyui_requirements(pinned_comfyui()),
        "extras": lambda: extra_requirements((ROOT / "pyproject.toml").read_text(encoding="utf-8")),
    }[name]()
    assert lock_for(name, wanted), "run locks/make.py"
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
