"""The tables of the documentation, made from the rules."""

from __future__ import annotations

from .rules.artventurex import NODES as ARTVENTUREX
from .rules.becomes import BECOMES
from .rules.evolved import BETA_SCHEDULES
from .rules.evolved_nodes import NODES as EVOLVED


def as_markdown() -> str:
    """Node by node, and the noise schedules."""
    parts = []
    for title, nodes in (("AnimateDiff-Evolved", EVOLVED), ("ArtVentureX/comfyui-animatediff", ARTVENTUREX)):
        rows = [(f"`{name}`", *BECOMES[name]) for name in nodes]
        parts.append(f"### {title}\n\n" + _table(("Node there", "Here", "Lost"), rows))
    rows = [
        (
            f"`{name}`",
            ("*ModelSamplingDiscrete* (lcm) in front, " if schedule.lcm else "") + f"`{schedule.choice}`",
        )
        for name, schedule in BETA_SCHEDULES.items()
    ]
    parts.append("### Noise schedules\n\n" + _table(("beta_schedule there", "Here"), rows))
    return "\n".join(parts)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
