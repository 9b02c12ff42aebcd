"""Model FreeInit: FreeInit that rides on the MODEL, for every sampler node and guider."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ...motion_core.clips.free_init import VARIANTS, LowPass
from ..checks import check_inputs
from ..compat import make_schema
from ..sampler_inputs import low_pass_inputs
from ..types import CATEGORY
from .model_start import FreeInitSettings, put_on, start_of


class ModelFreeInit(io.ComfyNode):
    """Makes every sampler repeat itself."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlipbookModelFreeInit",
            display_name="Model FreeInit",
            category=CATEGORY,
            description=(
                "FreeInit that travels with the model: every sampler that gets this model samples several "
                "times, each time from noise whose slow part comes from the clip before. Works with all "
                "samplers, noise schedules and guiders, and with latents that hold pictures."
            ),
            search_aliases=["FreeInit Iteration Options", "temporal consistency", "DinkInit", "ADE"],
            inputs=[
                io.Model.Input("model", tooltip="A model, with a motion module applied before or after."),
                *low_pass_inputs(),
                io.Boolean.Input(
                    "from_pictures",
                    default=False,
                    tooltip=(
                        "Where the latent holds pictures, keep their slow part in the first iteration too, "
                        "and not only from the second on."
                    ),
                ),
                io.Combo.Input(
                    "variant",
                    options=list(VARIANTS),
                    default=VARIANTS[0],
                    optional=True,
                    tooltip=(
                        "freeinit: as published. dinkinit: a variant that some graphs set (DinkInit_v1), "
                        "whose start is much weaker in its slow part."
                    ),
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model, sampled several times.")],
        )

    @classmethod
    def execute(
        cls,
        model: io.Model.Type,
        iterations: int = 3,
        filter: str = "gaussian",
        spatial_cutoff: float = 0.25,
        temporal_cutoff: float = 0.25,
        order: int = 4,
        from_pictures: bool = False,
        variant: str = VARIANTS[0],
    ) -> io.NodeOutput:
        check_inputs(cls, locals())
        if variant not in VARIANTS:
            raise ValueError(f"Unknown variant {variant!r}; expected one of {', '.join(VARIANTS)}.")
        low_pass = LowPass(filter, spatial_cutoff, temporal_cutoff, order)
        chosen = FreeInitSettings(iterations, low_pass, from_pictures, variant)
        return io.NodeOutput(put_on(model, replace(start_of(model), free_init=chosen)))
