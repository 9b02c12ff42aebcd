"""What a conversion did, node by node: as text, as JSON and as a note in the graph."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

KINDS = ("mapped", "changed", "lost", "left")
TITLES = {
    "mapped": "Mapped one to one",
    "changed": "Changed",
    "lost": "Lost",
    "left": "Left to another pack",
}


@dataclass(frozen=True)
class Item:
    """One line of the report."""

    kind: str
    """One of :data:`KINDS`."""
    node_id: str
    """The node of the old graph; ``subgraph:node`` inside of a subgraph or a group node."""
    node_type: str
    """Its type there."""
    text: str
    """A sentence: what became of it, or what was lost and why."""

    @property
    def where(self) -> str:
        """``#id type: ``, or nothing for what concerns the whole file."""
        return f"#{self.node_id} {self.node_type}: " if self.node_id else ""


@dataclass
class Report:
    """All lines of one conversion, in the order of the graph."""

    items: list[Item] = field(default_factory=list)
    _known: set[Item] = field(default_factory=set, repr=False)

    def add(self, kind: str, node_id: str, node_type: str, text: str) -> None:
        """Add a line, once."""
        item = Item(kind, node_id, node_type, text)
        if item not in self._known:
            self._known.add(item)
            self.items.append(item)

    def of_kind(self, kind: str) -> list[Item]:
        """The lines of one kind."""
        return [item for item in self.items if item.kind == kind]

    @property
    def count(self) -> int:
        """Number of nodes that were converted."""
        return len({item.node_id for item in self.items if item.kind != "left" and item.node_id})

    @property
    def needs_conversion(self) -> bool:
        """Whether there was anything to convert."""
        return self.count > 0

    def as_text(self) -> str:
        """Headings and one line per item."""
        if not self.items:
            return "Nothing to convert: this graph holds no node of another AnimateDiff pack.\n"
        lines = []
        for kind in KINDS:
            if items := self.of_kind(kind):
                lines += [f"{TITLES[kind]}:"]
                lines += [f"  {item.where}{item.text}" for item in items]
        return "\n".join(lines) + "\n"

    def as_json(self) -> str:
        """``{"count": .., "items": [{"kind", "node_id", "node_type", "text"}, ..]}``."""
        content = {"count": self.count, "items": [asdict(item) for item in self.items]}
        return json.dumps(content, ensure_ascii=False, indent=2)
