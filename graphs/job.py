"""One conversion on its way: what all rules share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .old import Old, read_widgets
from .rules import OLD_NODES
from .workflow import Source
from .world import Level, World


@dataclass(frozen=True)
class Value:
    """What a widget holds: a value, or the output that feeds it instead."""

    constant: object
    link: Source | None = None


@dataclass
class Job:
    """The state of a conversion."""

    world: World
    done: set[tuple[int, str]] = field(default_factory=set)
    """Nodes that have got their new form, or whose values stand elsewhere now."""
    wanted: set[tuple[int, str]] = field(default_factory=set)
    """Carriers that a converted node has a link to, so that they become nodes of ours."""

    joint: set[tuple[int, str]] = field(default_factory=set)
    """Module loaders whose GroupNorms count frames together."""
    used: list[tuple[Level, str]] = field(default_factory=list)
    """Nodes that were read for a control; they go where nothing else has a link to them."""
    tuned: dict[tuple[int, str], dict[str, object]] = field(default_factory=dict)
    """Nodes that become Motion Settings, with their values."""

    def say(self, kind: str, level: Level, node: str, text: str, node_type: str | None = None) -> None:
        """A line of the report."""
        self.world.report.add(kind, self.world.label(level, node), node_type or level.type(node), text)

    def complain(self, level: Level, node: str) -> Callable[[str], None]:
        """For values that could not be kept."""
        kind = level.type(node)
        return lambda text: self.say("lost", level, node, text[0].upper() + text[1:], kind)

    def old(self, level: Level, node: str) -> Old:
        """The table of a node's type."""
        return OLD_NODES[level.type(node)]

    def values(self, level: Level, node: str) -> dict[str, Value]:
        """All widgets of an old node, by their present names."""
        old = self.old(level, node)
        given = level.named_widgets(node) or level.widgets(node)
        plain = read_widgets(old, given, self.complain(level, node))
        return {name: Value(value, level.source(node, *old.aliases(name))) for name, value in plain.items()}

    def settled(self, level: Level, node: str) -> dict[str, object]:
        """The same for values that must stand in the file: what is linked is looked up."""
        result = {}
        for name, value in self.values(level, node).items():
            result[name] = value.constant
            if value.link:
                known = self.world.constant(level, value.link)
                if known is None:
                    self.say(
                        "lost",
                        level,
                        node,
                        f"{name} is linked to a value that does not stand in the file; taken: "
                        f"{value.constant!r}.",
                    )
                else:
                    result[name] = known
        return result

    def socket(self, level: Level, node: str, name: str) -> Source | None:
        """What is linked to an input under any of its names."""
        return level.source(node, *self.old(level, node).aliases(name))

    def mark(self, level: Level, node: str) -> None:
        """This node needs no further look."""
        self.done.add((id(level), node))

    def is_done(self, level: Level, node: str) -> bool:
        """Whether it has been dealt with."""
        return (id(level), node) in self.done


def split(values: dict[str, Value]) -> tuple[dict[str, object], dict[str, Source]]:
    """Constants and links, for a new node."""
    constants = {name: value.constant for name, value in values.items()}
    return constants, {name: value.link for name, value in values.items() if value.link}
