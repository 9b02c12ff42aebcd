"""Data sets in every form, and captions."""

import csv
import io
import json
import shutil
import tarfile

import pytest
from animatediff_flipbook.training.config import DataConfig, SourceConfig
from animatediff_flipbook.training.media import MediaFile, content_hashes, list_media


def listed(*sources: SourceConfig, **settings) -> list[tuple[str, str]]:
    files = list_media(sources, DataConfig(sources=sources, **settings))
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
    with pytest.raises(ValueError, match="no caption"):
        listed(source, missing_captions="refuse")


def test_jsonl(clips, tmp_path):
    table = tmp_path / "list.jsonl"
    rows = [{"video_path": "clip1.mp4", "caption": "one"}, {"path": "clip0.mp4"}]
    table.write_text("\n".join(map(json.dumps, rows)))
    found = listed(SourceConfig(path=str(table), media_root=str(clips)))
    assert found == [("clip1.mp4", "one"), ("clip0.mp4", "")]
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
    plain = list_media([SourceConfig(path=str(clips))], DataConfig())
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
    first = content_hashes(list_media([source], DataConfig()), memo)
    assert content_hashes(list_media([source], DataConfig()), memo) == first
    assert not [r for r in caplog.records if "changed" in r.message]
    shutil.copy(clips / "clip1.mp4", video)
    assert content_hashes(list_media([source], DataConfig()), memo) != first
    assert [r for r in caplog.records if "has changed" in r.message]


def test_hashes_survive_an_interruption(clips, tmp_path, monkeypatch):
    files = list_media([SourceConfig(path=str(clips))], DataConfig())
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
    files = list_media(sources, DataConfig())
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
