"""What the server answers: what a finished prompt left behind, and why another did not finish."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class PromptError(RuntimeError):
    """A prompt that did not succeed.

    kind: "rejected" (the server refused the graph), "error" (a node raised), "interrupted", "timeout" or
        "lost" (the server went away).
    details: what the server said: `node_errors` per node, or the fields of `execution_error`
        (node_id, node_type, exception_type, exception_message, traceback).
    """

    def __init__(self, kind: str, message: str, details: dict | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.details = details or {}


@dataclass(frozen=True)
class OutputFile:
    """A file that a node saved, as `ComfyServer.view` takes it; `path` is where it lies."""

    node_id: str
    filename: str
    subfolder: str
    type: str
    path: Path


@dataclass(frozen=True)
class History:
    """What a finished prompt left behind."""

    prompt_id: str
    """The server's name for this run."""
    status: str
    """`success` or `error`, from /history."""
    outputs: dict[str, dict]
    """Node id -> what the node showed in the interface, e.g. {"images": [...], "animated": [True]}."""
    files: tuple[OutputFile, ...]
    """Every saved file in `outputs`, in order."""
    events: tuple[tuple[str, dict], ...]
    """Every websocket message of this prompt: (type, data)."""
    seconds: float
    """Wall-clock time from POST /prompt to the end."""

    def executed(self) -> tuple[str, ...]:
        """Ids of the nodes that ran, in order; nodes answered from the cache are absent."""
        nodes = (data.get("node") for kind, data in self.events if kind == "executing")
        return tuple(dict.fromkeys(node for node in nodes if node))

    def cached(self) -> tuple[str, ...]:
        """Ids of the nodes whose result came from the cache."""
        return tuple(n for kind, data in self.events if kind == "execution_cached" for n in data["nodes"])

    def progress(self, node_id: str | None = None) -> tuple[tuple[int, int], ...]:
        """(value, max) of every progress message, of one node or of all."""
        return tuple(
            (data["value"], data["max"])
            for kind, data in self.events
            if kind == "progress" and node_id in (None, data.get("node"))
        )


def rejection(details: dict) -> str:
    """One line per reason that /prompt gave, with node class and input."""
    error = details.get("error") or {}
    lines = [error.get("message", "the server refused the prompt") if isinstance(error, dict) else str(error)]
    for node_id, node in (details.get("node_errors") or {}).items():
        for problem in node.get("errors", ()):
            text = f"{problem.get('message', '')} {problem.get('details', '')}".strip()
            lines.append(f"  node {node_id} ({node.get('class_type')}): {text}")
    return "\n".join(lines)


def node_error(data: dict) -> str:
    """Node, exception and its message, as the interface would show them."""
    message = str(data.get("exception_message", "")).strip()
    name = f"node {data.get('node_id')} ({data.get('node_type')})"
    return f"{name} raised {data.get('exception_type')}: {message}"
