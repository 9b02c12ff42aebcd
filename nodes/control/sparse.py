"""Load SparseCtrl and SparseCtrl Frames."""

from __future__ import annotations

from comfy_api.latest import io

from ...motion_core.control.sparse_control import SPREADS, frames_from_text
from .. import paths
from ..checks import check_inputs
from ..compat import logger, make_schema, show_on_node
from ..types import CATEGORY
from .sparse_control import DEFAULT_PLACEMENT, SparseControl, load_sparse_control
from .sparse_network import open_sparse_network

FOLDERS = (paths.CONTROLNETS, paths.MOTION_MODULES)
"""Where people keep encoders, in the order of looking."""
FRAMES = "frames"
"""The placement that names frames."""


class LoadSparseControl(io.ComfyNode):
    """Reads a SparseCtrl encoder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlipbookLoadSparseControl",
            display_name="Load SparseCtrl",
            category=CATEGORY,
            description=(
                "Loads a SparseCtrl encoder (v3_sd15_sparsectrl_rgb, v3_sd15_sparsectrl_scribble) from "
                "models/controlnet: a ControlNet that is shown pictures for some frames of a clip. Connect "
                "it to Apply ControlNet with as many pictures as you have."
            ),
            search_aliases=[
                "Load SparseCtrl Model",
                "sparse control",
                "sparsectrl_rgb",
                "image to video",
                "key frames",
            ],
            inputs=[
                io.Combo.Input(
                    "sparse_control",
                    options=_choices(),
                    tooltip=(
                        "The file, in models/controlnet; files with sparse in their name are also found in "
                        "models/animatediff_models. rgb takes pictures, scribble takes drawings."
                    ),
                ),
            ],
            outputs=[
                io.ControlNet.Output(
                    display_name="control_net",
                    tooltip=(
                        "For Apply ControlNet, with the checkpoint's VAE at its vae input (rgb needs it). "
                        "The pictures are spread over the clip, the first at its first frame and the last at "
                        "its last; SparseCtrl Frames puts them elsewhere."
                    ),
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, sparse_control: str | None = None) -> bool | str:
        return paths.check(_folder(sparse_control), sparse_control)

    @classmethod
    def fingerprint_inputs(cls, sparse_control: str) -> str:
        return paths.fingerprint(_folder(sparse_control), sparse_control)

    @classmethod
    def execute(cls, sparse_control: str) -> io.NodeOutput:
        check_inputs(cls, locals())
        file = open_sparse_network(paths.full_path(_folder(sparse_control), sparse_control))
        for note in file.notes:
            logger.warning("%s: %s", sparse_control, note)
        return io.NodeOutput(load_sparse_control(sparse_control, file))


class SparseControlFrames(io.ComfyNode):
    """Says at which frames SparseCtrl's pictures stand."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlipbookSparseControlFrames",
            display_name="SparseCtrl Frames",
            category=CATEGORY,
            description=(
                "Says at which frames of the clip SparseCtrl's pictures stand. Put it between Load "
                "SparseCtrl and Apply ControlNet."
            ),
            search_aliases=["SparseCtrl Index Method", "SparseCtrl Spread Method", "key frames"],
            inputs=[
                io.ControlNet.Input("control_net", tooltip="From Load SparseCtrl."),
                io.Combo.Input(
                    "placement",
                    options=[*SPREADS, FRAMES],
                    default=DEFAULT_PLACEMENT,
                    tooltip=(
                        "even: over the whole clip, both ends included (one picture: the first frame). "
                        "start: from the first frame on, the end left free. end: up to the last frame, the "
                        "start left free. middle: both ends left free. frames: those named below."
                    ),
                ),
                io.String.Input(
                    "frames",
                    default="",
                    placeholder="0, 8, -1",
                    tooltip=(
                        "For placement frames: the frame of each picture in turn, such as 0, 8, -1. The "
                        "first frame of the clip is 0, its last is -1."
                    ),
                ),
            ],
            outputs=[
                io.ControlNet.Output(
                    display_name="control_net", tooltip="For Apply ControlNet, with the pictures."
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, control_net: object, placement: str = DEFAULT_PLACEMENT, frames: str = ""
    ) -> io.NodeOutput:
        check_inputs(cls, locals())
        if not isinstance(control_net, SparseControl):
            raise ValueError(
                f"The control_net input got a {type(control_net).__name__}, which is no SparseCtrl: a "
                "ControlNet's pictures are those of the frames, one for each. Connect Load SparseCtrl "
                "(FlipbookLoadSparseControl)."
            )
        if placement not in (*SPREADS, FRAMES):
            raise ValueError(
                f"placement is one of {', '.join((*SPREADS, FRAMES))}, got something else. Mind the linked "
                "node."
            )
        line = f"Pictures: {placement}"
        if placement == FRAMES:
            chosen = frames_from_text(frames)
            line = f"Pictures at frames {', '.join(map(str, chosen))}"
        elif frames.strip():
            line += f"; the frames named are not used with placement {placement}"
            logger.warning("SparseCtrl Frames: %s.", line)
        show_on_node(cls, line)
        return io.NodeOutput(control_net.with_placement(chosen if placement == FRAMES else placement))


def _choices() -> list[str]:
    controls, modules = (paths.choices(folder) for folder in FOLDERS)
    return [*controls, *(name for name in modules if "sparse" in name.lower() and name not in controls)]


def _folder(name: str | None) -> str:
    """Which of the folders holds a file; the first one if none does."""
    holders = [folder for folder in FOLDERS if name is not None and paths.check(folder, name) is True]
    return (*holders, FOLDERS[0])[0]
