"""Small JSON files and texts beside weights, read as a stranger's: bounded, typed, one sentence if wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from .words import shown

MAX_BYTES = 2**20


def json_object(text: str, where: str) -> dict[str, Any]:
    """The fields of a JSON text; ``where`` names it in messages.

    Raises:
        ValueError: too long, no JSON, or no object.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"{where} is longer than {MAX_BYTES // 2**20} MiB, which no configuration is.")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is no readable JSON. Mend or remove it.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{where} holds a {type(content).__name__}, expected an object of settings.")
    return content


def json_file(path: Path) -> dict[str, Any]:
    """The fields of a JSON file, see :func:`json_object`; also OSErrors become a sentence."""
    where = f"{path.name} beside the weights"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{where} is larger than {MAX_BYTES // 2**20} MiB, which no configuration is.")
        text = path.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        raise ValueError(f"{where} cannot be read ({error.strerror}).") from error
    return json_object(text.removeprefix("\ufeff"), where)


def whole_number(value: Any, what: str, highest: int) -> int:
    """A whole number from 1 to ``highest``, also written as text or as 8.0.

    Raises:
        ValueError: anything else.
    """
    try:
        number = value if isinstance(value, int) else float(value)
        if isinstance(value, bool) or not 1 <= number <= highest or number != int(number):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"{what} is {shown(repr(value), 40)}, expected a whole number from 1 to {highest}"
        ) from None
    return int(number)


def finite_number(value: Any, what: str) -> float:
    """A number that fp32 holds.

    Raises:
        ValueError: anything else.
    """
    try:
        if isinstance(value, (bool, str)) or not math.isfinite(number := float(value)) or abs(number) > 3e38:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{what} is {shown(repr(value), 40)}, expected a number.") from None
    return number
