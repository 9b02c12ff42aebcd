"""Tables of files and captions: JSON lines and CSV, with the column names that data sets have.

A table that cannot be read as it was meant is refused with its line; files that are not there are left out
and counted in one message.
"""

from __future__ import annotations

import csv
import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..files import is_regular

log = logging.getLogger(__name__)

FILE_COLUMNS = ("video_path", "image_path", "file_name", "file", "path", "video", "image")
"""Names of what holds a file's path; the first that is filled counts."""
CAPTION_COLUMNS = ("caption", "text", "prompt")
"""Names of what holds a caption."""
SEGMENT = re.compile(
    r"(clip_?|segment_?|scene_?)?(start|end|begin|stop|timestamps?)(_?(time|s|sec|seconds?|ms|frames?|idx|index|pts))?"
)
"""Names of columns that mean a part of a file."""
ENCODING = "utf-8-sig"
"""UTF-8, and the mark that Windows' editors put in front of it is no part of the text."""


class NamesNoFiles(ValueError):
    """A table of something else."""


@dataclass(frozen=True)
class Row:
    """Of a table."""

    path: Path
    """The file."""
    caption: str | None
    """What is said of it."""
    line: int
    """Where the row begins, from 1."""


def read_table(path: Path, root: Path, has_caption: bool = False) -> Iterator[Row]:
    """Rows of a ``.jsonl`` or ``.csv``.

    Args:
        path: the table.
        root: folder that relative paths start from.
        has_caption: the source has one for all, and the table needs none.

    Raises:
        ValueError: not UTF-8, malformed, or it names parts of files; :class:`NamesNoFiles` if it has no
        column for files.
    """
    with utf8(path):
        yield from _jsonl(path, root) if path.suffix.lower() == ".jsonl" else _csv(path, root, has_caption)


@contextmanager
def utf8(path: Path) -> Iterator[None]:
    """Name the file that is read within this block, should its text be in another encoding."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}). Save it as UTF-8.") from error


def _jsonl(path: Path, root: Path) -> Iterator[Row]:
    """Lines of ``{"video_path": ..., "caption": ...}``."""
    # Not splitlines(), which also parts at marks that JSON allows within a text.
    for number, line in enumerate(path.read_text(encoding=ENCODING).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = str(error) if isinstance(error, ValueError) else "it is nested too deeply"
            raise ValueError(f"{where} is not JSON: {reason}") from error
        if not isinstance(row, dict):
            raise ValueError(f'{where} is {line.strip()[:40]}; expected {{"path": ..., "caption": ...}}.')
        row = {key.strip().lower(): value for key, value in row.items()}
        media = next((row[key] for key in FILE_COLUMNS if row.get(key) not in (None, "")), None)
        if media is None:
            raise NamesNoFiles(f"{where} names no file (key {_listed(FILE_COLUMNS)}).")
        if not isinstance(media, str):
            raise ValueError(f"{where}: the file is {repr(media)[:40]}, expected text.")
        caption = next((row[key] for key in CAPTION_COLUMNS if row.get(key) is not None), None)
        if not isinstance(caption, str | None):
            raise ValueError(f"{where}: the caption is {repr(caption)[:40]}, expected text.")
        for text in (media, caption or ""):
            if not _is_text(text):
                raise ValueError(f"{where}: {text[:40]!r} holds half a character, expected text.")
        _refuse_segments({key: value for key, value in row.items() if value is not None}, where)
        yield Row(root / media, caption, number)


def _csv(path: Path, root: Path, has_caption: bool) -> Iterator[Row]:
    """WebVid's ``videoid, page_dir, name`` (files ``page_dir/videoid.mp4``), or a file and a caption."""
    with path.open(newline="", encoding=ENCODING) as file:
        record: list[str] = []

        def lines() -> Iterator[str]:
            for line in file:
                record.append(line)
                yield line

        reader = csv.DictReader(lines(), skipinitialspace=True)
        try:
            reader.fieldnames = columns = [name.strip().lower() for name in reader.fieldnames or ()]
            webvid = {"videoid", "name"} <= set(columns) and not set(FILE_COLUMNS) & set(columns)
            names = ("videoid",) if webvid else [name for name in FILE_COLUMNS if name in columns]
            captions = ("name",) if webvid else CAPTION_COLUMNS
            told = next((name for name in captions if name in columns), None)
            # A path alone makes files without captions; with other columns a caption is meant to be there.
            if not names or (told is None and len(columns) > 1 and not has_caption):
                raise NamesNoFiles(
                    f"{path} has the columns {', '.join(columns) or 'of an empty file'}; expected videoid, "
                    f"page_dir, name, or path, caption (or {_listed(FILE_COLUMNS[:-1])}; text, prompt)."
                )
            record.clear()
            for row in reader:
                number = reader.line_num - len("".join(record).strip("\r\n").splitlines()) + 1
                where, text = f"{path}, line {number}", "".join(record)
                record.clear()
                if any(row.pop(None, None) or ()):
                    raise ValueError(
                        f"{where} has more fields than the first line has names: put a caption with a comma "
                        "in double quotes."
                    )
                name = next((row[key].strip() for key in names if (row[key] or "").strip()), "")
                _refuse_segments({key: value for key, value in row.items() if value}, where)
                _refuse_open_quote(text, where)
                folder = root / (row.get("page_dir") or "") if webvid else root
                media = f"{name}.mp4" if webvid and name else name
                yield Row(folder / media if media else Path(), row[told] if told else None, number)
        except csv.Error as error:
            raise ValueError(
                f"{path}, near line {reader.line_num}, is no CSV: {error}. Is there a quote without its "
                "second one?"
            ) from error


def _refuse_open_quote(record: str, where: str) -> None:
    """A quote that is never closed swallows all rows after it."""
    try:
        list(csv.reader(record.splitlines(keepends=True), skipinitialspace=True, strict=True))
    except csv.Error as error:
        if "end of data" in str(error):
            raise ValueError(f"{where} opens a quote that is never closed.") from error


def _refuse_segments(row: dict, where: str) -> None:
    """Training takes whole files; a row that means a part of one must not be read as the whole."""
    found = [key for key in row if SEGMENT.fullmatch(key)]
    if found:
        raise ValueError(
            f"{where} names a part of a file ({', '.join(found)}), and training takes whole files. Cut the "
            "clips out first (ffmpeg -ss START -to END -i FILE CLIP), or remove these columns."
        )


def _is_text(text: str) -> bool:
    """JSON may hold halves of characters that no encoding has."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def existing(rows: Iterator[Row], table: Path) -> Iterator[Row]:
    """A table's rows whose files are there, in its order; the others are counted in one message.

    Raises:
        FileNotFoundError: none is there.
    """
    gone: list[Row] = []
    nameless: list[int] = []
    count = 0
    for row in rows:
        count += 1
        if row.path == Path():
            nameless.append(row.line)
        elif is_regular(row.path) or _is_folder(row.path):
            yield row
        else:
            gone.append(row)
    if nameless:
        log.warning("Left out: %s, line %s", table, _some([f"{line} names no file" for line in nameless]))
    if gone and len(gone) + len(nameless) == count:
        raise FileNotFoundError(
            f"{table} names no file that is there, such as {gone[0].path}. Is data.sources media_root right?"
        )
    if gone:
        said = _some([f"{row.path} (line {row.line})" for row in gone])
        log.warning("Left out: %d of %d files of %s are not there: %s", len(gone), count, table, said)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _some(items: Sequence[str], most: int = 3) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(items) - most:,} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
