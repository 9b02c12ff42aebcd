"""The nodes that conversions put in, with sockets, widgets and their bounds: ours, and ComfyUI's.

Our schemas are not at hand here; a test compares this table with them.
"""

from __future__ import annotations

from .core_targets import CORE
from .target import SAMPLER_HEAD, SEED_HIGH, Input, Target, boolean, combo, decimal, integer, socket, string

PER_FRAME = "FLOATS,MASK,MOTION_VALUE,FLOAT"
SCHEDULES = ("standard_static", "standard_uniform", "looped_uniform", "batched")
FUSE_METHODS = (
    "pyramid",
    "flat",
    "relative",
    "overlap-linear",
    "delayed reverse sawtooth",
    "pyramid-sigma",
    "pyramid-sigma inverse",
    "gauss-sigma",
    "gauss-sigma inverse",
    "random",
)
NOISE_KINDS = ("independent", "constant", "mixed", "repeated", "freenoise")
BETAS = (
    "auto",
    "sqrt_linear",
    "linear",
    "linear_sdxl",
    "keep",
    "avg(sqrt_linear,linear)",
    "lcm",
    "lcm[100_ots]",
    "lcm >> sqrt_linear",
    "lcm avg(sqrt_linear,linear)",
    "sqrt",
    "cosine",
    "squaredcos_cap_v2",
)
MODEL = (("model", "MODEL"),)
CONTROL = (("motion_control", "MOTION_CONTROL"),)
PIA_SETTINGS = tuple(
    f"{kind} {size}"
    for kind, sizes in (
        ("animation", "small medium large"),
        ("loop", "small medium large"),
        ("style", "large medium small"),
    )
    for size in sizes.split()
)
CAMERA_MOTIONS = ("static", "pan up", "pan down", "pan left", "pan right", "zoom in", "zoom out")
CAMERA_MOTIONS += ("roll clockwise", "roll anticlockwise", "tilt down", "tilt up", "tilt left", "tilt right")

_WINDOWS = (
    integer("length", 16, 1, 128),
    integer("overlap", 4, 0, 127),
    integer("stride", 1, 1, 8),
    combo("schedule", SCHEDULES[0], SCHEDULES),
    combo("fuse", FUSE_METHODS[0], FUSE_METHODS),
    boolean("closed_loop", False),
)
_TOGETHER = integer("windows_per_batch", 0, 0, 64)
_NOISE_SHAPE = (
    decimal("shared", 0.5, 0.0, 1.0),
    integer("length", 16, 1, 128),
    integer("overlap", 4, 0, 127),
)

TARGETS: dict[str, Target] = {
    "FlipbookLoadMotionModule": Target(
        (combo("motion_module", ""), combo("groupnorm", "auto", ("auto", "per_frame", "joint"))),
        (("motion_module", "MOTION_MODULE"),),
    ),
    "FlipbookLoadMotionLora": Target(
        (
            combo("motion_lora", ""),
            decimal("strength", 1.0, -10.0, 10.0),
            socket("previous", "MOTION_LORA"),
            socket("strength_values", PER_FRAME),
        ),
        (("motion_loras", "MOTION_LORA"),),
    ),
    "FlipbookApplyMotionModule": Target(
        (
            socket("model", "MODEL"),
            socket("motion_module", "MOTION_MODULE"),
            decimal("scale", 1.0, 0.0, 10.0),
            decimal("effect", 1.0, 0.0, 10.0),
            decimal("start_percent", 0.0, 0.0, 1.0),
            decimal("end_percent", 1.0, 0.0, 1.0),
            combo("beta_schedule", "auto", BETAS),
            socket("motion_lora", "MOTION_LORA"),
            socket("scale_values", PER_FRAME),
            socket("effect_values", PER_FRAME),
            socket("motion_settings", "MOTION_SETTINGS"),
            socket("motion_keyframes", "MOTION_KEYFRAMES"),
            socket("motion_control", "MOTION_CONTROL"),
        ),
        MODEL,
    ),
    "FlipbookMotionValue": Target(
        (
            decimal("value", 1.0, -10.0, 10.0),
            decimal("lowest", 0.0, -10.0, 10.0),
            combo("scaling", "absolute", ("absolute", "relative")),
            socket("values", "FLOATS,FLOAT"),
            socket("mask", "MASK"),
        ),
        (("motion_value", "MOTION_VALUE"),),
    ),
    "FlipbookMotionSettings": Target(
        (
            integer("stretch_rows", 0, 0, 1024),
            integer("stretch_by", 0, 0, 1024),
            integer("first_position", 0, 0, 1024),
            decimal("positions", 1.0, 0.0, 2.0),
            decimal("all_weights", 1.0, 0.0, 2.0),
            decimal("q", 1.0, 0.0, 2.0),
            decimal("k", 1.0, 0.0, 2.0),
            decimal("v", 1.0, 0.0, 2.0),
            decimal("out", 1.0, 0.0, 2.0),
            decimal("feed_forward", 1.0, 0.0, 2.0),
            string("blocks"),
            socket("previous", "MOTION_SETTINGS"),
        ),
        (("motion_settings", "MOTION_SETTINGS"),),
    ),
    "FlipbookMotionKeyframe": Target(
        (
            decimal("start_percent", 0.0, 0.0, 1.0),
            integer("guarantee_steps", 1, 0, 1000),
            boolean("inherit_missing", True),
            socket("scale", PER_FRAME),
            socket("effect", PER_FRAME),
            socket("lora_strength", PER_FRAME),
            socket("motion_settings", "MOTION_SETTINGS"),
            socket("previous", "MOTION_KEYFRAMES"),
        ),
        (("motion_keyframes", "MOTION_KEYFRAMES"),),
    ),
    "FlipbookContextWindows": Target(
        (
            socket("model", "MODEL"),
            *_WINDOWS,
            decimal("start_percent", 0.0, 0.0, 1.0),
            _TOGETHER,
            integer("view_length", 0, 0, 128),
            integer("view_overlap", 4, 0, 127),
            combo("view_schedule", SCHEDULES[0], SCHEDULES[:3]),
            combo("view_fuse", FUSE_METHODS[0], FUSE_METHODS),
            string("latent_retain_index_list"),
            boolean("split_conds_to_windows", False),
        ),
        MODEL,
    ),
    "FlipbookContextSampler": Target(
        (
            *SAMPLER_HEAD,
            decimal("denoise", 1.0, 0.0, 1.0),
            *_WINDOWS,
            _TOGETHER,
            socket("noise", "NOISE"),
        ),
        (("latent", "LATENT"),),
    ),
    "FlipbookFrameNoise": Target(
        (
            combo("kind", "freenoise", NOISE_KINDS),
            integer("seed", 0, 0, SEED_HIGH, seed=True),
            *_NOISE_SHAPE,
            string("frame_seeds"),
            socket("latent", "LATENT"),
        ),
        (("noise", "NOISE"), ("noise_latent", "LATENT")),
    ),
    "FlipbookModelNoise": Target(
        (
            socket("model", "MODEL"),
            combo("kind", "freenoise", NOISE_KINDS),
            combo("seeding", "clip", ("clip", "frame")),
            *_NOISE_SHAPE,
            integer("seed_offset", 0, -0xFFFFFFFF, 0xFFFFFFFF),
            integer("frame_offset", 0, 0, 4096),
        ),
        MODEL,
    ),
    "FlipbookModelFreeInit": Target(
        (
            socket("model", "MODEL"),
            integer("iterations", 3, 1, 10),
            combo("filter", "gaussian", ("gaussian", "butterworth", "ideal", "box")),
            decimal("spatial_cutoff", 0.25, 0.01, 2.0),
            decimal("temporal_cutoff", 0.25, 0.01, 2.0),
            integer("order", 4, 1, 20),
            boolean("from_pictures", False),
            combo("variant", "freeinit", ("freeinit", "dinkinit")),
        ),
        MODEL,
    ),
    "FlipbookPromptSchedule": Target(
        (
            socket("clip", "CLIP"),
            string("prompts"),
            integer("frames", 16, 0, 10000),
            socket("latent", "LATENT"),
            combo("interpolation", "linear", ("linear", "spherical")),
            string("prepend"),
            string("append"),
        ),
        (("conditioning", "CONDITIONING"),),
    ),
    "FlipbookPiaReference": Target(
        (
            socket("image", "IMAGE"),
            socket("vae", "VAE"),
            combo("setting", PIA_SETTINGS[0], PIA_SETTINGS),
            integer("reference_frame", 0, -4096, 4095),
            socket("values", "FLOAT,FLOATS"),
            socket("mask", "MASK"),
            socket("previous", "MOTION_CONTROL"),
        ),
        CONTROL,
    ),
    "FlipbookImageReference": Target(
        (
            socket("image", "IMAGE"),
            socket("vae", "VAE"),
            decimal("motion_scale", 0.8, 0.0, 10.0),
            socket("previous", "MOTION_CONTROL"),
        ),
        CONTROL,
    ),
    "FlipbookLoadCameraControl": Target(
        (combo("camera_control", ""),), (("camera_control", "CAMERA_CONTROL"),)
    ),
    "FlipbookCameraPoses": Target(
        (
            combo("motion", "zoom in", CAMERA_MOTIONS),
            decimal("strength", 1.0, -10.0, 10.0),
            combo("second_motion", "static", CAMERA_MOTIONS),
            decimal("second_strength", 1.0, -10.0, 10.0),
            decimal("speed", 1.0, 0.0, 100.0),
            integer("frames", 16, 1, 4096),
            socket("previous", "CAMERA_POSES"),
        ),
        (("poses", "CAMERA_POSES"),),
    ),
    "FlipbookCameraControl": Target(
        (
            socket("camera_control", "CAMERA_CONTROL"),
            socket("poses", "CAMERA_POSES"),
            decimal("strength", 1.0, 0.0, 10.0),
            socket("previous", "MOTION_CONTROL"),
            socket("strength_values", PER_FRAME),
        ),
        CONTROL,
    ),
    **CORE,
}

__all__ = ["FUSE_METHODS", "TARGETS", "Input", "Target"]
