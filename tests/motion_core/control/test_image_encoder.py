"""AnimateLCM: the original's numbers, of the motion module at 5 and 40 frames and of the image encoder."""

import pytest
import torch
from animatediff_flipbook.motion_core.control.image_encoder import (
    ImageEncoder,
    encoder_for,
    features_by_module,
)
from animatediff_flipbook.motion_core.files.checkpoint import load_motion_module, open_motion_module
from animatediff_flipbook.motion_core.module.call import MotionCall
from animatediff_flipbook.tests.support import fold, relative_error, unfold
from animatediff_flipbook.tests.support_families import (
    FP32,
    base_unet,
    golden_file,
    meta,
    run_videos,
    tensors,
)

META = meta("animatelcm")


def reference_of(case, io):
    reference = io[case["reference"]]
    return fold(reference) if reference.ndim == 5 else reference


@pytest.mark.parametrize("case", ["default", "per_frame"])
def test_features(case):
    io, settings = tensors("animatelcm/features.safetensors"), META["i2v"][case]
    encoder = encoder_for(tensors("animatelcm/image_encoder.safetensors"))
    with torch.inference_mode():
        features = encoder(reference_of(settings, io), META["frames"], settings["motion_scale"])
    for level, feature in enumerate(features):
        assert relative_error(unfold(feature, 1), io[f"{case}.feature.{level}"]) <= FP32


@pytest.mark.parametrize("case", META["i2v"])
def test_image_to_video(case):
    file = golden_file("animatelcm/i2v_motion_module.safetensors")
    io, settings = tensors("animatelcm/i2v_io.safetensors"), META["i2v"][case]
    motion = load_motion_module(file, dtype=torch.float32)
    with torch.inference_mode():
        features = encoder_for(tensors("animatelcm/i2v_motion_module.safetensors"))(
            reference_of(settings, io), META["frames"], settings["motion_scale"]
        )
    features = features_by_module(features, motion.config.widths, settings["insertion_weights"])
    call = MotionCall(META["frames"], features=features)
    y = run_videos(base_unet("animatelcm"), io, [(motion, call)])
    assert relative_error(y, io[f"{case}.y"]) <= FP32


@pytest.mark.parametrize(("x", "output"), [("x", "y_motion"), ("x_long", "y_motion_long")])
def test_text_to_video(x, output):
    file = open_motion_module(golden_file("animatelcm/motion_module.safetensors"))
    assert file.config.generation == "animatelcm"
    assert file.config.pe_length == META["pe_rows"]
    io = tensors("animatelcm/io.safetensors")
    io["x"] = io[x]
    motion = load_motion_module(file, dtype=torch.float32)
    y = run_videos(base_unet("animatelcm"), io, [(motion, MotionCall(io["x"].shape[2]))])
    assert relative_error(y, io[output]) <= FP32


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 9), (5, 6)])
def test_odd_sizes_are_rounded_up_as_the_unet_does(height, width):
    features = ImageEncoder((8, 16, 16))(torch.randn(1, 4, height, width), 3)
    sizes = [tuple(feature.shape[2:]) for feature in features]
    half = (-(-height // 2), -(-width // 2))
    assert sizes == [(height, width), half, (-(-half[0] // 2), -(-half[1] // 2))]


def test_wrong_numbers_of_references_and_broken_files_are_refused():
    with pytest.raises(ValueError, match="2 reference pictures for 3 frames"):
        ImageEncoder((8,))(torch.randn(2, 4, 8, 8), 3)
    state = tensors("animatelcm/image_encoder.safetensors")
    with pytest.raises(ValueError, match="image encoder"):
        encoder_for({key: value for key, value in state.items() if "block2.bias" not in key})
    with pytest.raises(ValueError, match="incomplete"):
        encoder_for({})
