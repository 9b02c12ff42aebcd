"""Graphs of other AnimateDiff packs turned into ours: pure data, without torch, ComfyUI or our other rooms.

:func:`graphs.convert.convert` takes a workflow or a prompt and returns a new one with a report.
"""

from .errors import GraphError

__all__ = ["GraphError"]
