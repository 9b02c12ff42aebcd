"""Merge MotionLoRA and Extract MotionLoRA."""

from __future__ import annotations

import comfy.model_management
from comfy_api.latest import io

from ...motion_core.files.lora import LoraFile
from ...motion_core.files.words import shown
from ...motion_core.module.values import is_number
from ...motion_core.weights.low_rank_change import extract_lora, merge_lora
from ...motion_core.weights.words import licence_of_all
from ..checks import check_inputs
from ..compat import logger, make_schema, show_on_node
from ..motion.load import chosen_loras
from ..types import CATEGORY, ChosenLora, LoadedMotionModule, MotionLora, MotionModule
from .derived import derived_module, progress_bar, require_module, weights_of_module


class MergeMotionLora(io.ComfyNode):
    """Puts MotionLoRAs into the weights of a motion module."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlipbookMergeMotionLora",
            display_name="Merge MotionLoRA",
            category=f"{CATEGORY}/tools",
            description=(
                "Makes a motion module that has MotionLoRAs in its weights, at their strengths, to be saved "
                "or blended."
            ),
            search_aliases=["bake motion lora", "animatediff lora merge"],
            inputs=[
                MotionModule.Input("motion_module", tooltip="The module that the MotionLoRAs are for."),
                MotionLora.Input("motion_lora", tooltip="One or several, with their strengths."),
            ],
            outputs=[
                MotionModule.Output(display_name="motion_module", tooltip="The module with them in it.")
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, motion_module: LoadedMotionModule, motion_lora: object) -> io.NodeOutput:
        module = require_module("motion_module", motion_module)
        loras = chosen_loras(motion_lora)
        if not all(is_number(one.strength) for one in loras):
            raise ValueError(
                "A strength that changes over the frames cannot be in the weights. Take `strength_values` off"
                " Load MotionLoRA, or use it with Apply Motion Module."
            )
        lines: list[str] = []

        def make():
            weights, move = weights_of_module(module), progress_bar()
            lines.clear()
            for one in loras:
                weights, line = merge_lora(weights, one.lora, one.strength, move)
                lines.append(line)
            return weights

        names = ", ".join(f"{one.lora.name} at {one.strength:g}" for one in loras)
        licence = licence_of_all(module.metadata, *(one.lora.metadata for one in loras))
        made_from = {"made_from": f"merge: {module.name} with {names}"}
        result = derived_module(make, {**module.metadata, **licence, **made_from})
        for line in lines:
            logger.info("Merged MotionLoRA %s", line)
        show_on_node(cls, "\n".join(lines))
        return io.NodeOutput(result)


class ExtractMotionLora(io.ComfyNode):
    """The difference of two motion modules as a MotionLoRA."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlipbookExtractMotionLora",
            display_name="Extract MotionLoRA",
            category=f"{CATEGORY}/tools",
            description=(
                "Makes a MotionLoRA of the difference between two motion modules, as near as its rank allows,"
                " and says how much of the difference it misses."
            ),
            search_aliases=["lora from difference", "svd", "animatediff lora extract"],
            inputs=[
                MotionModule.Input("motion_module", tooltip="What the MotionLoRA is to be used on."),
                MotionModule.Input(
                    "tuned_module", tooltip="What it is to turn that into, of the same layout."
                ),
                io.Int.Input(
                    "rank",
                    default=32,
                    min=1,
                    max=1280,
                    tooltip="Size of the MotionLoRA. More is nearer and a larger file.",
                ),
                io.Combo.Input(
                    "layers",
                    options=["all", "attention"],
                    default="all",
                    optional=True,
                    tooltip=(
                        "all: every linear layer. attention: only q, k, v and out, as published MotionLoRAs "
                        "have; other programs may read no others."
                    ),
                ),
            ],
            outputs=[
                MotionLora.Output(display_name="motion_lora", tooltip="At strength 1."),
                io.Float.Output(
                    display_name="error",
                    tooltip="0: nothing of the layers' difference is missed, 1: all (a ratio of norms).",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        motion_module: LoadedMotionModule,
        tuned_module: LoadedMotionModule,
        rank: int = 32,
        layers: str = "all",
    ) -> io.NodeOutput:
        check_inputs(cls, locals())
        if layers not in ("all", "attention"):
            raise ValueError(f"layers is {shown(layers, 40)!r}, expected all or attention.")
        base = require_module("motion_module", motion_module)
        tuned = require_module("tuned_module", tuned_module)
        found = extract_lora(
            weights_of_module(base),
            weights_of_module(tuned),
            int(rank),
            attention_only=layers == "attention",
            device=comfy.model_management.get_torch_device(),
            progress=progress_bar(),
        )
        if not found.layers:
            raise ValueError(
                f"{base.name} and {tuned.name} do not differ in the layers that were chosen: there is no "
                "MotionLoRA to make."
            )
        rank = max(layer.rank for layer in found.layers.values())
        lines = [f"{len(found.layers)} layers at rank {rank}, {found.error:.1%} of their difference missed"]
        if found.left:
            largest = max(found.left, key=found.left.__getitem__)
            lines.append(
                f"{len(found.left)} other tensors differ and are not in it ({found.share_left:.1%} of the "
                f"squared difference), such as {largest}"
            )
        for line in lines:
            logger.info("Extracted MotionLoRA: %s", line)
        show_on_node(cls, "\n".join(lines))
        name = f"{tuned.name} - {base.name}"
        words = {
            "made_from": f"extract: {tuned.name} less {base.name}",
            "rank": str(rank),
            "error": f"{found.error:.6f}",
            **licence_of_all(base.metadata, tuned.metadata),
        }
        lora = LoraFile(name, "motion_lora", found.layers, metadata=words)
        return io.NodeOutput((ChosenLora(lora, 1.0),), found.error)
