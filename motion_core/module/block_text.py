"""Values by block, written as text: ``up_blocks.1: scale 1.2, effect 0.8``, one line for each.

A block is named by the beginning of its modules' names in the file; ``motion_modules`` may be left out
(``down_blocks.0.1``). A scale of two numbers, ``1.2/0.9``, is for a module's first and second attention.
"""

from __future__ import annotations

import math
import re

from .call import BlockValues

NAME = re.compile(r"(down_blocks|mid_block|up_blocks)(?:\.(\d+))?(?:(?:\.motion_modules)?\.(\d+))?$")
HIGHEST = 10.0


def read_blocks(text: str) -> tuple[BlockValues, ...]:
    """Values by block, in the order of the lines; where two name a module, the first counts.

    Raises:
        ValueError: names the line that cannot be read.
    """
    lines = ((number, line.split("#")[0].strip()) for number, line in enumerate(text.splitlines(), 1))
    return tuple(_read(number, line) for number, line in lines if line)


def _read(number: int, line: str) -> BlockValues:
    name, colon, values = line.partition(":")
    found: dict[str, tuple[float, ...]] = {}
    for part in values.split(",") if colon else ():
        words = part.split()
        if len(words) != 2 or words[0] not in ("scale", "effect") or words[0] in found:
            raise _wrong(number, line)
        found[words[0]] = _numbers(words[1], number, line)
    if not found or len(found.get("effect", (1.0,))) > 1:
        raise _wrong(number, line)
    return BlockValues(
        block_name(name.strip(), number, line), found.get("effect", (None,))[0], found.get("scale")
    )


def block_name(name: str, number: int, line: str) -> str:
    """A block's name as the file has it."""
    match = NAME.match(name)
    if match is None:
        raise _wrong(number, line)
    part, level, module = match.groups()
    if part == "mid_block":
        module, level = module or level, None
    name = part if level is None else f"{part}.{level}"
    return name if module is None else f"{name}.motion_modules.{module}"


def _numbers(text: str, number: int, line: str) -> tuple[float, ...]:
    try:
        values = tuple(float(one) for one in text.split("/"))
    except ValueError:
        raise _wrong(number, line) from None
    if not all(math.isfinite(value) and 0.0 <= value <= HIGHEST for value in values):
        raise _wrong(number, line)
    return values


def _wrong(number: int, line: str) -> ValueError:
    shown = line if len(line) <= 60 and line.isprintable() else "not readable"
    return ValueError(
        f"Line {number} of the blocks is `{shown}`; expected a block and values, 0 to {HIGHEST:g}, such "
        "as `up_blocks.1: scale 1.2, effect 0.8`, `down_blocks.0.1: scale 1.2/0.9` or `mid_block: effect 0`."
    )
