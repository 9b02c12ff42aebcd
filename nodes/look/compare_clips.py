"""Compare Clips: two clips side by side, and their difference."""

from __future__ import annotations

import comfy.utils
import torch
from comfy_api.latest import io

from ..checks import check_inputs
from ..compat import make_schema, show_on_node
from ..types import CATEGORY

VIEWS = {
    "both and difference": ("first", "second", "difference"),
    "both": ("first", "second"),
    "difference": ("difference",),
}


class CompareClips(io.ComfyNode):
    """Lays two clips beside each other."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlipbookCompareClips",
            display_name="Compare Clips",
            category=f"{CATEGORY}/look",
            description=(
                "Lays two clips beside each other, with their difference. A second clip of another size is "
                "fitted to the first; of two lengths the shorter counts, or its last frame stays."
            ),
            search_aliases=["side by side", "difference", "ab test"],
            inputs=[
                io.Image.Input("images", tooltip="The first clip, on the left."),
                io.Image.Input("other_images", tooltip="The second clip."),
                io.Combo.Input(
                    "view", options=list(VIEWS), default="both and difference", tooltip="What is drawn."
                ),
                io.Float.Input(
                    "gain",
                    default=4.0,
                    min=1.0,
                    max=50.0,
                    step=0.5,
                    tooltip="Factor on the difference, so that small ones are seen. `error` is without it.",
                ),
                io.Combo.Input(
                    "length",
                    options=["shorter", "longer"],
                    default="shorter",
                    tooltip="Of two lengths. longer: the last frame of the shorter clip stays.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The comparison, as a clip."),
                io.Float.Output(
                    display_name="error", tooltip="Mean absolute difference, percent of the brightness range."
                ),
                io.String.Output(display_name="report", tooltip="What was compared, and what was fitted."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        images: torch.Tensor,
        other_images: torch.Tensor,
        view: str = "both and difference",
        gain: float = 4.0,
        length: str = "shorter",
    ) -> io.NodeOutput:
        check_inputs(cls, locals())
        if view not in VIEWS or length not in ("shorter", "longer"):
            raise ValueError(f"view is one of {', '.join(VIEWS)}, and length is shorter or longer.")
        first, second = images[..., :3].float(), other_images[..., :3].to(images.device).float()
        lines = []
        if first.shape[1:3] != second.shape[1:3]:
            (h, w), (old_h, old_w) = first.shape[1:3], second.shape[1:3]
            resized = comfy.utils.common_upscale(second.movedim(-1, 1), w, h, "bilinear", "disabled")
            second = resized.movedim(1, -1)
            lines.append(f"The second clip is {old_w} x {old_h}: it was stretched to {w} x {h}")
        lengths = (len(first), len(second))
        if lengths[0] != lengths[1]:
            frames = min(lengths) if length == "shorter" else max(lengths)
            first, second = _frames(first, frames), _frames(second, frames)
            how = "the rest was left out" if length == "shorter" else "the last frame of the shorter stays"
            lines.append(f"The clips have {lengths[0]} and {lengths[1]} frames: {how}")
        difference = (first - second).abs()
        error = 100 * float(difference.mean())
        parts = {"first": first, "second": second, "difference": (gain * difference).clamp(0.0, 1.0)}
        drawn = torch.cat([parts[name] for name in VIEWS[view]], dim=2)
        report = "\n".join([f"{len(first)} frames differ by {error:.2f} % on average", *lines])
        show_on_node(cls, report)
        return io.NodeOutput(drawn, error, report)


def _frames(clip: torch.Tensor, frames: int) -> torch.Tensor:
    """The first frames; the last one again where there are fewer."""
    rest = frames - len(clip)
    return clip[:frames] if rest <= 0 else torch.cat([clip, clip[-1:].expand(rest, -1, -1, -1)])
