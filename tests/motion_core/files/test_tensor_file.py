"""Weight files from strangers: read lazily, refused with a sentence, never executed; written whole or not."""

import gc
import json
import os
import pickle
import struct
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from animatediff_flipbook.motion_core.files.tensor_file import TensorFile, save_tensors
from animatediff_flipbook.motion_core.files.words import shown
from safetensors.torch import save, save_file

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.float16)}


def contents(path):
    file = TensorFile(path)
    return {key: tensor.clone() for key, tensor in file.read(file.shapes)}


def assert_same(got, wanted):
    assert got.keys() == wanted.keys()
    for key, value in wanted.items():
        assert torch.equal(got[key], value)
        assert got[key].dtype == value.dtype


class Payload:
    """Runs a program when a careless reader unpickles it."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f'"{sys.executable}" -c "open({str(self.mark)!r}, \'w\')"',)


class TestReading:
    @pytest.mark.parametrize("suffix", [".ckpt", ".pth", ".pt", ".bin"])
    @pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
    def test_pickles_of_both_generations(self, tmp_path, suffix, zipped):
        path = tmp_path / f"m{suffix}"
        torch.save(TENSORS, path, _use_new_zipfile_serialization=zipped)
        assert_same(contents(path), TENSORS)

    def test_safetensors_with_metadata(self, tmp_path):
        path = tmp_path / "m.safetensors"
        save_file(TENSORS, path, metadata={"base": "sd15"})
        file = TensorFile(path)
        assert file.metadata == {"base": "sd15"}
        assert file.shapes == {"a.weight": (2, 3), "b": (4,)}
        assert file.dtype("b") == torch.float16
        assert_same(contents(path), TENSORS)

    @pytest.mark.parametrize("ending", [".SAFETENSORS", ".Safetensors", ".CKPT"])
    def test_endings_in_capitals(self, tmp_path, ending):
        path = tmp_path / f"m{ending}"
        if ending.lower() == ".ckpt":
            torch.save(TENSORS, path)
        else:
            save_file(TENSORS, path)
        assert_same(contents(path), TENSORS)

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda t: {"state_dict": t},
            lambda t: {"epoch": 3, "global_step": 100, "state_dict": t},
            lambda t: {"state_dict": t, "animatediff_config": {"unet": "v3"}},
            lambda t: {"state_dict": {**t, "animatediff_config": {"unet": "v3"}}},
            lambda t: {"controlnet": t},
            lambda t: {"anything": t},
            lambda t: {"anything": {"state_dict": t}},
            lambda t: {**t, "animatediff_config": {"unet": "v3"}, "step": 4},
        ],
    )
    def test_containers_are_unwrapped_and_what_is_no_tensor_is_dropped(self, tmp_path, wrap):
        path = tmp_path / "m.ckpt"
        torch.save(wrap(TENSORS), path)
        assert_same(contents(path), TENSORS)

    def test_all_float_types_are_told(self, tmp_path):
        types = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn]
        path = tmp_path / "m.safetensors"
        save_file({str(t): torch.zeros(2).to(t) for t in types}, path)
        file = TensorFile(path)
        assert [file.dtype(str(t)) for t in types] == types

    def test_safetensors_are_not_read_before_asked(self, tmp_path):
        """Opening looks at the header: of a file of a hundred megabytes, nothing is in memory."""
        import psutil

        path = tmp_path / "m.safetensors"
        save_file({str(i): torch.ones(2**20) for i in range(25)}, path)
        process = psutil.Process()
        start = process.memory_info().rss
        file = TensorFile(path)
        assert process.memory_info().rss - start < 20 * 2**20
        highest = 0
        for _, tensor in file.read(file.shapes):
            assert tensor.sum() == 2**20
            highest = max(highest, process.memory_info().rss - start)
        assert highest < 70 * 2**20, "mapped pages are not given back"

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"gone\.safetensors"):
            TensorFile(tmp_path / "gone.safetensors")

    def test_a_folder_is_no_file(self, tmp_path):
        (tmp_path / "m.safetensors").mkdir()
        with pytest.raises(FileNotFoundError):
            TensorFile(tmp_path / "m.safetensors")


class TestDamaged:
    def test_safetensors_cut_at_any_length(self, tmp_path):
        data = save(TENSORS, metadata={"base": "sd15"})
        path = tmp_path / "cut.safetensors"
        for length in range(len(data)):
            path.write_bytes(data[:length])
            with pytest.raises(ValueError, match=r"cut\.safetensors .*download it again"):
                TensorFile(path)

    @pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
    def test_pickles_cut_at_many_lengths(self, tmp_path, zipped):
        path = tmp_path / "cut.ckpt"
        torch.save(TENSORS, path, _use_new_zipfile_serialization=zipped)
        data = path.read_bytes()
        for length in range(0, len(data), max(1, len(data) // 60)):
            path.write_bytes(data[:length])
            # Where a legacy file ends in the middle of a name, torch cannot tell it from a foreign one.
            words = r"cut\.ckpt .*download it again" if zipped else r"cut\.ckpt .*(again|\.safetensors)"
            with pytest.raises(ValueError, match=words):
                contents(path)

    @pytest.mark.parametrize(
        "header",
        [
            {"a": {"dtype": "F32", "shape": [1000, 1000], "data_offsets": [0, 24]}},
            {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 4_000_000]}},
            {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [24, 0]}},
            {"a": {"dtype": "F32", "shape": [-2, -3], "data_offsets": [0, 24]}},
            {"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 24]}},
            {"a": {"dtype": "F99", "shape": [2, 3], "data_offsets": [0, 24]}},
            {"a": {"dtype": "F32", "shape": [2, 3]}},
            {
                "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
                "b": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
            },
            {"a": 3},
            [],
            "text",
        ],
    )
    def test_headers_that_lie(self, tmp_path, header):
        text = json.dumps(header).encode()
        path = tmp_path / "lie.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(24))
        with pytest.raises(ValueError, match=r"lie\.safetensors"):
            contents(path)

    @pytest.mark.parametrize("length", [0, 2**31, 2**63, 2**64 - 1])
    def test_header_lengths_that_lie(self, tmp_path, length):
        path = tmp_path / "lie.safetensors"
        path.write_bytes(struct.pack("<Q", length) + bytes(100))
        with pytest.raises(ValueError, match=r"lie\.safetensors"):
            TensorFile(path)

    @pytest.mark.parametrize("name", ["m.safetensors", "m.ckpt", "m.pth"])
    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"<!DOCTYPE html><html>Sign in</html>",
            b"version https://git-lfs.github.com/spec/v1\n",
            bytes(64),
        ],
        ids=["empty", "web page", "git lfs pointer", "zeros"],
    )
    def test_what_downloads_leave_behind_is_called_damaged(self, tmp_path, name, data):
        """Not "holds more than tensors": the user must download again, not fear a virus."""
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"download it again") as error:
            TensorFile(path)
        assert "run any program" not in str(error.value)

    def test_wrong_endings(self, tmp_path):
        path = tmp_path / "m.txt"
        path.write_bytes(b"hello")
        with pytest.raises(ValueError, match=r"m\.txt.*\.safetensors"):
            TensorFile(path)
        torch.save(TENSORS, tmp_path / "m.safetensors")
        for zipped in (True, False):
            torch.save(TENSORS, tmp_path / "m.safetensors", _use_new_zipfile_serialization=zipped)
            with pytest.raises(ValueError, match=r"m\.safetensors is a PyTorch file .* rename it to m\.ckpt"):
                TensorFile(tmp_path / "m.safetensors")
        save_file(TENSORS, tmp_path / "m.ckpt")
        with pytest.raises(ValueError, match=r"m\.ckpt is a safetensors file .* rename it to m\.safetensors"):
            TensorFile(tmp_path / "m.ckpt")

    @pytest.mark.parametrize("content", [{}, [1, 2], 7, "text", {"state_dict": {}}, {"a": 1, "b": 2}, None])
    def test_pickles_without_tensors(self, tmp_path, content):
        path = tmp_path / "m.ckpt"
        torch.save(content, path)
        with pytest.raises(ValueError, match=r"m\.ckpt"):
            TensorFile(path)

    def test_safetensors_without_tensors(self, tmp_path):
        save_file({}, tmp_path / "m.safetensors", metadata={"a": "b"})
        with pytest.raises(ValueError, match="no tensors"):
            TensorFile(tmp_path / "m.safetensors")


class TestHostile:
    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_a_program_in_a_plain_pickle_does_not_run(self, tmp_path, protocol):
        mark, path = tmp_path / "mark", tmp_path / "evil.ckpt"
        path.write_bytes(pickle.dumps({"state_dict": Payload(mark)}, protocol=protocol))
        with pytest.raises(ValueError, match=r"evil\.ckpt") as error:
            TensorFile(path)
        assert not mark.exists()
        assert "\n" not in str(error.value), "torch's own advice (to switch the check off) must not be shown"
        if protocol >= 2:
            assert "holds more than tensors and was refused" in str(error.value), (
                "no advice to fetch it again"
            )

    @pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
    def test_a_program_beside_tensors_does_not_run(self, tmp_path, zipped):
        mark, path = tmp_path / "mark", tmp_path / "evil.ckpt"
        torch.save({**TENSORS, "x": Payload(mark)}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(ValueError, match=r"evil\.ckpt holds more than tensors.*\.safetensors version"):
            TensorFile(path)
        assert not mark.exists()

    def test_the_payload_works_for_a_careless_reader(self, tmp_path):
        """Negative control of the two tests above."""
        mark = tmp_path / "mark"
        pickle.loads(pickle.dumps(Payload(mark)))
        assert mark.exists()

    def test_a_dictionary_that_holds_itself_ends(self, tmp_path):
        content = {}
        content["state_dict"] = content
        torch.save(content, tmp_path / "loop.ckpt")
        with pytest.raises(ValueError, match=r"loop\.ckpt"):
            TensorFile(tmp_path / "loop.ckpt")

    def test_keys_that_are_no_text_do_not_break_the_reader(self, tmp_path):
        torch.save({1: torch.ones(2), "a": torch.ones(1)}, tmp_path / "m.ckpt")
        assert set(TensorFile(tmp_path / "m.ckpt").shapes) == {"1", "a"}


class TestWriting:
    @pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
    def test_round_trip(self, tmp_path, suffix):
        path = tmp_path / "new folder" / f"m{suffix}"
        save_tensors(path, TENSORS, {"base": "sd15", "steps": "3"})
        assert_same(contents(path), TENSORS)
        assert TensorFile(path).metadata == ({"base": "sd15", "steps": "3"} if suffix != ".ckpt" else {})
        assert [entry.name for entry in path.parent.iterdir()] == [path.name]

    def test_views_and_strides(self, tmp_path):
        whole = torch.arange(12.0).view(3, 4)
        tensors = {"rows": whole[:2], "turned": whole.T, "grad": whole.clone().requires_grad_()}
        save_tensors(tmp_path / "m.safetensors", tensors, {})
        assert_same(contents(tmp_path / "m.safetensors"), {k: v.detach() for k, v in tensors.items()})

    def test_file_is_as_readable_as_any_other(self, tmp_path):
        save_tensors(tmp_path / "m.safetensors", TENSORS, {})
        (tmp_path / "plain").write_text("")
        assert (tmp_path / "m.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode

    @pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
    def test_a_failing_save_keeps_the_old_file_and_leaves_nothing(self, tmp_path, suffix):
        path = tmp_path / f"m{suffix}"
        save_tensors(path, TENSORS, {})
        old = path.read_bytes()
        bad = {"a": torch.zeros(2), "b": torch.empty(3, device="meta")}
        with pytest.raises(Exception):  # noqa: B017  # whatever torch says: the folder is the point
            save_tensors(path, bad, {})
        assert path.read_bytes() == old
        assert [entry.name for entry in tmp_path.iterdir()] == [path.name]

    def test_a_disk_that_fails_midway(self, tmp_path, monkeypatch):
        path = tmp_path / "m.safetensors"
        save_tensors(path, TENSORS, {})
        old = path.read_bytes()

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            save_tensors(path, {"a": torch.zeros(2)}, {})
        assert path.read_bytes() == old
        assert [entry.name for entry in tmp_path.iterdir()] == [path.name]

    def test_unknown_ending_is_refused_and_leaves_nothing(self, tmp_path):
        with pytest.raises(ValueError, match=r"m\.bin.*\.safetensors or \.ckpt"):
            save_tensors(tmp_path / "m.bin", TENSORS, {})
        assert not list(tmp_path.iterdir())

    def test_replaces_a_file_that_is_open(self, tmp_path):
        """A loaded module holds its file mapped while a trainer writes the next version over it."""
        path = tmp_path / "m.safetensors"
        save_tensors(path, {"a": torch.zeros(1000)}, {})
        file = TensorFile(path)
        reader = file.read(["a"])
        _, held = next(reader)
        if os.name == "nt":
            pytest.skip("Windows keeps open files from being replaced")
        save_tensors(path, {"a": torch.ones(1000)}, {})
        assert held.sum() == 0
        assert contents(path)["a"].sum() == 1000


def recompressed(path):
    """The same zip archive with its members deflated, as some tools write them."""
    with zipfile.ZipFile(path) as archive:
        members = [(item.filename, archive.read(item)) for item in archive.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)


def test_compressed_members_are_read_as_what_they_hold(tmp_path):
    path = tmp_path / "m.ckpt"
    tensors = {f"a{number}": torch.full((300,), float(number)) for number in range(5)}
    torch.save(tensors, path)
    recompressed(path)
    read = {key: tensor.clone() for key, tensor in TensorFile(path).read(tensors)}
    assert all(torch.equal(read[key], value) for key, value in tensors.items())


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of mapped files")
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_nothing_of_a_file_is_held_between_reads(tmp_path, suffix):
    path = tmp_path / f"held{suffix}"
    torch.save(TENSORS, path) if suffix == ".ckpt" else save_file(TENSORS, path)
    file = TensorFile(path)

    def is_mapped():
        return path.name in Path("/proc/self/maps").read_text()

    assert not is_mapped()
    kept = [tensor.clone() for _, tensor in file.read(file.shapes)]
    gc.collect()
    assert not is_mapped() and len(kept) == len(TENSORS)
    with file.held():
        list(file.read(file.shapes))
    gc.collect()
    assert not is_mapped()


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_file_that_changes_in_between_is_noticed(tmp_path, suffix):
    path = tmp_path / f"m{suffix}"
    write = torch.save if suffix == ".ckpt" else save_file
    write(TENSORS, path)
    file = TensorFile(path)
    list(file.read(file.shapes))
    write({key: tensor + 1 for key, tensor in TENSORS.items()}, path)
    os.utime(path, (1, 1))
    with pytest.raises(ValueError, match=f"m{suffix} has changed since it was looked at"):
        list(file.read(file.shapes))
    path.unlink()
    with pytest.raises(ValueError, match="or is gone"):
        list(file.read(file.shapes))


@pytest.mark.parametrize("kind", ["sparse", "quantised", "nested", "meta"])
def test_tensors_that_are_no_plain_numbers_are_refused_by_name(tmp_path, kind):
    tensor = {
        "sparse": lambda: torch.eye(4).to_sparse(),
        "quantised": lambda: torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8),
        "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "meta": lambda: torch.empty(4, device="meta"),
    }[kind]()
    path = tmp_path / "m.ckpt"
    torch.save({"plain": torch.ones(2), "odd": tensor}, path)
    with pytest.raises(ValueError, match=r"m\.ckpt") as stop:
        TensorFile(path)
    assert "\n" not in str(stop.value) and "weights_only" not in str(stop.value)


def test_torchscript_and_tar_are_called_by_their_names(tmp_path):
    script = tmp_path / "script.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(script))
    with pytest.raises(ValueError, match=r"script\.pt is a TorchScript program.*state_dict"):
        TensorFile(script)
    archive = tmp_path / "old.pt"
    with tarfile.open(archive, "w") as tar:
        tar.add(script, "storages")
    with pytest.raises(ValueError, match=r"old\.pt is a tar archive"):
        TensorFile(archive)


def test_a_file_s_words_are_escaped_and_cut():
    assert shown("a\nb\x1b[31mc") == r"a\nb\x1b[31mc"
    long = shown("x" * 2**20 + "end")
    assert len(long) < 130 and long.endswith("end") and "..." in long
    assert shown("ä 字") == "ä 字"
