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
        clips = {"images": images, "other_images": other_images}
        for name, clip in clips.items():
            if not len(clip):
                raise ValueError(f"{name} holds no frame. Connect a clip.")
        (height, width), (old_height, old_width) = (clip.shape[1:3] for clip in clips.values())
        lengths = (len(images), len(other_images))
        frames = min(lengths) if length == "shorter" else max(lengths)
        parts = VIEWS[view]
        # Frame by frame into the result: the parts of a long clip would be several times as large.
        drawn = torch.empty(frames, height, width * len(parts), 3, device=images.device)
        bar, differences = comfy.utils.ProgressBar(frames), 0.0
        for number in range(frames):
            first, second = (
                _picture(name, clip, min(number, len(clip) - 1), images.device)
                for name, clip in clips.items()
            )
            if first.shape != second.shape:
                wide = comfy.utils.common_upscale(
                    second.movedim(-1, 1), width, height, "bilinear", "disabled"
                )
                second = wide.movedim(1, -1)
            difference = (first - second).abs()
            differences += float(difference.mean())
            found = {"first": first, "second": second, "difference": (gain * difference).clamp(0.0, 1.0)}
            drawn[number] = torch.cat([found[name] for name in parts], dim=2)[0]
            bar.update_absolute(number + 1)
        error = 100 * differences / frames
        lines = [f"{frames} frames differ by {error:.2f} % on average"]
        if (height, width) != (old_height, old_width):
            lines.append(
                f"The second clip is {old_width} x {old_height}: it was stretched to {width} x {height}"
            )
        if lengths[0] != lengths[1]:
            how = "the rest was left out" if length == "shorter" else "the last frame of the shorter stays"
            lines.append(f"The clips have {lengths[0]} and {lengths[1]} frames: {how}")
        if any(clip.shape[-1] in (2, 4) for clip in clips.values()):
            lines.append("Alpha was not compared")
        report = "\n".join(lines)
        show_on_node(cls, report)
        return io.NodeOutput(drawn, error, report)


def _picture(name: str, clip: torch.Tensor, number: int, device: torch.device) -> torch.Tensor:
    """A frame ``(1, H, W, 3)`` without alpha; grey ones get three channels.

    Raises:
        ValueError: values that are no numbers.
    """
    frame = clip[number : number + 1].to(device).float()
    frame = frame[..., :3] if clip.shape[-1] >= 3 else frame[..., :1].expand(-1, -1, -1, 3)
    if not frame.isfinite().all():
        raise ValueError(
            f"Frame {number} of {name} holds values that are no numbers (NaN or infinite), which cannot be "
            "compared."
        )
    return frame
