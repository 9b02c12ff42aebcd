"""ArtVentureX/comfyui-animatediff: another pack, whose nodes have names of the same style."""

from __future__ import annotations

from ..old import Old, choice, number, switch, text, whole

SAMPLER = "AnimateDiffSampler"
LOAD = "AnimateDiffModuleLoader"
LORA = "AnimateDiffLoraLoader"
WINDOWS = "AnimateDiffSlidingWindowOptions"
COMBINE = "AnimateDiffCombine"

NODES: dict[str, Old] = {
    SAMPLER: Old(
        {
            "inject_method": choice("default"),
            "frame_number": whole(16),
            "seed": whole(0),
            "control_after_generate": choice("randomize"),
            "steps": whole(20),
            "cfg": number(8.0),
            "sampler_name": choice("euler"),
            "scheduler": choice("normal"),
            "denoise": number(1.0),
        },
        (
            "inject_method frame_number seed control_after_generate steps cfg sampler_name scheduler denoise",
            "inject_method frame_number seed steps cfg sampler_name scheduler denoise",
        ),
        "motion_module model positive negative latent_image sliding_window_opts",
        output="LATENT",
    ),
    LOAD: Old({"model_name": text()}, ("model_name",), "lora_stack", output="MOTION_MODULE"),
    LORA: Old(
        {"lora_name": text(), "strength": number(1.0)},
        ("lora_name strength",),
        "lora_stack",
        output="MOTION_LORA_STACK",
    ),
    WINDOWS: Old(
        {
            "context_length": whole(16),
            "context_stride": whole(1),
            "context_overlap": whole(4),
            "context_schedule": choice("uniform"),
            "closed_loop": switch(),
        },
        ("context_length context_stride context_overlap context_schedule closed_loop",),
        output="SLIDING_WINDOW_OPTS",
    ),
    COMBINE: Old(
        {
            "frame_rate": whole(8),
            "loop_count": whole(0),
            "save_image": switch(True),
            "filename_prefix": text("AnimateDiff"),
            "format": choice("image/gif"),
            "pingpong": switch(),
        },
        (
            "frame_rate loop_count save_image filename_prefix format pingpong",
            "frame_rate loop_count save_image filename_prefix",
        ),
        "images",
        output="GIF",
    ),
}
