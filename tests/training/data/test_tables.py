"""Tables, captions and folders as data sets have them; and what must never be opened."""

import json
import os
import shutil
import tarfile
import threading
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import pytest
from animatediff_flipbook.training.config import DataConfig, SourceConfig
from animatediff_flipbook.training.data.media import list_media
from animatediff_flipbook.training.data.tables import SEGMENT
from PIL import Image

ANY = DataConfig(missing_captions="empty")

needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")


def listed(path, **source) -> list[tuple[str, str]]:
    files = list_media([SourceConfig(path=str(path), **source)], ANY)
    return [(file.member or file.path.name, file.caption) for file in files]


@pytest.fixture
def data(clips, tmp_path):
    """Two clips without captions."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(clips / "clip0.mp4", folder / name)
    return folder


@pytest.mark.parametrize("column", ["file_name", "video", "path", "video_path", "image", "File_Name"])
@pytest.mark.parametrize("told", ["caption", "text", "prompt"])
@pytest.mark.parametrize("form", ["jsonl", "csv"])
@pytest.mark.parametrize("where", [".", "train"])
def test_a_folder_with_its_table(column, told, form, where, data):
    folder = data / where
    folder.mkdir(exist_ok=True)
    if where != ".":
        shutil.move(data / "a.mp4", folder)
    row = {column: "a.mp4", told: "a dog, running"}
    text = json.dumps(row) if form == "jsonl" else f'{column},{told}\na.mp4,"a dog, running"\n'
    (folder / f"metadata.{form}").write_text(text)
    assert sorted(listed(data)) == [("a.mp4", "a dog, running"), ("b.mp4", "")]
    with pytest.raises(ValueError, match="1 of 2 files have no caption, such as b.mp4"):
        list_media([SourceConfig(path=str(data))], DataConfig())


def test_a_table_of_something_else_is_said_and_two_are_refused(data, caplog):
    (data / "metadata.csv").write_text("licence,author\nCC0,me\n")
    assert len(listed(data)) == 2
    assert "Not used as a table of captions" in caplog.text
    (data / "metadata.csv").write_text("path,text\na.mp4,one\n")
    (data / "metadata.jsonl").write_text('{"path": "a.mp4", "text": "two"}')
    with pytest.raises(ValueError, match="another table names too"):
        listed(data)


@pytest.mark.parametrize("ending", ["txt", "caption"])
def test_captions_beside_files_in_folders_frames_and_tars(ending, data, tmp_path):
    (data / f"a.{ending}").write_text("a dog\n")
    assert listed(data) == [("a.mp4", "a dog"), ("b.mp4", "")]
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(data, ".")
    assert dict(listed(tmp_path / "x.tar")) == {"./a.mp4": "a dog", "./b.mp4": ""}
    frames = tmp_path / "frames"
    (frames / "clip").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(frames / "clip" / "0.png")
    (frames / f"clip.{ending}").write_text("a cat")
    assert listed(frames, frame_folders=True) == [("clip", "a cat")]


@pytest.mark.parametrize("hidden", [".ipynb_checkpoints", ".thumbnails/x", "train/.cache"])
def test_hidden_folders_are_no_data(hidden, data, tmp_path):
    (data / hidden).mkdir(parents=True)
    shutil.copy(data / "a.mp4", data / hidden / "a-checkpoint.mp4")
    (data / hidden / "metadata.csv").write_text("path,text\na-checkpoint.mp4,one\n")
    Image.new("RGB", (8, 8)).save(data / hidden / "0.png")
    (data / "clip").mkdir()
    Image.new("RGB", (8, 8)).save(data / "clip" / "0.png")
    assert [name for name, _ in listed(data)] == ["a.mp4", "b.mp4", "0.png"]
    assert [name for name, _ in listed(data, frame_folders=True)] == ["clip"]
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(data, "data")
    assert {name for name, _ in listed(tmp_path / "x.tar")} == {"data/a.mp4", "data/b.mp4", "data/clip/0.png"}
    inside = data / hidden
    assert [name for name, _ in listed(inside / "a-checkpoint.mp4")] == ["a-checkpoint.mp4"], "asked for"


def test_frame_folders_on_the_frames_own_folder(tmp_path):
    clip = tmp_path / "clips" / "one"
    clip.mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (8, 8)).save(clip / f"{number}.png")
    with pytest.raises(ValueError, match=rf"one holds 3 pictures itself.*each folder .*name {clip.parent}"):
        listed(clip, frame_folders=True)
    assert len(listed(clip.parent, frame_folders=True)) == 1


@pytest.mark.parametrize("form", ["jsonl", "csv"])
@pytest.mark.parametrize(
    "key", ["start", "end", "start_time", "end_sec", "start_frame", "timestamp", "Clip_Start"]
)
def test_rows_that_mean_a_part_of_a_file_are_refused(form, key, data):
    table = data / f"list.{form}"
    row = {"path": "a.mp4", "caption": "x", key: 2.5}
    text = json.dumps(row) if form == "jsonl" else f"{','.join(row)}\na.mp4,x,2.5\n"
    table.write_text(text)
    with pytest.raises(ValueError, match=rf"line \d names a part of a file \({key.lower()}\).*Cut"):
        listed(table)
    table.write_text(text.replace("2.5", "null" if form == "jsonl" else ""))
    assert listed(table) == [("a.mp4", "x")], "an empty one means nothing"


def test_columns_that_name_no_part():
    assert not any(
        map(SEGMENT.fullmatch, ("duration", "fps", "width", "id", "ending", "startle", "caption", "split"))
    )


WRONG_ROWS = {
    "number": '{"path": 7}',
    "list": '{"path": ["a.mp4"]}',
    "table": '{"path": {"a": 1}}',
    "boolean": '{"path": true}',
    "caption list": '{"path": "a.mp4", "caption": ["x"]}',
    "caption number": '{"path": "a.mp4", "text": 1.5}',
    "row number": "7",
    "row null": "null",
    "deep list": "[" * 100_000,
    "deep path": '{"path": ' + "[" * 50_000 + "]" * 50_000 + "}",
    "deep extra": '{"path": "a.mp4", "x": ' + '{"x":' * 50_000 + "1" + "}" * 50_001,
    "huge number": '{"path": ' + "9" * 10_000 + "}",
    "half a character": '{"path": "a.mp4", "caption": "\\ud800"}',
    "half a path": '{"path": "\\udfff.mp4"}',
    "cut off": '{"path": "a.mp4"',
}


@pytest.mark.parametrize("row", WRONG_ROWS.values(), ids=WRONG_ROWS)
def test_a_wrong_line_of_json_is_one_sentence(row, data):
    table = data / "list.jsonl"
    table.write_text('{"path": "b.mp4", "caption": "x"}\n' + row)
    with pytest.raises(ValueError, match="list.jsonl, line 2") as caught:
        listed(table)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b", "x/" * 3000, "/proc/self/mem/x"])
@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_names_that_no_file_can_have_are_left_out(name, form, data, caplog):
    table = data / f"list.{form}"
    rows = [{"path": name, "caption": "x"}, {"path": "a.mp4", "caption": "y"}]
    text = "\n".join(map(json.dumps, rows)) if form == "jsonl" else f"path,caption\n{name},x\na.mp4,y\n"
    table.write_text(text)
    try:
        assert listed(table) == [("a.mp4", "y")]
    except ValueError as error:  # Python 3.10's csv refuses a zero byte
        assert "is no CSV" in str(error)
    else:
        assert "1 of 2 files" in caplog.text


@pytest.mark.parametrize("rows", [0, 3, 5000])
def test_an_open_quote_swallows_no_rows(rows, data):
    table = data / "list.csv"
    table.write_text('path,caption\na.mp4,"a dog\n' + "b.mp4,a cat\n" * rows)
    with pytest.raises(ValueError, match=r"list.csv.* line .*quote"):
        listed(table)
    table.write_text('path,caption\na.mp4,"a dog\nthat runs"\nb.mp4,"a 3"" disc, black"\n')
    assert listed(table) == [("a.mp4", "a dog\nthat runs"), ("b.mp4", 'a 3" disc, black')]


def test_a_comma_that_makes_a_field_too_many_is_refused(data):
    table = data / "list.csv"
    table.write_text("path,caption\na.mp4,a dog, running\n")
    with pytest.raises(ValueError, match="line 2 has more fields.*double quotes"):
        listed(table)
    table.write_text("path,caption\na.mp4,a dog,,\n")
    assert listed(table) == [("a.mp4", "a dog")]


def test_thousands_of_missing_files_are_one_message(data, caplog):
    table = data / "list.csv"
    table.write_text("path,caption\na.mp4,x\n" + "".join(f"gone{n}.mp4,x\n" for n in range(20_000)))
    assert len(listed(table)) == 1
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert "20000 of 20001 files" in said[0] and "gone0.mp4 (line 3)" in said[0] and "19,997 more" in said[0]


def strange_things(folder) -> None:
    """Everything that is no regular file, by itself and behind a link, under names of data."""
    os.mkfifo(folder / "pipe.mp4")
    for ending in ("mp4", "png", "txt", "caption"):
        os.mkfifo(folder / f"a-pipe.{ending}")
    (folder / "link.mp4").symlink_to(folder / "pipe.mp4")
    (folder / "zero.mp4").symlink_to("/dev/zero")
    (folder / "null.png").symlink_to("/dev/null")
    (folder / "nowhere.png").symlink_to(folder / "nothing")
    (folder / "round.mp4").symlink_to(folder / "round.mp4")
    os.mkfifo(folder / "metadata.jsonl")
    os.mkfifo(folder / "b.txt")


def in_time(what):
    """Its result, or the failure of a call that waits for ever."""
    future = Future()

    def run() -> None:
        try:
            future.set_result(what())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result(timeout=20)


@needs_pipes
def test_only_regular_files_are_opened(data, tmp_path):
    strange_things(data)
    assert in_time(lambda: listed(data)) == [("a.mp4", ""), ("b.mp4", "")]
    clip = tmp_path / "frames" / "clip"
    clip.mkdir(parents=True)
    strange_things(clip)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(clip / "0.png")
    os.mkfifo(clip / "caption.txt")
    os.mkfifo(clip.with_suffix(".txt"))
    (files,) = in_time(lambda: list_media([SourceConfig(path=str(clip.parent), frame_folders=True)], ANY))
    in_time(files.content_hash)
    table = tmp_path / "list.csv"
    table.write_text(f"path\n{data}/pipe.mp4\n{data}/zero.mp4\n{data}/a.mp4\n")
    assert in_time(lambda: listed(table)) == [("a.mp4", "")]


@needs_pipes
@pytest.mark.parametrize("ending", ["mp4", "csv", "jsonl", "tar", "png"])
def test_a_source_that_is_a_pipe_is_refused(ending, tmp_path):
    os.mkfifo(tmp_path / f"x.{ending}")

    def refused():
        with pytest.raises(ValueError, match="is a pipe or a device"):
            listed(tmp_path / f"x.{ending}")
        return True

    in_time(refused)


def test_a_caption_is_no_film(data):
    (data / "a.txt").write_text("a" * (2**20 + 1))
    with pytest.raises(ValueError, match="a.txt is no caption"):
        listed(data)
    assert replace(ANY, missing_captions="refuse") == DataConfig()


@pytest.mark.parametrize("content", ["[" * 50_000, '{"caption": 7}', "null", "7"])
def test_wrong_json_in_a_tar_is_one_sentence_or_no_caption(content, data, tmp_path):
    (data / "a.json").write_text(content)
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(data / "a.mp4", "a.mp4")
        archive.add(data / "a.json", "a.json")
    try:
        assert listed(tmp_path / "x.tar") == [("a.mp4", "")]
    except ValueError as error:
        assert "cannot be read as a WebDataset shard" in str(error)


@pytest.mark.parametrize("how", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_tar_is_refused(how, data, tmp_path):
    with tarfile.open(tmp_path / "x.tar", how) as archive:
        archive.add(data / "a.mp4", "a.mp4")
    with pytest.raises(ValueError, match="WebDataset shard"):
        listed(tmp_path / "x.tar")
