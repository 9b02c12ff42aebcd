"""The nodes of ComfyUI, and one of VideoHelperSuite, that conversions put in.

ComfyUI's schemas are not at hand here; a test compares this table with the server's.
"""

from __future__ import annotations

from .target import SAMPLER_HEAD, SEED_HIGH, Target, boolean, combo, decimal, integer, socket, string

_SIZE = integer("width", 512, 16, 16384), integer("height", 512, 16, 16384)
_PERCENT = decimal("start_percent", 0.0, 0.0, 1.0), decimal("end_percent", 1.0, 0.0, 1.0)

CORE: dict[str, Target] = {
    "PrimitiveFloat": Target((decimal("value", 0.0, -1e9, 1e9),), (("FLOAT", "FLOAT"),)),
    "ModelSamplingDiscrete": Target(
        (
            socket("model", "MODEL"),
            combo("sampling", "eps", ("eps", "v_prediction", "lcm", "x0", "img_to_img")),
            boolean("zsnr", False),
        ),
        (("MODEL", "MODEL"),),
    ),
    "CheckpointLoaderSimple": Target(
        (combo("ckpt_name", ""),), (("MODEL", "MODEL"), ("CLIP", "CLIP"), ("VAE", "VAE"))
    ),
    "EmptyLatentImage": Target((*_SIZE, integer("batch_size", 1, 1, 4096)), (("LATENT", "LATENT"),)),
    "RepeatLatentBatch": Target(
        (socket("samples", "LATENT"), integer("amount", 1, 1, 64)), (("LATENT", "LATENT"),)
    ),
    "KSampler": Target((*SAMPLER_HEAD, decimal("denoise", 1.0, 0.0, 1.0)), (("LATENT", "LATENT"),)),
    "KSamplerAdvanced": Target(
        (
            socket("model", "MODEL"),
            combo("add_noise", "enable", ("enable", "disable")),
            integer("noise_seed", 0, 0, SEED_HIGH, seed=True),
            *SAMPLER_HEAD[2:],
            integer("start_at_step", 0, 0, 10000),
            integer("end_at_step", 10000, 0, 10000),
            combo("return_with_leftover_noise", "disable", ("disable", "enable")),
        ),
        (("LATENT", "LATENT"),),
    ),
    "DisableNoise": Target((), (("NOISE", "NOISE"),)),
    "SaveAnimatedWEBP": Target(
        (
            socket("images", "IMAGE"),
            string("filename_prefix", "ComfyUI"),
            decimal("fps", 6.0, 0.01, 1000.0),
            boolean("lossless", True),
            integer("quality", 80, 0, 100),
            combo("method", "default", ("default", "fastest", "slowest")),
        ),
        (),
    ),
    "VHS_VideoCombine": Target(
        (
            socket("images", "IMAGE"),
            socket("audio", "AUDIO"),
            socket("meta_batch", "VHS_BatchManager"),
            socket("vae", "VAE"),
            decimal("frame_rate", 8.0, 1.0, 1000.0),
            integer("loop_count", 0, 0, 100),
            string("filename_prefix", "AnimateDiff"),
            combo("format", "image/gif"),
            boolean("pingpong", False),
            boolean("save_output", True),
        ),
        (("Filenames", "VHS_FILENAMES"),),
    ),
    "ControlNetLoader": Target((combo("control_net_name", ""),), (("CONTROL_NET", "CONTROL_NET"),)),
    "DiffControlNetLoader": Target(
        (socket("model", "MODEL"), combo("control_net_name", "")), (("CONTROL_NET", "CONTROL_NET"),)
    ),
    "ControlNetApply": Target(
        (
            socket("conditioning", "CONDITIONING"),
            socket("control_net", "CONTROL_NET"),
            socket("image", "IMAGE"),
            decimal("strength", 1.0, 0.0, 10.0),
        ),
        (("CONDITIONING", "CONDITIONING"),),
    ),
    "ControlNetApplyAdvanced": Target(
        (
            socket("positive", "CONDITIONING"),
            socket("negative", "CONDITIONING"),
            socket("control_net", "CONTROL_NET"),
            socket("image", "IMAGE"),
            decimal("strength", 1.0, 0.0, 10.0),
            *_PERCENT,
            socket("vae", "VAE"),
        ),
        (("positive", "CONDITIONING"), ("negative", "CONDITIONING")),
    ),
}
