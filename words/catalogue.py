"""The words of the pack by their places in ComfyUI's locale files, and what a catalogue makes of them.

A catalogue (``words/<language>.json``) maps an English text to its translation, so that a text that was
changed has none any more, and one that stands in several places is translated once. Where one English text
must become several, an entry for a place goes before: ``"nodeDefs.FlipbookX.inputs.end.name: end"``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WORDS = ROOT / "words"
LOCALES = ROOT / "locales"
PAGE_WORDS = ROOT / "web" / "words.js"
FILES = ("main", "nodeDefs", "commands", "settings")
"""Of one language, as ComfyUI reads them: ``main`` at the top, the others below their names."""
FOLDER, TITLE = "animatediff-flipbook", "AnimateDiff Flipbook"
"""Our folder in custom_nodes, and what the template browser calls its workflows."""
SEED_CONTROL = "control_after_generate"
"""The page's own widget after a seed."""


def normal(key: str) -> str:
    """A name as a key of the page's tables, which cuts keys at dots."""
    return key.replace(".", "_")


def english(nodes: list) -> dict[str, Any]:
    """The English texts of node classes and of the page's scripts: ``{file: tree}``."""
    words = page_words()
    schemas = [node.GET_SCHEMA() for node in nodes]
    parts = [part for schema in schemas for part in schema.category.split("/")]
    words["main"]["nodeCategories"] = {part: part for part in parts}
    words["main"]["templateWorkflows"] = {"category": {FOLDER: TITLE}}
    words["nodeDefs"] = {normal(schema.node_id): node_words(schema) for schema in schemas}
    return {name: words[name] for name in FILES}


def page_words() -> dict[str, Any]:
    """What our scripts show: the JSON behind ``ENGLISH`` in web/words.js."""
    found = re.search(r"^export const ENGLISH = (\{.*?^\})", PAGE_WORDS.read_text("utf-8"), re.M | re.S)
    if found is None:
        raise ValueError(f"{PAGE_WORDS} holds no `export const ENGLISH = {{...}}`.")
    return json.loads(found[1])


def node_words(schema: Any) -> dict[str, Any]:
    """A node's texts in the layout of nodeDefs.json."""
    inputs = {}
    for part in schema.inputs:
        inputs[normal(part.id)] = {"name": part.display_name or part.id, "tooltip": part.tooltip}
        if getattr(part, SEED_CONTROL, None):
            inputs[SEED_CONTROL] = {"name": SEED_CONTROL.replace("_", " ")}
    outputs = {
        str(place): {"name": part.display_name, "tooltip": part.tooltip}
        for place, part in enumerate(schema.outputs)
    }
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": inputs,
        "outputs": outputs,
    }


def flat(tree: dict[str, Any], place: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """The texts of a tree by their places."""
    found = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found.update(flat(value, (*place, key)))
        else:
            found[(*place, key)] = value
    return found


def translated(
    tree: dict[str, Any], catalogue: dict[str, str], place: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The same tree in a catalogue's language; texts that the catalogue lacks stay away."""
    made = {}
    for key, value in tree.items():
        here = (*place, key)
        if isinstance(value, dict):
            made[key] = translated(value, catalogue, here)
        elif text := catalogue.get(f"{'.'.join(here)}: {value}") or catalogue.get(value):
            made[key] = text
    return made


def read(language: str) -> dict[str, str]:
    """A language's catalogue."""
    file = WORDS / f"{language}.json"
    return json.loads(file.read_text("utf-8")) if file.is_file() else {}


def completed(tree: dict[str, Any], catalogue: dict[str, str]) -> dict[str, str]:
    """The catalogue in the order of the English texts, "" where a translation is missing, without those whose
    English text is gone."""
    made = {}
    for place, text in flat(tree).items():
        special = f"{'.'.join(place)}: {text}"
        if special in catalogue:
            made[special] = catalogue[special]
        else:
            made[text] = catalogue.get(text, "")
    return made


def languages() -> list[str]:
    """Languages that have a catalogue."""
    return sorted(file.stem for file in WORDS.glob("*.json"))


def rendered(tree: dict[str, Any]) -> str:
    """A locale file's content."""
    return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"
