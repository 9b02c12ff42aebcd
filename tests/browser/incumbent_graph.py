"""A graph as people have it: text to animation with the nodes of AnimateDiff-Evolved, in UI format."""

from __future__ import annotations

import copy
import json
from pathlib import Path

WORKFLOW = Path(__file__).resolve().parents[2] / "workflows" / "text-to-animation.json"
OLD_TYPES = {
    "ADE_AnimateDiffLoaderWithContext",
    "ADE_AnimateDiffUniformContextOptions",
    "ADE_EmptyLatentImageLarge",
}
_LOADER = [
    {"name": "model", "type": "MODEL", "link": 3},
    {"name": "context_options", "type": "CONTEXT_OPTIONS", "link": 4},
    {"name": "motion_lora", "type": "MOTION_LORA", "link": None},
    {"name": "motion_model_settings", "type": "MOTION_MODEL_SETTINGS", "link": None},
]


def old_graph(graph_id: str = "11111111-2222-4333-8444-555555555555") -> dict:
    """Our workflow of that name with their loader (6), context options (5) and empty latent (7)."""
    graph = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    graph["id"] = graph_id
    graph["nodes"] = [node for node in graph["nodes"] if node["type"] != "MarkdownNote"]
    node = {one["id"]: one for one in graph["nodes"]}
    module = node[5]["widgets_values"][0]
    options = {"name": "CONTEXT_OPTIONS", "type": "CONTEXT_OPTIONS", "links": [4]}
    animated = {"name": "MODEL", "type": "MODEL", "links": [5]}
    node[5].update(
        {"type": "ADE_AnimateDiffUniformContextOptions", "inputs": [], "outputs": [options]},
        widgets_values=[16, 1, 4, "uniform", False, "flat", False, 0, 1],
    )
    node[6].update(
        {"type": "ADE_AnimateDiffLoaderWithContext", "inputs": copy.deepcopy(_LOADER), "outputs": [animated]},
        widgets_values=[module, "sqrt_linear (AnimateDiff)", 1, True],
    )
    node[7]["type"] = "ADE_EmptyLatentImageLarge"
    for one in graph["nodes"]:
        one["properties"] = {"Node name for S&R": one["type"]}
    graph["links"] = [[4, 5, 0, 6, 1, "CONTEXT_OPTIONS"] if link[0] == 4 else link for link in graph["links"]]
    return graph
