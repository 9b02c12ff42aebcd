"""Which files a run is made of, and what is said of each: folders, with a table of captions or texts beside
the files; tables (:mod:`tables`); WebDataset tars. Regular files only, and nothing that is hidden.

The order never depends on the file system, and a file's identity is its content, so that renaming or moving
a data set changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

from ..config import DataConfig, SourceConfig
from ..files import is_regular, read_json, visible_in, write_json
from .tables import CAPTION_COLUMNS, ENCODING, NamesNoFiles, Row, existing, read_table, utf8
from .video import MEDIA_ENDINGS, VIDEO_ENDINGS, frame_files

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
                digest.update(os.fsencode(file.name) + b"\0" + file.read_bytes())
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
    without: list[str] = []
    for source in sources:
        entries = [entry for entry in _entries(source) if not _is_in(entry[0], samples)]
        if not entries:
            raise ValueError(f"data.sources: {source.path} holds no videos or pictures.")
        for path, caption, member, offset, size in entries:
            text = (source.caption or caption or "").strip()
            if not text:
                without.append(member or path.name)
                text = _words(member or path.name) if config.missing_captions == "name" else ""
            text = f"{config.caption_prefix.strip()} {text}".strip()
            found.append(MediaFile(path, text, source.repeats, member, offset, size))
    if without and config.missing_captions == "refuse":
        first = without[0]
        raise ValueError(
            f"{len(without)} of {len(found)} files have no caption, such as {first}. Write one beside it "
            f"({PurePath(first).stem}.txt or .caption) or into a table (metadata.jsonl, metadata.csv), give "
            "the source a caption for all, or set data.missing_captions to 'name' or to 'empty'."
        )
    if without:
        policy = config.missing_captions
        log.warning(
            "%d of %d files have no caption (data.missing_captions = %r)", len(without), len(found), policy
        )
    return found


def _is_in(path: Path, folder: Path | None) -> bool:
    return folder is not None and folder.resolve() in path.resolve().parents


def _words(name: str) -> str:
    """Those of a file's name."""
    return " ".join(re.split(r"[\W_]+", Path(name).stem)).strip()


def say_left_out(reasons: Sequence[tuple[str, str]], most: int = 20) -> None:
    """A line for each file and why it is not used, but no thousands of lines."""
    for name, reason in reasons[:most]:
        log.warning("Left out: %s: %s", name, reason)
    if len(reasons) > most:
        log.warning("Left out: %d more files", len(reasons) - most)


Entry = tuple[Path, "str | None", str, int, int]
"""Path, caption, tar member, its offset and size."""


def _entries(source: SourceConfig) -> Iterator[Entry]:
    for path in map(Path, _expand(source.path)):
        kind = path.suffix.lower()
        if path.is_dir():
            yield from _frame_folders(path) if source.frame_folders else _folder(path, bool(source.caption))
        elif not path.exists():
            raise FileNotFoundError(f"data.sources: there is nothing at {path}.")
        elif not is_regular(path):
            raise ValueError(f"data.sources: {path} is a pipe or a device, expected a file or a folder.")
        elif kind in (".jsonl", ".csv"):
            rows = read_table(path, Path(source.media_root or path.parent), bool(source.caption))
            yield from _of_rows(existing(rows, path))
        elif kind == ".tar":
            yield from _tar(path)
        elif kind in MEDIA_ENDINGS:
            yield path, _text_beside(path), "", 0, -1
        else:
            raise ValueError(f"data.sources: {path} is no folder, .jsonl, .csv, .tar, video or picture.")


def _of_rows(rows: Iterator[Row]) -> Iterator[Entry]:
    """A row's caption, or, where it has none, the text beside the file."""
    for row in rows:
        yield row.path, row.caption or _text_beside(row.path), "", 0, -1


def _expand(pattern: str) -> Iterator[str]:
    """``shard-{0000..0012}.tar`` -> the 13 names."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if not match:
        yield pattern
        return
    first, last = match.groups()
    for number in range(int(first), int(last) + 1):
        yield from _expand(pattern[: match.start()] + str(number).zfill(len(first)) + pattern[match.end() :])


CAPTION_ENDINGS = (".txt", ".caption")
"""Of texts beside files; the first that is there counts."""

MOST_CAPTION_BYTES = 2**20
"""No caption is longer."""


def _text_beside(path: Path) -> str | None:
    for ending in CAPTION_ENDINGS:
        text = path.with_suffix(ending)
        if is_regular(text):
            return _read_text(text)
    return None


def _read_text(path: Path) -> str:
    if path.stat().st_size > MOST_CAPTION_BYTES:
        raise ValueError(f"{path} is no caption: it holds more than {MOST_CAPTION_BYTES} bytes.")
    with utf8(path):
        return path.read_text(encoding=ENCODING).strip()


def _is_visible(path: PurePath) -> bool:
    """Hidden folders (.ipynb_checkpoints, .thumbnails) and files hold copies, no data."""
    return not any(part.startswith(".") for part in path.parts)


def _folder(folder: Path, has_caption: bool) -> Iterator[Entry]:
    found = visible_in(folder)
    in_tables = set()
    for table in (p for p in found if p.name in ("metadata.jsonl", "metadata.csv") and is_regular(p)):
        try:
            rows = list(existing(read_table(table, table.parent, has_caption), table))
        except NamesNoFiles as error:
            log.warning("Not used as a table of captions: %s", error)
            continue
        if any(row.path.resolve() in in_tables for row in rows):
            raise ValueError(f"{table} names files that another table names too. Remove one of the two.")
        in_tables |= {row.path.resolve() for row in rows}
        yield from _of_rows(iter(rows))
    left_out = []
    for path in found:
        if path.suffix.lower() not in MEDIA_ENDINGS or path.is_dir():
            continue
        if is_regular(path):
            if path.resolve() not in in_tables:
                yield path, _text_beside(path), "", 0, -1
        else:
            gone = path.is_symlink() and not path.exists()
            left_out.append((str(path), "the link leads nowhere" if gone else "it is no regular file"))
    say_left_out(left_out)


def _frame_folders(folder: Path) -> Iterator[Entry]:
    empty = True
    for path in (p for p in visible_in(folder) if p.is_dir()):
        if frame_files(path):
            empty = False
            inside = path / "caption.txt"
            beside = path.with_name(path.name + ".frames")
            yield path, _read_text(inside) if is_regular(inside) else _text_beside(beside), "", 0, -1
    loose = len(frame_files(folder))
    if loose and empty:
        raise ValueError(
            f"data.sources: {folder} holds {loose} pictures itself. With frame_folders = true, each folder "
            f"inside it is a clip: name {folder.parent}, or put the pictures into a folder of their own."
        )
    if loose:
        log.warning("Left out: %d pictures in %s: frame_folders takes the folders in it", loose, folder)


def _tar(path: Path) -> Iterator[Entry]:
    """WebDataset: members that share a stem belong together; captions in ``.txt``, ``.caption`` or a field of
    ``.json``."""
    try:
        # Members are read at their place in the file, so it must not be compressed.
        with tarfile.open(path, "r:") as archive:
            members = [m for m in archive.getmembers() if m.isfile() and _is_visible(PurePosixPath(m.name))]
            texts: dict[str, str] = {}
            for member in members:
                stem, _, ending = member.name.rpartition(".")
                if ending not in ("txt", "caption", "json") or member.size > MOST_CAPTION_BYTES:
                    continue
                content = archive.extractfile(member).read()
                if ending != "json":
                    texts[stem] = content.decode(ENCODING).strip()
                elif (caption := _caption_in(json.loads(content))) is not None:
                    texts.setdefault(stem, caption)
    except (tarfile.TarError, ValueError, RecursionError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as a WebDataset shard: {error}") from error
    for member in members:
        stem, _, ending = member.name.rpartition(".")
        if f".{ending.lower()}" in MEDIA_ENDINGS:
            yield path, texts.get(stem), member.name, member.offset_data, member.size


def _caption_in(row: object) -> str | None:
    found = [row.get(name) for name in CAPTION_COLUMNS] if isinstance(row, dict) else []
    return next((text for text in found if isinstance(text, str)), None)


def _is_memory(entry: object) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("hash"), str) and "stamp" in entry


def content_hashes(
    files: Sequence[MediaFile], memo: Path, each: Callable[[int, int], None] | None = None
) -> list[str]:
    """Content hash of each file. Those of unchanged files are remembered in ``memo``, and those that other
    processes have found are read from the files ``hashes-*.json`` beside it.

    A file that cannot be read gets a hash of its name: whoever decodes it finds out why. ``each`` is told how
    many are done, and of how many; what it raises ends this, and nothing is lost.
    """
    known = {}
    for path in (*sorted(memo.parent.glob("hashes-*.json")), memo):
        if path.is_file():
            known |= {key: entry for key, entry in read_json(path).items() if _is_memory(entry)}
    hashes, changed, last = [], False, time.monotonic()
    try:
        for number, file in enumerate(files):
            if each is not None:
                each(number, len(files))
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
                hashes.append(hashlib.blake2b(os.fsencode(key), digest_size=16).hexdigest())
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
