"""Train MotionLoRA, Train Domain Adapter and Train Motion Module."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from safetensors.torch import load_file

from ...motion_core.files.checkpoint import open_motion_module
from ...motion_core.files.lora import read_lora
from .. import paths
from ..checks import check_inputs
from ..compat import make_schema
from ..motion.domain_adapter import with_domain_adapter
from ..motion.load import loaded_module
from ..types import CATEGORY, ChosenLora, MotionLora, MotionModule
from .clips import find_folder, stamp
from .runs import Trained, full_disk_in_words, train_in_graph
from .settings import base_inputs, camera_inputs, clip_inputs, given, late_inputs, loop_inputs

TRAINING = f"{CATEGORY}/training"
RESUMES = (
    " Cancelling saves within one step; the same inputs go on from there. Needs the packages of the trainer."
)
ALIASES = ["AnimateDiff training", "train", "finetune", "lora training", "motion director"]


def _outputs() -> list[io.Output]:
    """What every training gives beside its result."""
    return [
        io.String.Output(display_name="file_name", tooltip="Name of the file in its model folder."),
        io.Image.Output(display_name="loss_curve", tooltip="The loss over the steps, as a picture."),
        io.Custom("LOSS_MAP").Output(
            display_name="loss_map",
            tooltip="The loss of each step, for ComfyUI's Loss Graph (Plot Loss Graph).",
        ),
    ]


class _Training(io.ComfyNode):
    """What the three have in common."""

    @classmethod
    def fingerprint_inputs(cls, folder: Any = "", **_: Any) -> str:
        """Changes when the files in the folder do."""
        name = folder[0] if isinstance(folder, list) and folder else folder
        if not isinstance(name, str) or not name.strip():
            return ""
        try:
            return stamp(find_folder(name))
        except (ValueError, OSError):
            return ""

    @classmethod
    def _train(cls, stage: str, inputs: dict[str, Any], model_folder: str) -> tuple[dict, Trained]:
        values = given(inputs)
        check_inputs(
            cls, {name: value for name, value in values.items() if name not in ("clips", "captions")}
        )
        with full_disk_in_words():
            return values, train_in_graph(cls, stage, values, model_folder)

    @classmethod
    def _output(cls, trained: Trained, *results: Any) -> io.NodeOutput:
        loss_map = {"loss": trained.losses}
        ui = {"images": trained.shown, "animated": (False,)}
        return io.NodeOutput(*results, trained.name, trained.curve, loss_map, ui=ui)


class TrainMotionLora(_Training):
    """Stage 3: a MotionLoRA from clips."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlipbookTrainMotionLora",
            display_name="Train MotionLoRA",
            category=TRAINING,
            description=(
                "Trains a MotionLoRA on a few clips: a camera move, made by a moving crop, or the motion "
                "that they show." + RESUMES
            ),
            search_aliases=[*ALIASES, "camera motion", "video lora"],
            is_input_list=True,
            is_output_node=True,
            inputs=[
                *base_inputs(
                    MotionModule.Input(
                        "motion_module", tooltip="The motion module that the LoRA is made for."
                    )
                ),
                *clip_inputs(frames=True),
                *camera_inputs(),
                *loop_inputs(name="my_motion_lora", steps=500, learning_rate=1e-4, rank=32),
                *late_inputs(),
            ],
            outputs=[
                MotionLora.Output(display_name="motion_loras", tooltip="For Apply Motion Module."),
                *_outputs(),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        _, trained = cls._train("motion_lora", inputs, paths.MOTION_LORAS)
        return cls._output(trained, (ChosenLora(read_lora(trained.path), 1.0),))


class TrainDomainAdapter(_Training):
    """Stage 1: an adapter of the image model to the look of clips."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlipbookTrainDomainAdapter",
            display_name="Train Domain Adapter",
            category=TRAINING,
            description=(
                "Trains a domain adapter on single frames: the look of the clips (blur, compression, "
                "watermarks), so that a motion module trained on top need not learn it." + RESUMES
            ),
            search_aliases=[*ALIASES, "v3_sd15_adapter"],
            is_input_list=True,
            is_output_node=True,
            inputs=[
                *base_inputs(None),
                *clip_inputs(frames=False),
                *loop_inputs(name="my_domain_adapter", steps=1000, learning_rate=1e-4, rank=128, batch=4),
                *late_inputs(),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="The MODEL with the adapter on it, at alpha 1."
                ),
                io.Custom("LORA_MODEL").Output(
                    display_name="lora_model",
                    tooltip="The adapter for ComfyUI's Load LoRA Model and Save LoRA.",
                ),
                *_outputs(),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        values, trained = cls._train("domain_adapter", inputs, paths.LORAS)
        model, _ = with_domain_adapter(values["model"], trained.path, trained.name, 1.0)
        return cls._output(trained, model, load_file(trained.path))


class TrainMotionModule(_Training):
    """Stage 2: a motion module."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlipbookTrainMotionModule",
            display_name="Train Motion Module",
            category=TRAINING,
            description=(
                "Trains a motion module: goes on with the one connected, or starts afresh. A fresh one for "
                "SD1.5 takes many thousand captioned clips and days on a large GPU." + RESUMES
            ),
            search_aliases=[*ALIASES, "motion model"],
            is_input_list=True,
            is_output_node=True,
            inputs=[
                *base_inputs(None),
                *clip_inputs(frames=True),
                io.Combo.Input(
                    "generation",
                    options=["v1", "v2", "v3", "sdxl"],
                    default="v3",
                    tooltip=(
                        "Whose conventions a fresh module takes: noise schedule, norms, middle block, "
                        "length. Of no use with a motion_module."
                    ),
                ),
                *loop_inputs(name="my_motion_module", steps=1000, learning_rate=1e-4, rank=None),
                MotionModule.Input(
                    "motion_module", optional=True, tooltip="Start from this one. None: a fresh one."
                ),
                *late_inputs(),
            ],
            outputs=[
                MotionModule.Output(display_name="motion_module", tooltip="For Apply Motion Module."),
                *_outputs(),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        _, trained = cls._train("motion_module", inputs, paths.MOTION_MODULES)
        return cls._output(trained, loaded_module(open_motion_module(trained.path), trained.name))
