"""Blend Motion Modules."""

from __future__ import annotations

from comfy_api.latest import io

from ...motion_core.weights.blend import blend, read_block_weights
from ...motion_core.weights.words import words_of_all
from ..checks import check_inputs
from ..compat import logger, make_schema, show_on_node
from ..types import CATEGORY, LoadedMotionModule, MotionModule
from .derived import derived_module, progress_bar, require_module, weights_of_module


class BlendMotionModules(io.ComfyNode):
    """Mixes the weights of two motion modules."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlipbookBlendMotionModules",
            display_name="Blend Motion Modules",
            category=f"{CATEGORY}/tools",
            description=(
                "Mixes the weights of two motion modules of one layout, everywhere alike or by block: "
                "(1 - weight) times the first plus weight times the second."
            ),
            search_aliases=["merge motion modules", "mix motion models", "animatediff merge"],
            inputs=[
                MotionModule.Input(
                    "motion_module", tooltip="The first module. GroupNorms and noise schedule are its."
                ),
                MotionModule.Input("other_module", tooltip="The second module, of the same layout."),
                io.Float.Input(
                    "weight",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the second module. 0 is the first, 1 the second.",
                ),
                io.String.Input(
                    "blocks",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip=(
                        "Shares for some blocks, a line each, such as `up_blocks.1: 0.3`. Of two lines for "
                        "one block the first counts; all others have `weight`."
                    ),
                ),
            ],
            outputs=[MotionModule.Output(display_name="motion_module", tooltip="The mixture.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        motion_module: LoadedMotionModule,
        other_module: LoadedMotionModule,
        weight: float = 0.5,
        blocks: str = "",
    ) -> io.NodeOutput:
        check_inputs(cls, locals())
        one = require_module("motion_module", motion_module)
        other = require_module("other_module", other_module)
        shares = read_block_weights(blocks or "")
        notes: list[str] = []

        def make():
            mixed, found = blend(
                weights_of_module(one), weights_of_module(other), weight, shares, progress_bar()
            )
            notes[:] = found
            return mixed

        words = f"blend: {one.name} and {other.name} at {weight:g}"
        if shares:
            words += "; " + ", ".join(f"{each.block} {each.weight:g}" for each in shares)
        result = derived_module(make, {**words_of_all(one.metadata, other.metadata), "made_from": words})
        for note in notes:
            logger.warning("%s", note)
        show_on_node(cls, "\n".join([words, *notes]))
        return io.NodeOutput(result)
