"""Data sets in every form, and captions."""

import csv
import io
import json
import os
import shutil
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from animatediff_flipbook.training.config import DataConfig, SourceConfig
from animatediff_flipbook.training.data import cache
from animatediff_flipbook.training.data.cache import Store
from animatediff_flipbook.training.data.media import MediaFile, content_hashes, list_media
from animatediff_flipbook.training.data.video import timed_frames
from animatediff_flipbook.training.run.prepare import split_files
from animatediff_flipbook.training.run.train import train

ANY = DataConfig(missing_captions="empty")


def listed(*sources: SourceConfig, **settings) -> list[tuple[str, str]]:
    files = list_media(sources, replace(ANY, **settings))
    return [(file.member or file.path.name, file.caption) for file in files]


def test_a_folder_with_texts(clips):
    found = listed(SourceConfig(path=str(clips)), caption_prefix="video of ")
    assert found[0] == ("clip0.mp4", "video of a red square left")
    assert [name for name, _ in found] == sorted(name for name, _ in found)
    assert len(found) == 6


def test_one_caption_for_all(clips):
    assert {caption for _, caption in listed(SourceConfig(path=str(clips), caption="a dog"))} == {"a dog"}


def test_missing_captions(clips, tmp_path):
    shutil.copy(clips / "clip0.mp4", tmp_path / "Red_square 2.mp4")
    source = SourceConfig(path=str(tmp_path))
    assert listed(source) == [("Red_square 2.mp4", "")]
    assert listed(source, missing_captions="name") == [("Red_square 2.mp4", "Red square 2")]
    with pytest.raises(ValueError, match="1 of 1 files have no caption, such as Red_square 2.mp4.*'empty'"):
        list_media([source], DataConfig())


def test_jsonl(clips, tmp_path):
    table = tmp_path / "list.jsonl"
    (tmp_path / "bare.mp4").write_bytes(b"")
    bare = str(tmp_path / "bare.mp4")
    rows = [{"video_path": "clip1.mp4", "caption": "one"}, {"path": "clip0.mp4"}, {"path": bare}]
    table.write_text("\n".join(map(json.dumps, rows)))
    found = listed(SourceConfig(path=str(table), media_root=str(clips)))
    assert found == [("clip1.mp4", "one"), ("clip0.mp4", "a red square left"), ("bare.mp4", "")]
    table.write_text('{"caption": "x"}')
    with pytest.raises(ValueError, match="line 1 names no file"):
        listed(SourceConfig(path=str(table)))
    table.write_text('{"path": "gone.mp4"}')
    with pytest.raises(FileNotFoundError, match="media_root"):
        listed(SourceConfig(path=str(table)))
    table.write_text('{"path": "clip1.mp4", "caption": 7}')
    with pytest.raises(ValueError, match="line 1: the caption is 7, expected text"):
        listed(SourceConfig(path=str(table), media_root=str(clips)))


def test_csv_with_the_columns_of_webvid(clips, tmp_path):
    (tmp_path / "pages").mkdir()
    shutil.copy(clips / "clip0.mp4", tmp_path / "pages" / "17.mp4")
    table = tmp_path / "list.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("videoid", "page_dir", "name"), ("17", "pages", "a dog, running")])
    assert listed(SourceConfig(path=str(table))) == [("17.mp4", "a dog, running")]
    table.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="columns"):
        listed(SourceConfig(path=str(table)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("path, caption\nclip0.mp4, a dog\n", [("clip0.mp4", "a dog")]),
        ("Path,Text\nclip0.mp4,a dog\n", [("clip0.mp4", "a dog")]),
        ("path\nclip0.mp4\n", [("clip0.mp4", "a red square left")]),
        ("path,caption\n,nothing\nclip0.mp4,a dog\n", [("clip0.mp4", "a dog")]),
        ("path,words\nclip0.mp4,a dog\n", None),
    ],
)
def test_csv_as_people_write_it(text, expected, clips, tmp_path, caplog):
    table = tmp_path / "list.csv"
    table.write_text(text)
    source = SourceConfig(path=str(table), media_root=str(clips))
    if expected is None:
        with pytest.raises(ValueError, match="columns path, words; expected .*path, caption"):
            listed(source)
        assert listed(replace(source, caption="one for all")) == [("clip0.mp4", "one for all")]
    else:
        assert listed(source) == expected
        assert ("line 2 names no file" in caplog.text) == (",nothing" in text)


def test_jsonl_with_marks_that_are_no_new_lines_and_rows_that_are_no_objects(clips, tmp_path):
    table = tmp_path / "list.jsonl"
    source = SourceConfig(path=str(table), media_root=str(clips))
    row = json.dumps({"path": "clip0.mp4", "caption": "one\u2028two"}, ensure_ascii=False)
    table.write_text(f"{row}\r\n{row}\r\n", encoding="utf-8", newline="")
    assert [caption for _, caption in listed(source)] == ["one\u2028two"] * 2
    table.write_text('["clip0.mp4"]')
    with pytest.raises(ValueError, match="line 1 is .*expected"):
        listed(source)


def test_frames_are_in_order_of_their_numbers_and_renaming_is_noticed(tmp_path):
    from PIL import Image

    folder, memo = tmp_path / "clip", tmp_path / "hashes-0.json"
    folder.mkdir()
    for number in range(12):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.bmp")
    files = [MediaFile(folder, "")]
    shown = [np.asarray(frame.image)[0, 0, 0] for frame in timed_frames(folder, "clip", "#000000")]
    assert shown == list(range(12))
    first = content_hashes(files, memo)
    assert content_hashes(files, memo) == first
    os.rename(folder / "0.bmp", folder / "99.bmp")
    assert content_hashes(files, memo) != first


def test_what_cannot_be_read_stops_nobody(clips, tmp_path, caplog):
    (tmp_path / "whole.mp4").write_bytes((clips / "clip0.mp4").read_bytes())
    (tmp_path / "link.mp4").symlink_to(tmp_path / "nowhere.mp4")
    source = SourceConfig(path=str(tmp_path))
    assert [name for name, _ in listed(source)] == ["whole.mp4"]
    assert "link.mp4: the link leads nowhere" in caplog.text
    gone = MediaFile(tmp_path / "gone.mp4", "")
    memo = tmp_path / "memo" / "hashes-0.json"
    hashes = content_hashes([*list_media([source], ANY), gone], memo)
    assert len(set(hashes)) == 2
    assert list(json.loads(memo.read_text())) == [str(tmp_path / "whole.mp4")], "it may come back"


def test_links_to_folders_are_followed_once_and_round_trips_end(clips, tmp_path, caplog):
    source, other = tmp_path / "source", tmp_path / "ferne Platte é"
    (source / ".hidden").mkdir(parents=True)
    other.mkdir()
    for place in (source / ".hidden", other):
        (place / "a.mp4").write_bytes((clips / "clip0.mp4").read_bytes())
    (source / "linked").symlink_to(other)
    (other / "back").symlink_to(source)
    (source / "again").symlink_to(other)
    (source / ".secret").symlink_to(other)
    found = list_media([SourceConfig(path=str(source))], ANY)
    assert [file.path for file in found] == [source / "again" / "a.mp4"]


def test_hashes_that_another_process_has_found_are_taken_over(clips, tmp_path, monkeypatch):
    files = list_media([SourceConfig(path=str(clips))], ANY)
    found = [content_hashes(files[rank::2], tmp_path / f"hashes-{rank}.json") for rank in range(2)]
    monkeypatch.setattr(MediaFile, "content_hash", lambda file: pytest.fail("read again"))
    hashes = content_hashes(files, tmp_path / "hashes-0.json")
    assert hashes[::2] == found[0]
    assert hashes[1::2] == found[1]


def test_frame_folders(tmp_path):
    from PIL import Image

    for clip in ("b", "a"):
        (tmp_path / clip).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / clip / "0.png")
    (tmp_path / "a" / "caption.txt").write_text("inside")
    (tmp_path / "b.txt").write_text("beside")
    found = listed(SourceConfig(path=str(tmp_path), frame_folders=True))
    assert found == [("a", "inside"), ("b", "beside")]


def test_webdataset_shards(clips, tmp_path):
    for shard in range(2):
        with tarfile.open(tmp_path / f"shard-{shard:04d}.tar", "w") as archive:
            archive.add(clips / f"clip{shard}.mp4", f"sample{shard}.mp4")
            text = json.dumps({"caption": f"number {shard}"}).encode()
            info = tarfile.TarInfo(f"sample{shard}.json")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text))
    source = SourceConfig(path=str(tmp_path / "shard-{0000..0001}.tar"))
    assert listed(source) == [("sample0.mp4", "number 0"), ("sample1.mp4", "number 1")]
    files = list_media([source], DataConfig(sources=(source,)))
    assert files[1].content() == (clips / "clip1.mp4").read_bytes()
    plain = list_media([SourceConfig(path=str(clips))], ANY)
    assert files[0].content_hash() == plain[0].content_hash(), "content alone is a file's identity"


def test_places_without_media(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing at"):
        listed(SourceConfig(path=str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match="no videos or pictures"):
        listed(SourceConfig(path=str(tmp_path)))


def test_hashes_are_remembered_and_changes_noticed(clips, tmp_path, caplog):
    video = tmp_path / "a.mp4"
    shutil.copy(clips / "clip0.mp4", video)
    source = SourceConfig(path=str(video))
    memo = tmp_path / "memo.json"
    first = content_hashes(list_media([source], ANY), memo)
    assert content_hashes(list_media([source], ANY), memo) == first
    assert not [r for r in caplog.records if "changed" in r.message]
    shutil.copy(clips / "clip1.mp4", video)
    assert content_hashes(list_media([source], ANY), memo) != first
    assert [r for r in caplog.records if "has changed" in r.message]


def test_who_looks_on_can_end_the_reading_and_what_was_read_is_kept(clips, tmp_path):
    files = list_media([SourceConfig(path=str(clips))], ANY)

    def each(done, total):
        assert total == 6
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        content_hashes(files, tmp_path / "memo.json", each)
    assert len(json.loads((tmp_path / "memo.json").read_text())) == 3


def test_hashes_survive_an_interruption(clips, tmp_path, monkeypatch):
    files = list_media([SourceConfig(path=str(clips))], ANY)
    memo = tmp_path / "memo.json"
    hashed = []
    content_hash = MediaFile.content_hash

    def stops(self):
        if len(hashed) == 3:
            raise KeyboardInterrupt
        hashed.append(self.name)
        return content_hash(self)

    monkeypatch.setattr(MediaFile, "content_hash", stops)
    with pytest.raises(KeyboardInterrupt):
        content_hashes(files, memo)
    monkeypatch.setattr(
        MediaFile, "content_hash", lambda self: hashed.append(self.name) or content_hash(self)
    )
    content_hashes(files, memo)
    assert hashed == [file.name for file in files], "each is read once"


def test_tars_of_the_same_name_are_told_apart(clips, tmp_path, monkeypatch):
    for number, folder in enumerate(("train", "held")):
        (tmp_path / folder).mkdir()
        with tarfile.open(tmp_path / folder / "0000.tar", "w") as archive:
            archive.add(clips / f"clip{number}.mp4", "000.mp4")
    sources = [SourceConfig(path=str(tmp_path / folder / "0000.tar")) for folder in ("train", "held")]
    files = list_media(sources, ANY)
    first = content_hashes(files, tmp_path / "memo.json")
    monkeypatch.setattr(MediaFile, "content_hash", None)  # nothing is left to hash
    assert content_hashes(files, tmp_path / "memo.json") == first


@pytest.mark.parametrize(
    "rows", ["path,caption\ngone.mp4,a\nclip0.mp4,b\n", "videoid,name\ngone,a\nclip0,b\n"]
)
def test_a_row_without_its_file_is_left_out_and_named(rows, clips, tmp_path, caplog):
    table = tmp_path / "list.csv"
    table.write_text(rows)
    assert listed(SourceConfig(path=str(table), media_root=str(clips))) == [("clip0.mp4", "b")]
    said = [record.message for record in caplog.records if "gone.mp4" in record.message]
    assert len(said) == 1
    assert "line 2" in said[0]


def test_a_byte_order_mark_is_no_part_of_the_text(clips, tmp_path):
    shutil.copy(clips / "clip0.mp4", tmp_path / "a.mp4")
    (tmp_path / "a.txt").write_text("a dog", encoding="utf-8-sig")
    (tmp_path / "list.csv").write_text("path,caption\na.mp4,a dog\n", encoding="utf-8-sig")
    (tmp_path / "list.jsonl").write_text('{"path": "a.mp4", "caption": "a dog"}', encoding="utf-8-sig")
    for name in ("", "list.csv", "list.jsonl"):
        assert listed(SourceConfig(path=str(tmp_path / name))) == [("a.mp4", "a dog")]


def test_other_encodings_are_refused_by_name(clips, tmp_path):
    shutil.copy(clips / "clip0.mp4", tmp_path / "a.mp4")
    (tmp_path / "a.txt").write_bytes("café".encode("latin-1"))
    (tmp_path / "list.csv").write_bytes("path,caption\na.mp4,café\n".encode("latin-1"))
    with pytest.raises(ValueError, match="a.txt is not UTF-8"):
        listed(SourceConfig(path=str(tmp_path)))
    with pytest.raises(ValueError, match="list.csv is not UTF-8"):
        listed(SourceConfig(path=str(tmp_path / "list.csv")))


def test_an_empty_caption_is_a_missing_one(clips, tmp_path):
    shutil.copy(clips / "clip0.mp4", tmp_path / "a.mp4")
    (tmp_path / "a.txt").write_text(" \n")
    (tmp_path / "list.csv").write_text("path,caption\na.mp4,\n")
    for name in ("", "list.csv"):
        source = SourceConfig(path=str(tmp_path / name))
        assert listed(source, missing_captions="name") == [("a.mp4", "a")]


def test_the_prefix_is_a_word_of_its_own(clips):
    assert listed(SourceConfig(path=str(clips)), caption_prefix="sks")[0][1] == "sks a red square left"
    shown = SourceConfig(path=str(clips), caption="a dog")
    assert listed(shown, caption_prefix="sks, ")[0][1] == "sks, a dog"


def test_a_run_inside_its_source_does_not_see_its_own_clips(settings, clips, tmp_path):
    shutil.copytree(clips, tmp_path / "data")
    config = settings(tmp_path / "data" / "run", f"data.sources.0.path={tmp_path / 'data'}")
    before, _ = split_files(config)
    own = tmp_path / "data" / "run" / "samples"
    own.mkdir(parents=True)
    shutil.copy(clips / "clip0.mp4", own / "step-00000001-00.mp4")
    assert split_files(config)[0] == before


def test_damaged_memories_are_made_anew(settings, clips, tmp_path, caplog):
    """What was remembered of files and hashes can be found out again."""
    config = settings(tmp_path / "run", f"cache.folder={tmp_path / 'cache'}")
    train(config)
    damaged = [*(tmp_path / "cache").rglob("*.json")]
    assert len(damaged) >= 4
    for path in damaged:
        path.write_text("{")
    train(settings(tmp_path / "again", f"cache.folder={tmp_path / 'cache'}"))
    assert "base-hash.json is damaged" in caplog.text and "hashes-0.json is damaged" in caplog.text


def test_two_runs_may_fill_one_cache(tmp_path, monkeypatch):
    """Also when one writes while the other is about to."""
    first, second = (Store(tmp_path, "latents", {"size": 1}) for _ in range(2))
    first.put("one", torch.zeros(2))
    second.put("two", torch.ones(2))
    save = cache.save_tensors

    def interrupted(*arguments) -> None:
        monkeypatch.setattr(cache, "save_tensors", save)
        second.flush()
        save(*arguments)

    monkeypatch.setattr(cache, "save_tensors", interrupted)
    first.flush()
    assert torch.equal(first.get("one"), torch.zeros(2)) and torch.equal(second.get("two"), torch.ones(2))
    both = Store(tmp_path, "latents", {"size": 1})
    assert torch.equal(both.get("one"), torch.zeros(2)) and torch.equal(both.get("two"), torch.ones(2))
