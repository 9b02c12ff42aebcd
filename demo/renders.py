"""What the demo renders: published workflows, and what is exchanged in them.

Only values change (file names, prompts, seeds and, for the CPU's sake, picture size and steps), never the
graph: what the demo shows is what a user gets from the same file. The server takes the API form, kept beside
the tests.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
API_WORKFLOWS = ROOT / "tests" / "data" / "api"
SIZE = 128  # pixels: what the tiny family is made for
STEPS = 10  # of the sampler, fewer than published: the gallery shall take minutes on two CPU cores
SAMPLING_NODES = (  # those that have `steps`
    "KSampler",
    "FlipbookContextSampler",
    "FlipbookFreeInitSampler",
    "BasicScheduler",
)
FILES = {  # input of a node that names a file -> folder in which the file lies
    "CheckpointLoaderSimple.ckpt_name": "checkpoints",
    "FlipbookLoadMotionModule.motion_module": "animatediff_models",
    "FlipbookLoadMotionLora.motion_lora": "animatediff_motion_lora",
    "FlipbookApplyDomainAdapter.domain_adapter": "loras",
    "LoraLoaderModelOnly.lora_name": "loras",
}


@dataclass(frozen=True)
class Render:
    """One picture of the demo."""

    name: str
    """File name of the result, without its ending."""
    workflow: str
    """Stem of a published workflow."""
    section: str
    """Heading of the gallery under which it stands."""
    caption: str
    """What to look at, for people."""
    prompt: str | None
    """Replaces the text that leads to the positive inputs; None where `changes` hold the texts."""
    seed: int = 7
    """Of the noise."""
    changes: Mapping[str, object] = field(default_factory=dict)
    """`NodeClass.input` -> value, for every node of that class; `#7.input` for node 7 alone."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Folder -> pattern of the file name to take there; any file where nothing is said."""


@dataclass(frozen=True)
class Result:
    """A finished render."""

    render: Render
    path: Path
    """The animated WEBP."""
    frames: int
    seconds: float
    """From the prompt to the saved file, without the start of the server."""


TEXT = "Text to animation: one motion module, four prompts"
CAMERA = "MotionLoRA: the same clip with a pan at three strengths"
OTHERS = "MotionLoRA: zoom, the other pan, and roll"
LONG = "Clips of any length: context windows"
ADAPTER = "Domain adapter: how much of the training videos' look to keep"
MORE = "Prompts that fade, and better start noise"

RENDERS = (
    *(
        Render(
            name=f"text-to-animation-{number}",
            workflow="text-to-animation",
            section=TEXT,
            caption=prompt,
            prompt=prompt,
        )
        for number, prompt in enumerate(
            (
                "a red circle moving right on a checkered background",
                "a blue square moving up on a dotted background",
                "a magenta triangle moving left on a striped background",
                "a green cross moving left on a cloudy background",
            ),
            start=1,
        )
    ),
    *(
        Render(
            name=f"motion-lora-{name}",
            workflow="motion-lora",
            section=CAMERA,
            caption=f"pan left, strength {strength:g}",
            prompt="a magenta circle still on a checkered background",
            changes={"FlipbookLoadMotionLora.strength": strength},
            files={"animatediff_motion_lora": "*pan_left*"},
        )
        for name, strength in (("off", 0.0), ("half", 0.5), ("on", 1.0))
    ),
    *(
        Render(
            name=f"motion-lora-{name}",
            workflow="motion-lora",
            section=OTHERS,
            caption=name.replace("-", " "),
            prompt="a blue circle still on a striped background",
            changes={"FlipbookLoadMotionLora.strength": 1.0},
            files={"animatediff_motion_lora": f"*{name.replace('-', '_')}*"},
        )
        for name in ("zoom-in", "pan-right", "roll-clockwise")
    ),
    *(
        Render(
            name=f"domain-adapter-{alpha:g}",
            workflow="domain-adapter",
            section=ADAPTER,
            caption=f"alpha {alpha:g}",
            prompt="a cyan square moving right on a striped background",
            changes={"FlipbookApplyDomainAdapter.alpha": alpha},
        )
        for alpha in (1.0, 0.5, 0.0)
    ),
    Render(
        name="long-clip-loop",
        workflow="long-clip",
        section=LONG,
        caption="48 frames that close to a loop",
        prompt="a red circle moving right on a checkered background",
        changes={
            "FlipbookContextWindows.schedule": "looped_uniform",
            "FlipbookContextWindows.closed_loop": True,
            # 48 is a multiple of 16 - 4, which would keep the seam at the end of a window in the first steps
            "FlipbookContextWindows.overlap": 3,
            "FlipbookFrameNoise.overlap": 3,
        },
    ),
    Render(
        name="prompt-travel",
        workflow="prompt-travel",
        section=LONG,
        caption="64 frames, red until the middle and blue after it",
        prompt=None,
        changes={
            "FlipbookPromptSchedule.prompts": "0:: a red circle moving up on a dotted background\n"
            "32:: a blue circle moving up on a dotted background",
            "FlipbookPromptSchedule.prepend": "",
            "FlipbookPromptSchedule.append": "",
        },
    ),
    Render(
        name="fading-prompt",
        workflow="fading-prompt",
        section=MORE,
        caption="yellow fades into magenta from frame 4 to 12",
        prompt=None,
        changes={
            "#3.text": "a yellow square moving left on a cloudy background",
            "#4.text": "a magenta square moving left on a cloudy background",
        },
    ),
    Render(
        name="second-pass",
        workflow="second-pass",
        section=MORE,
        caption="a second pass over 32 frames, with noise that travels with the model",
        prompt="a red circle moving right on a checkered background",
        changes={"LatentUpscaleBy.scale_by": 1.0},  # the tiny family knows one size
    ),
    Render(
        name="free-init",
        workflow="free-init",
        section=MORE,
        caption="FreeInit, three rounds of rising length",
        prompt="a green triangle moving down on a striped background",
        changes={"FlipbookFreeInitSampler.coarse_to_fine": True},
    ),
)

FEW_STEPS = {  # of the tiny family, which is not distilled
    "KSampler.sampler_name": "dpmpp_2m",
    "KSampler.scheduler": "normal",
    "KSampler.cfg": 5.0,
}
THUMBNAILS = (
    Render(
        name="few-steps-animatelcm",
        workflow="few-steps-animatelcm",
        section=MORE,
        caption="few steps with AnimateLCM",
        prompt="a yellow circle moving up on a dotted background",
        changes={**FEW_STEPS, "LoraLoaderModelOnly.strength_model": 0.0},
    ),
    Render(
        name="few-steps-lightning",
        workflow="few-steps-lightning",
        section=MORE,
        caption="few steps with AnimateDiff-Lightning",
        prompt="a magenta square moving left on a striped background",
        changes=FEW_STEPS,
    ),
    Render(
        name="closed-loop",
        workflow="closed-loop",
        section=LONG,
        caption="32 frames that close to a loop",
        prompt="a green circle moving right on a striped background",
    ),
    Render(
        name="motion-values",
        workflow="motion-values",
        section=MORE,
        caption="a pan that sets in half-way, while the motion grows",
        prompt="a magenta circle still on a checkered background",
        files={"animatediff_motion_lora": "*pan_left*"},
    ),
)
"""For the thumbnails alone: too much alike what the gallery shows already."""


def load_workflow(stem: str) -> dict:
    """The API form of a published workflow. Raises FileNotFoundError."""
    path = API_WORKFLOWS / f"{stem}.json"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in API_WORKFLOWS.glob("*.json"))) or "none"
        raise FileNotFoundError(f"there is no workflow {stem} in {API_WORKFLOWS}; present: {known}")
    return json.loads(path.read_text(encoding="utf-8"))


def changed(prompt: dict, changes: Mapping[str, object]) -> dict:
    """A copy with values exchanged: `NodeClass.input` -> value for every node of the class, `#7.input` for
    node 7.

    Raises ValueError if a class is absent, or if the input is absent or fed by another node: a change that
    reaches nothing would silently render something else.
    """
    result = copy.deepcopy(prompt)
    for target, value in changes.items():
        kind, _, name = target.partition(".")
        if kind.startswith("#"):
            nodes = [node for key, node in result.items() if key == kind[1:]]
        else:
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


def with_text(prompt: dict, text: str, side: str = "positive") -> dict:
    """A copy whose CLIPTextEncode nodes upstream of the `positive` (or `negative`) inputs say `text`.

    Raises ValueError if there is none.
    """
    result = copy.deepcopy(prompt)
    sources = [node["inputs"].get(side) for node in result.values()]
    queue = [source[0] for source in sources if isinstance(source, list)]
    found = False
    while queue:
        node = result[queue.pop()]
        if node["class_type"] == "CLIPTextEncode":
            node["inputs"]["text"] = text
            found = True
        else:
            queue += [value[0] for value in node["inputs"].values() if isinstance(value, list)]
    if not found:
        raise ValueError(f"no text leads to a {side} input in this workflow")
    return result


def with_seed(prompt: dict, seed: int) -> dict:
    """A copy in which every input `seed` has this value. Raises ValueError if there is none."""
    result = copy.deepcopy(prompt)
    nodes = [node for node in result.values() if isinstance(node["inputs"].get("seed"), int)]
    if not nodes:
        raise ValueError("no node of this workflow has a seed")
    for node in nodes:
        node["inputs"]["seed"] = seed
    return result


def chosen_files(
    prompt: dict, models: Mapping[str, Sequence[Path]], patterns: Mapping[str, str]
) -> dict[str, str]:
    """`NodeClass.input` -> file name, for every node of the workflow that takes a file of ours.

    models: folder -> files in it. patterns: folder -> pattern of the name wanted there.
    Raises LookupError if a folder holds no such file.
    """
    kinds = {node["class_type"] for node in prompt.values()}
    chosen = {}
    for target, folder in FILES.items():
        if target.partition(".")[0] in kinds:
            pattern = patterns.get(folder, "*")
            names = [path.name for path in models.get(folder, ()) if fnmatch(path.name, pattern)]
            if not names:
                raise LookupError(f"there is no file {pattern} for {folder}")
            chosen[target] = names[0]
    return chosen


def prompt_of(render: Render, models: Mapping[str, Sequence[Path]]) -> dict:
    """The API prompt of a render. Raises LookupError if a model file for it is missing."""
    prompt = load_workflow(render.workflow)
    kinds = {node["class_type"] for node in prompt.values()}
    changes = {
        **chosen_files(prompt, models, render.files),
        **{f"{kind}.steps": STEPS for kind in SAMPLING_NODES if kind in kinds},
        "EmptyLatentImage.width": SIZE,
        "EmptyLatentImage.height": SIZE,
        **render.changes,
    }
    prompt = with_seed(changed(prompt, changes), render.seed)
    return prompt if render.prompt is None else with_text(prompt, render.prompt)
