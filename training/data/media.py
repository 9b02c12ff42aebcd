"""Which files a run is made of, and what is said of each: folders, JSONL, CSV (WebVid's columns),
WebDataset tars.

The order never depends on the file system, and a file's identity is its content, so that renaming or moving
a data set changes nothing.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import re
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..config import DataConfig, SourceConfig
from ..files import read_json, write_json
from .video import MEDIA_ENDINGS, PICTURE_ENDINGS, VIDEO_ENDINGS, frame_files

log = logging.getLogger(__name__)

SECONDS_BETWEEN_WRITES = 60.0
"""Of the remembered hashes."""


@dataclass(frozen=True)
class MediaFile:
    """One video or picture."""

    path: Path
    """The file, a folder of frames, or the tar that holds it."""
    caption: str
    """What is said of it, prefix included."""
    repeats: int = 1
    """How often it is seen per epoch."""
    member: str = ""
    """Name inside a tar."""
    offset: int = 0
    """Where the member begins in the tar, in bytes."""
    size: int = -1
    """Its length in bytes."""

    @property
    def name(self) -> str:
        """Tells it from every other file."""
        return f"{self.path}/{self.member}" if self.member else str(self.path)

    def content(self) -> Path | bytes:
        """What the decoder takes: a path, or a tar member's bytes."""
        if not self.member:
            return self.path
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)

    def content_hash(self) -> str:
        """Of the bytes, frames of a folder in order of their names."""
        digest = hashlib.blake2b(digest_size=16)
        if self.member:
            digest.update(self.content())
        elif self.path.is_dir():
            for file in frame_files(self.path):
                digest.update(file.name.encode() + b"\0" + file.read_bytes())
        else:
            with self.path.open("rb") as file:
                while chunk := file.read(2**22):
                    digest.update(chunk)
        return digest.hexdigest()

    def stamp(self) -> list:
        """Cheap facts that change when the content does."""
        if not self.path.is_dir():
            facts = self.path.stat()
            return [facts.st_size, facts.st_mtime_ns, self.offset, self.size]
        # Names too: they give the frames their order.
        parts = [(part.name, part.stat().st_size, part.stat().st_mtime_ns) for part in frame_files(self.path)]
        return [hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()]


def list_media(
    sources: Sequence[SourceConfig], config: DataConfig, samples: Path | None = None
) -> list[MediaFile]:
    """Every media file of the sources with its caption, but not what lies in ``samples``: a run whose output
    is in its own source would train on its own clips.

    Raises:
        FileNotFoundError: a source is not there, or nothing that a table names.
        ValueError: a source holds nothing usable, a table is malformed, a text is not UTF-8, or captions are
        missing and must not be.
    """
    found: list[MediaFile] = []
    without = 0
    for source in sources:
        entries = [entry for entry in _entries(source) if not _is_in(entry[0], samples)]
        if not entries:
            raise ValueError(f"data.sources: {source.path} holds no videos or pictures.")
        for path, caption, member, offset, size in entries:
            text = (source.caption or caption or "").strip()
            if not text:
                without += 1
                text = _missing(member or path.name, config.missing_captions)
            text = f"{config.caption_prefix.strip()} {text}".strip()
            found.append(MediaFile(path, text, source.repeats, member, offset, size))
    if without:
        log.warning(
            "%d of %d files have no caption (data.missing_captions = %r)",
            without,
            len(found),
            config.missing_captions,
        )
    return found


def _is_in(path: Path, folder: Path | None) -> bool:
    return folder is not None and folder.resolve() in path.resolve().parents


def _missing(name: str, policy: str) -> str:
    if policy == "refuse":
        raise ValueError(
            f"{name} has no caption. Write one beside it ({Path(name).stem}.txt), or set "
            "data.missing_captions."
        )
    return " ".join(re.split(r"[\W_]+", Path(name).stem)).strip() if policy == "name" else ""


Entry = tuple[Path, "str | None", str, int, int]
"""Path, caption, tar member, its offset and size."""


def _entries(source: SourceConfig) -> Iterator[Entry]:
    paths = [Path(p) for p in _expand(source.path)]
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"data.sources: there is nothing at {path}.")
        kind = path.suffix.lower()
        if path.is_dir():
            yield from _frame_folders(path) if source.frame_folders else _folder(path)
        elif kind == ".jsonl":
            yield from _existing(_jsonl(path, Path(source.media_root or path.parent)), path)
        elif kind == ".csv":
            rows = _csv(path, Path(source.media_root or path.parent), bool(source.caption))
            yield from _existing(rows, path)
        elif kind == ".tar":
            yield from _tar(path)
        elif kind in MEDIA_ENDINGS:
            yield path, _text_beside(path), "", 0, -1
        else:
            raise ValueError(f"data.sources: {path} is no folder, .jsonl, .csv, .tar, video or picture.")


def _expand(pattern: str) -> list[str]:
    """``shard-{0000..0012}.tar`` -> the 13 names."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if not match:
        return [pattern]
    first, last = match.groups()
    numbers = (str(n).zfill(len(first)) for n in range(int(first), int(last) + 1))
    return [name for n in numbers for name in _expand(pattern[: match.start()] + n + pattern[match.end() :])]


def _text_beside(path: Path) -> str | None:
    text = path.with_suffix(".txt")
    return _read_text(text).strip() if text.is_file() else None


def _read_text(path: Path) -> str:
    with _utf8(path):
        return path.read_text(encoding=ENCODING)


ENCODING = "utf-8-sig"
"""UTF-8, and the mark that Windows' editors put in front of it is no part of the text."""


@contextmanager
def _utf8(path: Path) -> Iterator[None]:
    """Name the file that is read within this block, should its text be in another encoding."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}). Save it as UTF-8.") from error


def _folder(folder: Path) -> Iterator[Entry]:
    files = (p for p in folder.rglob("*") if p.suffix.lower() in MEDIA_ENDINGS and not p.name.startswith("."))
    for path in sorted(files, key=lambda p: p.relative_to(folder).as_posix()):
        if path.exists():
            yield path, _text_beside(path), "", 0, -1
        else:
            log.warning("Left out: %s: the link leads nowhere", path)


def _frame_folders(folder: Path) -> Iterator[Entry]:
    for path in sorted(p for p in folder.rglob("*") if p.is_dir()):
        if any(p.suffix.lower() in PICTURE_ENDINGS for p in path.iterdir()):
            inside = path / "caption.txt"
            caption = _read_text(inside).strip() if inside.is_file() else None
            yield (
                path,
                caption if caption is not None else _text_beside(path.with_name(path.name + ".frames")),
                "",
                0,
                -1,
            )


Row = tuple[Path, "str | None", int]
"""Of a table: file, caption, line."""


def _jsonl(path: Path, root: Path) -> Iterator[Row]:
    """Lines of ``{"video_path": ..., "caption": ...}``; ``file`` or ``path`` and ``text`` are understood
    too."""
    # Not splitlines(), which also parts at marks that JSON allows within a text.
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(
                f'{path}, line {number} is {line.strip()[:40]}; expected {{"path": ..., "caption": ...}}.'
            )
        media = next((row[key] for key in ("video_path", "image_path", "file", "path") if row.get(key)), None)
        if media is None:
            raise ValueError(
                f"{path}, line {number} names no file (key video_path, image_path, file or path)."
            )
        caption = row.get("caption", row.get("text"))
        if not isinstance(caption, str | None):
            raise ValueError(f"{path}, line {number}: the caption is {caption!r}, expected text.")
        yield root / media, caption, number


def _csv(path: Path, root: Path, has_caption: bool = False) -> Iterator[Row]:
    """WebVid's columns ``videoid, page_dir, name`` (files ``page_dir/videoid.mp4``), or ``path, caption``;
    ``text`` is understood too. has_caption: the source has one for all, and the table needs none."""
    with path.open(newline="", encoding=ENCODING) as file, _utf8(path):
        reader = csv.DictReader(file, skipinitialspace=True)
        reader.fieldnames = columns = [name.strip().lower() for name in reader.fieldnames or ()]
        webvid = {"videoid", "name"} <= set(columns) and "path" not in columns
        told = next((name for name in ("caption", "text") if name in columns), None)
        # A path alone makes files without captions; with other columns a caption is meant to be there.
        if not webvid and ("path" not in columns or (told is None and len(columns) > 1 and not has_caption)):
            raise ValueError(
                f"{path} has the columns {', '.join(columns) or 'of an empty file'}; expected videoid, "
                "page_dir, name, or path, caption (or path, text)."
            )
        for number, row in enumerate(reader, start=2):
            name = (row["videoid" if webvid else "path"] or "").strip()
            if not name:
                log.warning("Left out: %s, line %d names no file", path, number)
            elif webvid:
                yield root / (row.get("page_dir") or "") / f"{name}.mp4", row["name"], number
            else:
                yield root / name, row[told] if told else None, number


def _existing(rows: Iterator[Row], table: Path) -> Iterator[Entry]:
    """A table's files; one that is not there is left out with a message.

    Raises:
        FileNotFoundError: none is there.
    """
    gone, there = None, False
    for media, caption, line in rows:
        if media.exists():
            there = True
            yield media, caption, "", 0, -1
        else:
            gone = media
            log.warning("Left out: %s: there is no such file (%s, line %d)", media, table, line)
    if gone and not there:
        raise FileNotFoundError(
            f"{table} names no file that is there, such as {gone}. Is data.sources media_root right?"
        )


def _tar(path: Path) -> Iterator[Entry]:
    """WebDataset: members that share a stem belong together; captions in ``.txt`` or a ``.json`` field
    ``caption``."""
    try:
        with tarfile.open(path) as archive:
            members = [m for m in archive.getmembers() if m.isfile()]
            texts: dict[str, str] = {}
            for member in members:
                stem, _, ending = member.name.rpartition(".")
                if ending == "txt":
                    texts[stem] = archive.extractfile(member).read().decode(ENCODING).strip()
                elif ending == "json":
                    row = json.loads(archive.extractfile(member).read())
                    if isinstance(row, dict) and isinstance(row.get("caption"), str):
                        texts.setdefault(stem, row["caption"])
    except (tarfile.TarError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a WebDataset shard: {error}") from error
    for member in members:
        stem, _, ending = member.name.rpartition(".")
        if f".{ending.lower()}" in MEDIA_ENDINGS:
            yield path, texts.get(stem), member.name, member.offset_data, member.size


def content_hashes(files: Sequence[MediaFile], memo: Path) -> list[str]:
    """Content hash of each file. Those of unchanged files are remembered in ``memo``, and those that other
    processes have found are read from the files ``hashes-*.json`` beside it.

    A file that cannot be read gets a hash of its name: whoever decodes it finds out why.
    """
    known = {}
    for path in (*sorted(memo.parent.glob("hashes-*.json")), memo):
        if path.is_file():
            known |= read_json(path)
    hashes, changed, last = [], False, time.monotonic()
    try:
        for file in files:
            key = file.name
            try:
                stamp = file.stamp()
                entry = known.get(key)
                if entry is None or entry["stamp"] != stamp:
                    digest = file.content_hash()
                    if entry is not None and entry["hash"] != digest:
                        log.warning("%s has changed since it was cached; it is encoded again", file.name)
                    known[key] = {"stamp": stamp, "hash": digest}
                    changed = True
            except OSError:
                hashes.append(hashlib.blake2b(key.encode(), digest_size=16).hexdigest())
                continue
            hashes.append(known[key]["hash"])
            if changed and time.monotonic() - last > SECONDS_BETWEEN_WRITES:
                write_json(memo, known)
                changed, last = False, time.monotonic()
    finally:  # reading terabytes takes hours: what is done stays done
        if changed:
            write_json(memo, known)
    return hashes


def is_video(file: MediaFile) -> bool:
    """By its ending, a folder of frames included."""
    return file.path.is_dir() or Path(file.member or file.path).suffix.lower() in VIDEO_ENDINGS
