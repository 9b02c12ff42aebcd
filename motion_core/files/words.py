"""A file's words, made fit to be shown: names of tensors and values of metadata are a stranger's text."""

from __future__ import annotations

LONGEST = 120
"""Characters of a name that are shown, at most."""


def shown(text: object, longest: int = LONGEST) -> str:
    """One printable line: control characters and line breaks escaped, long ones cut in the middle."""
    text = str(text)
    if len(text) > longest:
        text = f"{text[: longest // 2]}...{text[-longest // 4 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
