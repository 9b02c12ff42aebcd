"""What the demo renders: published workflows, and what is exchanged in them.

Only values change (file names, prompts, seeds and the picture size), never the graph: what the demo shows is
what a user gets from the same file. The server takes the API form, which is kept beside the tests.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
API_WORKFLOWS = ROOT / "tests" / "data" / "api"
SIZE = 128  # pixels: what the tiny family is made for
FILES = {  # input of a node -> folder whose first file it gets
    "CheckpointLoaderSimple.ckpt_name": "checkpoints",
    "FlipbookLoadMotionModule.motion_module": "animatediff_models",
    "FlipbookLoadMotionLora.motion_lora": "animatediff_motion_lora",
    "FlipbookApplyDomainAdapter.domain_adapter": "loras",
}


@dataclass(frozen=True)
class Render:
    """One picture of the demo."""

    name: str
    """File name of the result, without its ending."""
    workflow: str
    """Stem of a published workflow."""
    caption: str
    """What it shows, for people."""
    prompt: str | None = None
    """Replaces the text that leads to the sampler's positive input."""
    changes: Mapping[str, object] = field(default_factory=dict)
    """`NodeClass.input` -> value, for every node of that class."""


RENDERS = (
    Render(
        name="text-to-animation",
        workflow="text-to-animation",
        caption="Text to animation: a motion module makes the frames of one prompt move together",
        prompt="a red circle moving right",
        changes={"KSampler.seed": 7},
    ),
)


def load_workflow(stem: str) -> dict:
    """The API form of a published workflow. Raises FileNotFoundError."""
    path = API_WORKFLOWS / f"{stem}.json"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in API_WORKFLOWS.glob("*.json"))) or "none"
        raise FileNotFoundError(f"there is no workflow {stem} in {API_WORKFLOWS}; present: {known}")
    return json.loads(path.read_text(encoding="utf-8"))


def changed(prompt: dict, changes: Mapping[str, object]) -> dict:
    """A copy with values exchanged: `NodeClass.input` -> value for every node of the class.

    Raises ValueError if a class is absent, or if the input is absent or fed by another node: a change that
    reaches nothing would silently render something else.
    """
    result = copy.deepcopy(prompt)
    for target, value in changes.items():
        kind, _, name = target.partition(".")
        nodes = [node for node in result.values() if node["class_type"] == kind]
        if not nodes:
            present = ", ".join(sorted({node["class_type"] for node in prompt.values()}))
            raise ValueError(f"{target}: the workflow has no node {kind}; it has {present}")
        for node in nodes:
            if name not in node["inputs"] or isinstance(node["inputs"][name], list):
                raise ValueError(
                    f"{target}: this is no value of the node; it has {', '.join(node['inputs'])}"
                )
            node["inputs"][name] = value
    return result


def with_text(prompt: dict, text: str, sampler_input: str = "positive") -> dict:
    """A copy whose CLIPTextEncode nodes upstream of the KSampler's `positive` (or `negative`) say `text`.

    Raises ValueError if there is none.
    """
    result = copy.deepcopy(prompt)
    queue = [n["inputs"][sampler_input][0] for n in result.values() if n["class_type"] == "KSampler"]
    found = False
    while queue:
        node = result[queue.pop()]
        if node["class_type"] == "CLIPTextEncode":
            node["inputs"]["text"] = text
            found = True
        else:
            queue += [value[0] for value in node["inputs"].values() if isinstance(value, list)]
    if not found:
        raise ValueError(f"no text leads to the {sampler_input} input of a KSampler in this workflow")
    return result


def fitted(prompt: dict, models: Mapping[str, list[Path]]) -> dict:
    """A copy that names files we have and the size they are made for, in the nodes that the workflow has."""
    kinds = {node["class_type"] for node in prompt.values()}
    files = {key: models[folder][0].name for key, folder in FILES.items() if models.get(folder)}
    size = {"EmptyLatentImage.width": SIZE, "EmptyLatentImage.height": SIZE}
    return changed(prompt, {k: v for k, v in {**files, **size}.items() if k.split(".")[0] in kinds})
