"""The form of a node that conversions put in: its sockets, widgets and their bounds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Input:
    """An input of a node."""

    name: str
    kind: str
    """Type of the link; of widgets INT, FLOAT, BOOLEAN, STRING or COMBO."""
    default: object = None
    low: float | None = None
    high: float | None = None
    options: tuple[str, ...] | None = None
    """Of a COMBO; None where it depends on the machine (files, samplers)."""
    widget: bool = True
    seed: bool = False
    """Followed by control_after_generate."""
    takes: str = ""
    """What its slot takes, where that is more than the kind."""

    @property
    def link_type(self) -> str:
        """Type of the slot."""
        return self.takes or self.kind


def socket(name: str, kind: str) -> Input:
    """An input without a widget."""
    return Input(name, kind, widget=False)


def integer(name: str, default: int, low: int, high: int, *, seed: bool = False) -> Input:
    """A whole number."""
    return Input(name, "INT", default, low, high, seed=seed)


def decimal(name: str, default: float, low: float, high: float, takes: str = "") -> Input:
    """A number."""
    return Input(name, "FLOAT", default, low, high, takes=takes)


def boolean(name: str, default: bool) -> Input:
    """A switch."""
    return Input(name, "BOOLEAN", default)


def string(name: str, default: str = "") -> Input:
    """A text."""
    return Input(name, "STRING", default)


def combo(name: str, default: str, options: tuple[str, ...] | None = None) -> Input:
    """A choice."""
    return Input(name, "COMBO", default, options=options)


@dataclass(frozen=True)
class Target:
    """A node that is put in."""

    inputs: tuple[Input, ...]
    """In the order of its definition, which is that of widgets_values too."""
    outputs: tuple[tuple[str, str], ...]
    """``(name, type)``."""

    def input(self, name: str) -> Input:
        """The input of a name."""
        return next(one for one in self.inputs if one.name == name)


SEED_HIGH = 0xFFFFFFFFFFFFFFFF
SAMPLER_HEAD = (
    socket("model", "MODEL"),
    integer("seed", 0, 0, SEED_HIGH, seed=True),
    integer("steps", 20, 1, 10000),
    decimal("cfg", 8.0, 0.0, 100.0),
    combo("sampler_name", "euler"),
    combo("scheduler", "normal"),
    socket("positive", "CONDITIONING"),
    socket("negative", "CONDITIONING"),
    socket("latent_image", "LATENT"),
)
"""Of every sampler that looks as KSampler does."""
