"""Reading schedules written as text: `frame: value` entries in three spellings, all of them meaning the same.

::

    0: a cat / 16: a dog                  short; a new line does as well as the slash
    "0": "a cat", "16": "a dog"           JSON, with or without the outer braces
    0 = "a cat", 16 = "a dog"             assignments

Numbers stand without quotes: ``0: 0.5 / 16: 1``, ``"0": 0.5, "16": 1``, ``0 = 0.5, 16 = 1``. What the frames
and the values mean is the matter of :mod:`~.value_schedule`; here only the text is taken apart.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

# Only one way to read a run of digits, so that a text of digits takes linear time.
_NUMBER = r"-?(?:\d+(?:\.\d+)?|\.\d+)"
_FRAME = rf"{_NUMBER}(?::(?:{_NUMBER})?)?"
_JSON_FRAME = re.compile(r'\s*"\s*(?P<frame>[^"]*?)\s*"\s*:\s*')
_ASSIGNED_FRAME = re.compile(rf"\s*(?P<frame>{_FRAME})\s*=\s*")
_SHORT_FRAME = re.compile(rf"(?P<frame>{_FRAME})\s*:(?!:)")
# Other marks in place of the slash. A digit after the colon is a ratio or a time of day, as in `, 16:9`.
_FRAME_AFTER_MARK = re.compile(rf"[,;|]\s*(?:{_FRAME})\s*:[^\d.:]")
_SPACE = re.compile(r"\s*")
_VALUE = re.compile(r'(?:"(?P<text>(?:[^"\\]|\\.)*)"|(?P<number>[^\s,"}]+))\s*', re.DOTALL)


@dataclass(frozen=True)
class Entry:
    """One ``frame: value`` of a schedule text."""

    frame: str
    """The frame as written, such as ``16``, ``-1``, ``0.5``, ``8:12`` or ``8:``."""
    value: str
    """The prompt, or the number as written."""
    span: tuple[int, int]
    """Where it stands: first character, and the one after the last."""


def parse_entries(text: str) -> list[Entry]:
    """Split a schedule text into its entries, whichever spelling it is in.

    Raises:
        ValueError: with the range of characters that could not be read.
    """
    if not text.strip():
        raise ValueError(
            "The schedule is empty; expected entries such as `0: a cat / 16: a dog` for prompts, or "
            "`0: 0.5 / 16: 1` for numbers."
        )
    if text.lstrip()[0] in '"{':
        return _parse_quoted(text, _JSON_FRAME, '`"frame": "value"`, such as `"16": "a dog"`')
    if _ASSIGNED_FRAME.match(text):
        return _parse_quoted(text, _ASSIGNED_FRAME, '`frame = "value"`, such as `16 = "a dog"`')
    return _parse_short(text)


def _parse_quoted(text: str, frame_pattern: re.Pattern, expected: str) -> list[Entry]:
    start, end = 0, len(text.rstrip())
    if text.lstrip().startswith("{"):
        start = text.index("{") + 1
        if not text[start:end].endswith("}"):
            raise unreadable(text, (end - 1, end), "a closing brace `}` at the end")
        end = len(text[: end - 1].rstrip())
    entries = []
    while _SPACE.match(text, start).end() < end:
        frame = frame_pattern.match(text, start, end)
        value = _VALUE.match(text, frame.end(), end) if frame else None
        if not value:
            raise unreadable(text, (start, end), expected)
        entries.append(Entry(frame["frame"], _value(text, value), (frame.start(), value.end())))
        start = value.end()
        if start < end and text[start] != ",":
            raise unreadable(text, (start, end), "a comma before the next entry")
        start += 1
    if not entries:
        raise unreadable(text, (0, len(text)), expected)
    return entries


def _value(text: str, match: re.Match) -> str:
    if match["text"] is None:
        return match["number"]
    # `\(` is no JSON, but prompts write it for a parenthesis that is no weight: the backslash is meant.
    quoted = re.sub(r"\\(.)", lambda pair: "\\" * (pair[1] in "()") + pair[0], match["text"], flags=re.DOTALL)
    try:
        return json.loads(f'"{quoted}"', strict=False)
    except json.JSONDecodeError:
        expected = 'a backslash only as in JSON (\\n, \\", \\\\) or before a parenthesis'
        raise unreadable(text, match.span(), expected) from None


def _parse_short(text: str) -> list[Entry]:
    # A slash or a new line begins an entry only where a frame follows: "w/ hat" and "f/1.8" stay part of a
    # prompt.
    starts = [
        match.end() for match in re.finditer(r"(?:^|[/\n])\s*", text) if _SHORT_FRAME.match(text, match.end())
    ]
    if not starts or text[: starts[0]].strip():
        raise unreadable(
            text,
            (0, starts[0] if starts else len(text)),
            "a frame, a colon and a value, such as `0: a cat / 16: a dog`",
        )
    entries = []
    for start, following in zip(starts, [*starts[1:], len(text)], strict=True):
        frame = _SHORT_FRAME.match(text, start)
        value = text[frame.end() : following].strip()
        value = value.removesuffix("/").rstrip()
        if lost := _FRAME_AFTER_MARK.search(value):
            place = text.index(lost[0], frame.end())
            raise unreadable(text, (place, place + len(lost[0])), "` / ` or a new line before the next frame")
        if value.startswith('"'):
            value = value.removesuffix(",").rstrip()
        if len(value) >= 2 and value[0] == value[-1] == '"' and '"' not in value[1:-1]:
            value = value[1:-1]
        entries.append(Entry(frame["frame"], value, (start, following)))
    return entries


def unreadable(text: str, span: tuple[int, int], expected: str) -> ValueError:
    """The error for a text that cannot be read: where (first character, one after the last), what, what
    instead."""
    shown = text[span[0] : span[1]].strip()
    shown = shown if len(shown) <= 40 else shown[:37] + "..."
    return ValueError(
        f"The schedule cannot be read at characters {span[0]} to {span[1]} ({shown!r}); expected {expected}."
    )
