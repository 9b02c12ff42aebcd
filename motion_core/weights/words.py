"""The words (metadata) of a file that is made of several."""

from __future__ import annotations

from collections.abc import Mapping

LICENCE, BETWEEN = "licence", ", "


def words_of_all(*files: Mapping[str, str]) -> dict[str, str]:
    """What all files say alike, and their licences.

    What only one of them says, such as its losses, is not true of what is made of them.
    """
    first, *others = files
    same = {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}
    return {**same, **licence_of_all(*files)}


def licence_of_all(*files: Mapping[str, str]) -> dict[str, str]:
    """The files' licences as one entry, each named once; empty if none names one."""
    texts = (words.get(LICENCE, "") for words in files)
    named = dict.fromkeys(part for text in texts for part in text.split(BETWEEN) if part.strip())
    return {LICENCE: BETWEEN.join(named)} if named else {}
