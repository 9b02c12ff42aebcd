"""Links into a base directory: right ones stay, wrong ones are replaced, somebody's work never is."""

import pytest
from animatediff_flipbook.demo import base_directory


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
