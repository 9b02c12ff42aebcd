"""Context windows for clips longer than a motion module can hold: settings on a MODEL, and a sampler with
them."""

from __future__ import annotations

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
from comfy_api.latest import io

from ...motion_core.clips.context import FUSE_METHODS, SCHEDULES, ContextOptions
from ..checks import check_inputs
from ..compat import filled_latent, fitting_latent, logger, make_schema
from ..noise.frame_noise import NoiseSource
from ..noise.model_start import own_start
from ..sampler_inputs import noise_input, sampler_inputs
from ..types import CATEGORY
from .context_handler import put_on, settings_on
from .context_run import ContextSettings, ContextStage
from .euler import EULER_NAMES, EulerInPlace

VIEW_SCHEDULES = ("standard_static", "standard_uniform", "looped_uniform")


def context_inputs() -> list[io.Input]:
    """The widgets of the context options, the same on every node that has them."""
    return [
        io.Int.Input(
            "length",
            default=16,
            min=1,
            max=128,
            tooltip=(
                "Frames per window. 16 is what motion modules were trained on; more than the motion module's "
                "limit (24 for v1, 32 for v2 and v3) cannot run. 1 is for models without one."
            ),
        ),
        io.Int.Input(
            "overlap",
            default=4,
            min=0,
            max=127,
            tooltip=(
                "Frames that neighbouring windows share. More is steadier and slower: windows of 16 with an "
                "overlap of 4 cost a third more than the frames alone."
            ),
        ),
        io.Int.Input(
            "stride",
            default=1,
            min=1,
            max=8,
            tooltip=(
                "Uniform schedules only. From 2 on, further windows look at every 2nd, 4th, .. frame and "
                "hold distant parts of the clip together."
            ),
        ),
        io.Combo.Input(
            "schedule",
            options=list(SCHEDULES),
            default=SCHEDULES[0],
            tooltip=(
                "Where the windows lie. standard_static: the same at every step. standard_uniform: moving "
                "with the step, so that no seam stays. looped_uniform: moving, and running over the end into "
                "the beginning. batched: chunks without overlap."
            ),
        ),
        io.Combo.Input(
            "fuse",
            options=list(FUSE_METHODS),
            default=FUSE_METHODS[0],
            tooltip=(
                "What a frame counts that lies in several windows. pyramid: most in the middle of a window. "
                "flat: the same everywhere. overlap-linear: a cross-fade over the overlap. The sigma methods "
                "change with the noise."
            ),
        ),
        io.Boolean.Input(
            "closed_loop",
            default=False,
            tooltip="looped_uniform only: the last frame leads into the first, for clips that run in a loop.",
        ),
    ]


def windows_per_batch_input() -> io.Input:
    """The widget for evaluating several windows in one model call."""
    return io.Int.Input(
        "windows_per_batch",
        default=0,
        min=0,
        max=64,
        optional=True,
        tooltip=(
            "Windows evaluated together in one model call: faster on a GPU at small sizes, with more memory "
            "and the same result. 0 chooses by size and free memory."
        ),
    )


def view_inputs() -> list[io.Input]:
    """The widgets for windows inside temporal attention."""
    return [
        io.Int.Input(
            "view_length",
            default=0,
            min=0,
            max=128,
            optional=True,
            tooltip=(
                "Views: windows inside the motion module. The image model sees all frames of a window, the "
                "motion module so many at a time; a long window then needs no more positions than a view "
                "has. 0: no views."
            ),
        ),
        io.Int.Input(
            "view_overlap",
            default=4,
            min=0,
            max=127,
            optional=True,
            tooltip="Frames that neighbouring views share.",
        ),
        io.Combo.Input(
            "view_schedule",
            options=list(VIEW_SCHEDULES),
            default=VIEW_SCHEDULES[0],
            optional=True,
            tooltip="Where the views lie; as `schedule`.",
        ),
        io.Combo.Input(
            "view_fuse",
            options=list(FUSE_METHODS),
            default=FUSE_METHODS[0],
            optional=True,
            tooltip="What a frame counts that lies in several views; as `fuse`.",
        ),
    ]


def read_views(length: int, overlap: int, schedule: str, fuse: str) -> ContextOptions | None:
    """The widgets of the views; None without any.

    Raises:
        ValueError: they cannot be.
    """
    if not length:
        return None
    if length == 1:
        raise ValueError("`view_length` is 1: in one frame there is no motion. Set it to 0 for no views.")
    try:
        return ContextOptions(length, overlap, 1, schedule, fuse)
    except ValueError as error:
        raise ValueError(f"The views of Context Windows (`view_length`, `view_overlap`): {error}") from None


def core_inputs() -> list[io.Input]:
    """The widgets of ComfyUI's own Context Windows that ours has under the same names."""
    return [
        io.String.Input(
            "latent_retain_index_list",
            default="",
            optional=True,
            tooltip=(
                "Frames of the latent that stand in the same places of every window, such as 0, or 0, 1: for "
                "a start image in the clip's first frame, which all windows then see. Empty: none."
            ),
        ),
        io.Boolean.Input(
            "split_conds_to_windows",
            default=False,
            optional=True,
            tooltip=(
                "Prompts joined by Conditioning (Combine) take turns over the clip: each window is given the "
                "one where its middle lies, and not all of them. Prompt Schedule does so frame by frame."
            ),
        ),
    ]


def read_retained(text: str, length: int) -> tuple[int, ...]:
    """Places in a window, from their list.

    Raises:
        ValueError: no numbers, or none of the places that a window has.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isascii() and part.isdigit() and int(part) < length for part in parts):
        raise ValueError(
            f"latent_retain_index_list holds frames from 0 to {length - 1} (a window has {length}) with "
            f"commas between them, such as 0 or 0, 1; got {text[:40]!r}."
        )
    return tuple(sorted({int(part) for part in parts}))


def read_options(
    length: int, overlap: int, stride: int, schedule: str, fuse: str, closed_loop: bool
) -> ContextOptions:
    """Check the widgets; what has no effect is said once."""
    options = ContextOptions(length, overlap, stride, schedule, fuse, closed_loop)
    if closed_loop and schedule != "looped_uniform":
        logger.warning("closed_loop has no effect with %s; choose looped_uniform for a loop.", schedule)
    if stride > 1 and not schedule.endswith("_uniform"):
        logger.warning("stride %d has no effect with %s; choose a uniform schedule.", stride, schedule)
    return options


class ContextWindows(io.ComfyNode):
    """Puts context windows on a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlipbookContextWindows",
            display_name="Context Windows",
            category=CATEGORY,
            description=(
                "Samples clips of any length in overlapping windows of frames, with every sampler and "
                "guider. Prompts, masks and ControlNet images that hold one entry per frame follow their "
                "frames. Chain several with different start_percent to change the settings over the steps."
            ),
            search_aliases=[
                "AnimateDiff Context Options",
                "Context Options Looped Uniform",
                "Context Options Standard Static",
                "Context Options Standard Uniform",
                "Context Options Batched",
                "View Options",
                "Views Only",
                "AnimateDiff Sliding Window Options",
                "long video",
                "ADE",
            ],
            inputs=[
                io.Model.Input("model", tooltip="A model, with a motion module applied before or after."),
                *context_inputs(),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip=(
                        "Part of the noise schedule from which these settings hold. Before the first one, "
                        "the clip runs whole."
                    ),
                ),
                windows_per_batch_input(),
                *view_inputs(),
                *core_inputs(),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model, sampled window by window.")],
        )

    @classmethod
    def execute(
        cls,
        model: io.Model.Type,
        length: int = 16,
        overlap: int = 4,
        stride: int = 1,
        schedule: str = "standard_static",
        fuse: str = "pyramid",
        closed_loop: bool = False,
        start_percent: float = 0.0,
        windows_per_batch: int = 0,
        view_length: int = 0,
        view_overlap: int = 4,
        view_schedule: str = VIEW_SCHEDULES[0],
        view_fuse: str = FUSE_METHODS[0],
        latent_retain_index_list: str = "",
        split_conds_to_windows: bool = False,
    ) -> io.NodeOutput:
        check_inputs(cls, locals())
        stage = ContextStage(
            start_percent,
            read_options(length, overlap, stride, schedule, fuse, closed_loop),
            read_views(view_length, view_overlap, view_schedule, view_fuse),
            read_retained(latent_retain_index_list, length),
            split_conds_to_windows,
        )
        present = settings_on(model) or ContextSettings(())
        return io.NodeOutput(with_context(model, present.with_stage(stage, windows_per_batch)))


def with_context(model: io.Model.Type, settings: ContextSettings) -> io.Model.Type:
    """A clone of the model with these context settings."""
    if settings_on(model) is None and model.model_options.get("context_handler") is not None:
        logger.warning("AnimateDiff Flipbook replaces the context windows of another node on this model.")
    model = model.clone()
    put_on(model, settings)
    return model


class ContextSampler(io.ComfyNode):
    """KSampler with context windows."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlipbookContextSampler",
            display_name="Context Sampler",
            category=CATEGORY,
            description=(
                "KSampler and Context Windows in one box: samples a clip of any length in overlapping "
                "windows of frames. The batch size of the latent is the number of frames."
            ),
            search_aliases=[
                "AnimateDiff Sampler",
                "context-window sampler",
                "sliding window",
                "long video",
                "ADE",
            ],
            inputs=[
                *sampler_inputs(),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Part of the noise put in and taken out; below 1 the latent shows through.",
                ),
                *context_inputs(),
                windows_per_batch_input(),
                noise_input(),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="The denoised frames.")],
        )

    @classmethod
    def execute(
        cls,
        model: io.Model.Type,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        positive: io.Conditioning.Type,
        negative: io.Conditioning.Type,
        latent_image: io.Latent.Type,
        denoise: float = 1.0,
        length: int = 16,
        overlap: int = 4,
        stride: int = 1,
        schedule: str = "standard_static",
        fuse: str = "pyramid",
        closed_loop: bool = False,
        windows_per_batch: int = 0,
        noise: io.Noise.Type | None = None,
    ) -> io.NodeOutput:
        check_inputs(cls, locals())
        stage = ContextStage(0.0, read_options(length, overlap, stride, schedule, fuse, closed_loop))
        if (present := settings_on(model)) is not None:
            logger.warning(
                "Context Sampler samples with its own window settings; those of Context Windows on this "
                "model (windows of %s frames) are not used.",
                " and ".join(str(other.options.length) for other in present.stages),
            )
        model = with_context(model, ContextSettings((stage,), windows_per_batch))
        frames = fitting_latent(model, latent_image)
        model, noise = own_start(model, noise, seed)
        start = noise.generate_noise({**latent_image, "samples": frames})
        core = comfy.samplers.KSampler(
            model, steps, model.load_device, sampler_name, scheduler, denoise, model.model_options
        )
        if core.sampler in EULER_NAMES:
            sampler = EulerInPlace(core.sampler)
            # Another pack's NOISE may still need the tensor that it gave.
            start = start if isinstance(noise, NoiseSource) else start.clone()
        else:
            sampler = comfy.samplers.sampler_object(core.sampler)
        samples = comfy.sample.sample_custom(
            *(model, start, cfg, sampler, core.sigmas, positive, negative, frames),
            noise_mask=latent_image.get("noise_mask"),
            callback=latent_preview.prepare_callback(model, steps),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=noise.seed,
        )
        return io.NodeOutput(filled_latent(latent_image, samples))
