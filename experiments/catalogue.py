"""The experiments: a configuration and a script of the same name each, in the order in which they run."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).parent
WORDS = ("title", "claim", "priority", "measures")
"""Of a configuration: what only the report and the order of running need."""
READERS = ("results", "intervals")
"""Modules that scripts import to read results: they change nothing in them."""


@dataclass(frozen=True)
class Experiment:
    """One of them."""

    name: str
    config: dict[str, Any]

    @property
    def script(self) -> ModuleType:
        """Has `arms(config)`, `run(arm, bench, config)` and `judge(table, config)`."""
        return importlib.import_module(f".{self.name}", __package__)

    def fingerprint(self, settings: dict[str, Any]) -> str:
        """Of all that a result of this experiment depends on: a tier's settings without its seeds, the
        configuration, the script without its `judge`, and every module of this folder that it imports."""
        sizes = {name: table for name, table in settings.items() if isinstance(table, dict)}
        config = {key: value for key, value in self.config.items() if key not in WORDS}
        sources = [_parts(name)[0] for name in _imported(self.name)]
        facts = json.dumps([sizes, config, sources], sort_keys=True)
        return hashlib.sha256(facts.encode()).hexdigest()[:12]

    def criteria(self) -> str:
        """Digest of the script's `judge`."""
        return hashlib.sha256(_parts(self.name)[1].encode()).hexdigest()[:12]


def experiments(names: list[str] | None = None, tier: str = "full") -> list[Experiment]:
    """All, or those whose names begin with one of the given; those that matter most first. A table `quick`
    of a configuration holds the values that this tier has in place of the others.

    Raises:
        ValueError: a name means none.
    """
    found = []
    for path in sorted(HERE.glob("e[0-9]*.toml")):
        config = read_toml(path)
        quick = config.pop("quick", {})
        found.append(Experiment(path.stem, config | quick if tier == "quick" else config))
    for name in names or ():
        if not any(experiment.name.startswith(name) for experiment in found):
            known = ", ".join(experiment.name for experiment in found)
            raise ValueError(f"There is no experiment {name!r}. There are {known}.")
    if names:
        found = [one for one in found if any(one.name.startswith(name) for name in names)]
    return sorted(found, key=lambda experiment: not experiment.config["priority"])


def read_toml(path: Path) -> dict[str, Any]:
    """A configuration."""
    with path.open("rb") as file:
        return tomllib.load(file)


def settings(tier: str) -> dict[str, Any]:
    """A tier's seeds and sizes."""
    return read_toml(HERE / "settings.toml")[tier]


def _imported(script: str) -> list[str]:
    """Names of the modules of this folder that a script stands on, itself among them, sorted."""
    found, waiting = set(), [script]
    while waiting:
        name = waiting.pop()
        if name in found or name in READERS or not (HERE / f"{name}.py").exists():
            continue
        found.add(name)
        text = (HERE / f"{name}.py").read_text(encoding="utf-8")
        for module, names in re.findall(r"^ *from \.(\w*) import (\([^)]*\)|.*)", text, re.MULTILINE):
            waiting += [module] if module else re.findall(r"\w+", names)
    return sorted(found)


def _parts(name: str) -> tuple[str, str]:
    """A module's text without its `judge`, and that alone: a limit that changes, changes no sample."""
    text = (HERE / f"{name}.py").read_text(encoding="utf-8")
    # up to the next line that begins at the margin, but for the bracket that ends a long signature
    judge = re.search(r"^def judge\(.*?(?=^[^\s)]|\Z)", text, re.MULTILINE | re.DOTALL)
    return (text.replace(judge[0], ""), judge[0]) if judge else (text, "")
