"""The experiments: a configuration and a script of the same name each, in the order in which they run."""

from __future__ import annotations

import importlib
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


@dataclass(frozen=True)
class Experiment:
    """One of them."""

    name: str
    config: dict[str, Any]

    @property
    def script(self) -> ModuleType:
        """Has `arms(config)`, `run(arm, bench, config)` and `judge(table, config)`."""
        return importlib.import_module(f".{self.name}", __package__)


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
