"""Load Motion Module and Load MotionLoRA."""

from __future__ import annotations

import comfy.model_management
import comfy.ops
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ...motion_core.files.checkpoint import (
    MotionFile,
    load_with_parts,
    open_motion_module,
    working_dtype,
)
from ...motion_core.files.lora import read_lora
from ...motion_core.files.recognise import KINDS
from ...motion_core.module.config import GROUPNORM_MODES
from ...motion_core.module.values import times
from .. import paths
from ..checks import check_inputs
from ..compat import logger, make_schema, new_patcher, show_on_node
from ..types import CATEGORY, ChosenLora, LoadedMotionModule, MotionLora, MotionModule
from .motion_value import as_value, value_input

SMALL_BYTES = 256 * 2**20
"""Up to this size, memory is no reason to hold a motion module in 16 bit."""


class LoadMotionModule(io.ComfyNode):
    """Reads a motion module of any layout."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlipbookLoadMotionModule",
            display_name="Load Motion Module",
            category=CATEGORY,
            description=(
                "Loads an AnimateDiff motion module (v1, v2, v3, SDXL beta, HotshotXL, AnimateLCM, "
                "diffusers' MotionAdapter, or one of your own) from models/animatediff_models."
            ),
            search_aliases=[
                "AnimateDiff",
                "animate",
                "AnimateDiff Loader",
                "Load AnimateDiff Model",
                "Load AnimateLCM-I2V Model",
                "AnimateDiff Module Loader",
                "motion model",
                "ADE",
                "mm_sd_v15",
                "v3_sd15_mm",
            ],
            inputs=[
                io.Combo.Input(
                    "motion_module",
                    options=paths.choices(paths.MOTION_MODULES),
                    tooltip="The file. It must be made for the family of your checkpoint (SD1.5 or SDXL).",
                ),
                io.Combo.Input(
                    "groupnorm",
                    options=["auto", *GROUPNORM_MODES],
                    default="auto",
                    optional=True,
                    tooltip=(
                        "How the UNet's GroupNorms count frames: together (joint, as v1 was trained) or "
                        "each by itself (per_frame, v2 and v3). auto knows the released files and reads the "
                        "metadata of ours; change it only for a file that says neither."
                    ),
                ),
            ],
            outputs=[MotionModule.Output(display_name="motion_module", tooltip="For Apply Motion Module.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, motion_module: str | None = None) -> bool | str:
        return paths.check(paths.MOTION_MODULES, motion_module)

    @classmethod
    def fingerprint_inputs(cls, motion_module: str, groupnorm: str = "auto") -> str:
        return f"{paths.fingerprint(paths.MOTION_MODULES, motion_module)}:{groupnorm}"

    @classmethod
    def execute(cls, motion_module: str, groupnorm: str = "auto") -> io.NodeOutput:
        check_inputs(cls, locals())
        path = paths.full_path(paths.MOTION_MODULES, motion_module)
        file = open_motion_module(path, unet_groupnorm=None if groupnorm == "auto" else groupnorm)
        module = loaded_module(file, motion_module)
        show_on_node(cls, "\n".join([file.config.describe(), *file.notes]))
        return io.NodeOutput(module)


class LoadMotionLora(io.ComfyNode):
    """Reads a MotionLoRA and puts it behind those already loaded."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlipbookLoadMotionLora",
            display_name="Load MotionLoRA",
            category=CATEGORY,
            description=(
                "Loads a MotionLoRA (one camera motion: zoom, pan, tilt, roll) from "
                "models/animatediff_motion_lora. Several can be combined by chaining."
            ),
            search_aliases=[
                "Load AnimateDiff LoRA",
                "AnimateDiff LoRA Loader",
                "camera motion",
                "ADE",
                "v2_lora",
            ],
            inputs=[
                io.Combo.Input(
                    "motion_lora",
                    options=paths.choices(paths.MOTION_LORAS),
                    tooltip="The file. Released MotionLoRAs were trained on the v2 motion module.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Strength of the motion. Negative values reverse it; 0 leaves it out.",
                ),
                MotionLora.Input("previous", optional=True, tooltip="A MotionLoRA to combine with this one."),
                value_input(
                    "strength_values",
                    "A strength for each frame or place, times `strength`: Float Schedule or Motion Value.",
                ),
            ],
            outputs=[MotionLora.Output(display_name="motion_loras", tooltip="For Apply Motion Module.")],
        )

    @classmethod
    def validate_inputs(cls, motion_lora: str | None = None) -> bool | str:
        return paths.check(paths.MOTION_LORAS, motion_lora)

    @classmethod
    def fingerprint_inputs(
        cls,
        motion_lora: str,
        strength: float = 1.0,
        previous: object = None,
        strength_values: object = None,
    ) -> str:
        return f"{paths.fingerprint(paths.MOTION_LORAS, motion_lora)}:{strength}"

    @classmethod
    def execute(
        cls,
        motion_lora: str,
        strength: float = 1.0,
        previous: tuple[ChosenLora, ...] | None = None,
        strength_values: object = None,
    ) -> io.NodeOutput:
        check_inputs(cls, locals())
        lora = read_lora(paths.full_path(paths.MOTION_LORAS, motion_lora))
        if lora.kind != "motion_lora":
            raise ValueError(f"{motion_lora} is not a MotionLoRA. It is {KINDS[lora.kind]}.")
        values = as_value("strength_values", strength_values, -10.0, 10.0)
        return io.NodeOutput((*chosen_loras(previous), ChosenLora(lora, times(strength, values))))


def chosen_loras(value: object) -> tuple[ChosenLora, ...]:
    """What arrived at a MOTION_LORA input.

    Raises:
        ValueError: another pack's object of the same type name.
    """
    if value is None:
        return ()
    if not isinstance(value, tuple) or not all(
        hasattr(one, "lora") and hasattr(one, "strength") for one in value
    ):
        raise ValueError(
            f"The motion_lora input got a {type(value).__name__} of another pack. Connect Load MotionLoRA "
            "(FlipbookLoadMotionLora)."
        )
    return value


def loaded_module(file: MotionFile, name: str) -> LoadedMotionModule:
    """A motion module in memory, with what was found odd about its file in the log.

    Args:
        file: looked at.
        name: of the file, for messages.
    """
    patcher = _load(file)
    logger.info("%s: %s", name, file.config.describe())
    for note in file.notes:
        logger.warning("%s: %s", name, note)
    return LoadedMotionModule(name, file.config, patcher, lambda: _load(file), file.source.metadata)


def _load(file: MotionFile, disable_dynamic: bool = False) -> ModelPatcher:
    """Weights into memory, in a type that suits the file, the device and the memory.

    ``disable_dynamic``: ComfyUI's word for a patcher that moves whole layers.
    """
    bar = comfy.utils.ProgressBar(file.num_values)
    # Layers cast to the type of their input, so any module runs on any base: fp16, bf16, fp32 or fp8.
    kinds = {"operations": comfy.ops.manual_cast, "dtype": weight_dtype(file.dtype, file.num_values)}
    model = load_with_parts(file, **kinds, progress=lambda done: bar.update_absolute(done))
    return new_patcher(model, _load, file, plain=disable_dynamic)


def weight_dtype(stored: torch.dtype, num_values: int) -> torch.dtype:
    """The type in which a motion module is held.

    As ComfyUI would hold a UNet of that size; but a large 16-bit file is never blown up to twice its size. A
    small one may be: where ComfyUI computes in fp32, a MotionLoRA is then merged without rounding.
    """
    wanted = comfy.model_management.unet_dtype(model_params=num_values, weight_dtype=stored)
    if wanted not in (torch.float16, torch.bfloat16, torch.float32):
        wanted = working_dtype(stored)
    if wanted.itemsize <= max(stored.itemsize, 2) or num_values * wanted.itemsize <= SMALL_BYTES:
        return wanted
    return stored if stored.itemsize == 2 else torch.float16
