"""Inputs that the training nodes share, and the trainer's configuration from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comfy_api.latest import io

DIRECTIONS = (
    *("none", "zoom_in", "zoom_out", "pan_left", "pan_right", "pan_up", "pan_down"),
    *("roll_clockwise", "roll_anticlockwise"),
)
"""The trainer's, which is not imported for a list."""

CLOSED = (
    *("stage", "name", "output", "seed", "base.checkpoint", "base.comfyui", "base.custom_nodes"),
    *("base.device", "motion.file", "data.sources", "cache.folder", "validation.sources"),
    *("samples.prompt_file", "export.folder", "train.shard"),
)
"""Settings that the node decides: a workflow of somebody else's must not name folders or run packs."""


def base_inputs(motion_module: io.Input | None) -> list[io.Input]:
    """The base, as ComfyUI has loaded it."""
    return [
        io.Model.Input(
            "model",
            tooltip=(
                "The image model to train on. LoRAs on it take part; it is copied and stays as it is. "
                "Connect it from before Apply Motion Module."
            ),
        ),
        io.Clip.Input("clip", tooltip="Encodes the captions."),
        io.Vae.Input("vae", tooltip="Encodes the frames."),
        *([motion_module] if motion_module else []),
    ]


def clip_inputs(frames: bool) -> list[io.Input]:
    """Which clips, and what is made of them."""
    more = [
        io.Int.Input(
            "frames",
            default=16,
            min=2,
            max=128,
            tooltip="Frames per clip; at most as many as the motion module knows. 16 is usual.",
        )
    ]
    return [
        io.String.Input(
            "folder",
            default="",
            tooltip=(
                "Folder of videos and animated pictures: its name in ComfyUI's input folder, or a whole "
                "path. Captions stand in a .txt beside each file. May stay empty if clips are connected."
            ),
        ),
        io.Int.Input("width", default=256, min=64, max=2048, step=8, tooltip="Pixels that training sees."),
        io.Int.Input("height", default=256, min=64, max=2048, step=8, tooltip="Pixels that training sees."),
        *(more if frames else []),
        io.Float.Input(
            "fps",
            default=8.0,
            min=0.0,
            max=120.0,
            step=0.5,
            tooltip=(
                "Frames per second that videos are resampled to. 0 takes every frame. IMAGE batches count as "
                "being at this rate."
            ),
        ),
    ]


def camera_inputs() -> list[io.Input]:
    """A camera move made by a moving crop."""
    return [
        io.Combo.Input(
            "camera",
            options=list(DIRECTIONS),
            default="none",
            tooltip=(
                "Make this camera move out of the clips, by a moving crop, and train on that. none: train on "
                "the motion that the clips show."
            ),
        ),
        io.Float.Input(
            "camera_speed",
            default=0.25,
            min=0.01,
            max=0.99,
            step=0.01,
            tooltip="Over a clip: part of the side won, lost or passed; of a roll, quarter turns.",
        ),
    ]


def loop_inputs(
    *, name: str, steps: int, learning_rate: float, rank: int | None, batch: int = 1
) -> list[io.Input]:
    """How it is trained."""
    lora = [io.Int.Input("rank", default=rank or 1, min=1, max=512, tooltip="Rank of the LoRA's layers.")]
    return [
        io.String.Input("name", default=name, tooltip="Name of the file. A file that is there is kept."),
        io.Int.Input(
            "steps",
            default=steps,
            min=1,
            max=10_000_000,
            tooltip="Optimizer steps. Raised later, a run goes on from where it is.",
        ),
        *(lora if rank else []),
        io.Float.Input(
            "learning_rate",
            default=learning_rate,
            min=1e-8,
            max=1.0,
            step=1e-6,
            tooltip="Peak learning rate.",
        ),
        io.Int.Input("batch_size", default=batch, min=1, max=256, tooltip="Clips per step."),
        # The page would draw another seed for each run, and with it begin another training.
        io.Int.Input(
            "seed",
            default=42,
            min=0,
            max=2**32 - 1,
            control_after_generate=False,
            tooltip="Of everything random.",
        ),
        io.Int.Input(
            "save_every",
            default=100,
            min=1,
            max=1_000_000,
            tooltip="Steps between two states to go on from, and between two sample clips.",
        ),
        io.String.Input(
            "sample_prompt",
            default="",
            tooltip="Render a clip of this while training and show it in the node. Empty: none.",
        ),
    ]


def late_inputs(settings: bool = True) -> list[io.Input]:
    """Optional ones."""
    more = [
        io.String.Input(
            "settings",
            default="",
            multiline=True,
            optional=True,
            tooltip=(
                "Further settings of the trainer as TOML, such as objective.debiased = 1.0 or "
                'train.precision = "bf16". See the help page.'
            ),
        )
    ]
    return [
        io.MultiType.Input(
            "clips",
            types=[io.Video, io.Image],
            optional=True,
            tooltip="Clips in place of a folder or beside it: VIDEOs, or IMAGE batches, also lists of them.",
        ),
        io.String.Input(
            "captions",
            default="",
            multiline=True,
            optional=True,
            tooltip="One caption for all clips, a line per clip, or a list. Empty: those in the folder.",
        ),
        *(more if settings else []),
    ]


def given(inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs of a node that takes lists: single values out of them, `clips` and `captions` as lists.

    Raises:
        ValueError: several values where one is expected, or a caption that is no text.
    """
    lists = {name: inputs.get(name) for name in ("clips", "captions")}
    for name, value in inputs.items():
        if name not in lists and isinstance(value, list) and len(value) > 1:
            raise ValueError(
                f"{name} got a list of {len(value)}, expected one: only clips and captions may be lists. "
                "Mind the linked node."
            )
    single = {
        name: value[0] if isinstance(value, list) and value else value
        for name, value in inputs.items()
        if name not in lists
    }
    clips = [clip for clip in lists["clips"] or [] if clip is not None]
    captions = lists["captions"] if isinstance(lists["captions"], list) else [lists["captions"] or ""]
    for caption in captions:
        if caption is not None and not isinstance(caption, str):
            raise ValueError(f"captions got a {type(caption).__name__}, expected text. Mind the linked node.")
    return {**single, "clips": clips, "captions": [caption or "" for caption in captions] or [""]}


def data_tree(values: dict[str, Any], sources: list[dict[str, Any]]) -> dict[str, Any]:
    """The trainer's settings of clips."""
    tree: dict[str, Any] = {
        "data": {
            "sources": sources,
            "resolutions": [[values["width"], values["height"]]],
            "fps": values["fps"],
        }
    }
    if "frames" in values:
        tree["data"]["frames"] = values["frames"]
    if values.get("camera", "none") != "none":
        tree["camera"] = {"direction": values["camera"], "speed": values["camera_speed"]}
    return tree


def configuration(
    stage: str,
    values: dict[str, Any],
    sources: list[dict[str, Any]],
    place: Path,
    precision: str,
    device: str,
) -> dict[str, Any]:
    """The trainer's settings as plain data, `output` still open.

    Args:
        stage: ``motion_lora``, ``domain_adapter`` or ``motion_module``.
        values: of the node's inputs, as of :func:`given`.
        sources: of the clips.
        place: folder of all runs.
        precision: see ``train.precision``.
        device: see ``base.device``.

    Raises:
        ValueError: the text of further settings is no TOML or sets what the node decides.
    """
    from ...training.config import overlay

    prompt, every = values["sample_prompt"].strip(), values["save_every"]
    tree = data_tree(values, sources)
    # A camera moves whatever is shown; what the clips are of must be said where it is learned.
    tree["data"]["missing_captions"] = "empty" if stage == "motion_lora" else "refuse"
    tree |= {
        "stage": stage,
        "name": values["name"],
        "seed": values["seed"],
        "base": {"checkpoint": "the MODEL of a graph", "device": device},
        "optimizer": {"lr": values["learning_rate"], "warmup_steps": default_warmup(values["steps"])},
        "train": {
            "steps": values["steps"],
            "batch_size": values["batch_size"],
            "precision": precision,
            "gradient_checkpointing": device != "cpu",
        },
        "checkpoints": {"every": every, "keep": 2},
        "samples": {"every": every if prompt else 0, "prompts": [prompt] if prompt else []},
        "cache": {"folder": str(place / "cache")},
    }
    if "rank" in values:
        tree["lora"] = {"rank": values["rank"]}
    if values.get("motion_module") is not None:
        tree["motion"] = {"file": values["motion_module"].name}
    elif "generation" in values:
        tree["motion"] = {"generation": values["generation"]}
    wanted: dict[str, Any] = {}
    overlay(wanted, values.get("settings") or "")
    _refuse_closed(wanted)
    overlay(tree, values.get("settings") or "")
    return tree


def default_warmup(steps: int) -> int:
    """Steps over which the learning rate rises, unless `settings` says so."""
    return min(50, steps // 10)


def _refuse_closed(wanted: dict[str, Any]) -> None:
    """Raises:
    ValueError: names the setting.
    """
    for key in CLOSED:
        node: Any = wanted
        *parents, last = key.split(".")
        for part in parents:
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, dict) and last in node:
            raise ValueError(f"settings: {key} is the node's to decide. Remove it.")
    optimizer = wanted.get("optimizer", {})
    name = optimizer.get("name", "") if isinstance(optimizer, dict) else ""
    if "." in str(name):
        raise ValueError(
            f"settings: optimizer.name = {name!r} is an import path, which a graph may not name: it runs "
            "code. Choose a plain name such as AdamW or Prodigy."
        )
