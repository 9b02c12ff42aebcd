"""CameraCtrl: the original's poses, rays, features and pictures; the presets of the field's pack."""

import json

import pytest
import torch
from animatediff_flipbook.motion_core.control.camera import (
    MOTIONS,
    Lens,
    camera_to_first,
    for_frames,
    intrinsics,
    joined,
    moving_poses,
    pluecker,
    read_poses,
)
from animatediff_flipbook.motion_core.control.camera_encoder import (
    PoseEncoder,
    cameras,
    merge_layers,
    pose_encoder_for,
)
from animatediff_flipbook.motion_core.module.call import MotionCall
from animatediff_flipbook.tests.support import relative_error
from animatediff_flipbook.tests.support_families import (
    FP32,
    base_unet,
    golden_file,
    meta,
    run_videos,
    tensors,
    v3_module,
)

META = meta("cameractrl")
WIDTH, HEIGHT = META["image_width"], META["image_height"]
PRESETS = json.loads(golden_file("cameractrl/ade_poses.json").read_text())["poses"]


def golden_poses(name):
    given = META["poses"][name]
    lens = Lens(width=given["original_pose_width"], height=given["original_pose_height"])
    return read_poses("\n".join(given["lines"]), lens)


@pytest.fixture(scope="module")
def state():
    return tensors("cameractrl/cameractrl.safetensors")


@pytest.fixture(scope="module")
def io():
    return tensors("cameractrl/io.safetensors")


@pytest.mark.parametrize("name", ["wide", "tall"])
def test_poses(name, io):
    poses = golden_poses(name)
    assert relative_error(camera_to_first(poses), io[f"{name}.c2w"]) <= FP32
    assert relative_error(intrinsics(poses, WIDTH, HEIGHT), io[f"{name}.intrinsics"]) <= FP32


def test_rays(io):
    rays = pluecker(golden_poses("wide"), WIDTH, HEIGHT)
    assert relative_error(rays.transpose(0, 1), io["wide.plucker"]) <= FP32


@pytest.mark.parametrize("name", ["wide", "tall"])
def test_pictures_from_poses(name, io, state):
    with torch.inference_mode():
        features = pose_encoder_for(state)(pluecker(golden_poses(name), WIDTH, HEIGHT))
        told = cameras(features, merge_layers(state))
    y = run_videos(base_unet("sd"), io, [(v3_module(), MotionCall(META["frames"], cameras=told))])
    assert relative_error(y, io[f"{name}.y"]) <= FP32


@pytest.mark.parametrize(
    ("output", "strength"),
    [("real.y", 1.0), ("real.y_scale_0.5", 0.5), ("real.y_scale_1.6", torch.full((5,), 1.6))],
)
def test_pictures_from_features(output, strength, io, state):
    features = [io[f"real.feature.{level}"].transpose(0, 1) for level in range(2)]
    told = cameras(features, merge_layers(state), strength)
    y = run_videos(base_unet("sd"), io, [(v3_module(), MotionCall(META["frames"], cameras=told))])
    assert relative_error(y, io[output]) <= FP32


def test_features_of_zeros_still_speak(io, state):
    features = [torch.zeros_like(io[f"real.feature.{level}"].transpose(0, 1)) for level in range(2)]
    told = cameras(features, merge_layers(state))
    y = run_videos(base_unet("sd"), io, [(v3_module(), MotionCall(META["frames"], cameras=told))])
    assert relative_error(y, io["zero_features.y"]) <= FP32
    plain = run_videos(base_unet("sd"), io, [(v3_module(), MotionCall(META["frames"]))])
    assert relative_error(plain, io["no_camera.y"]) <= FP32


def numbers(pose):
    lens = pose.lens
    rows = [number for row in pose.w2c for number in row]
    return [0, lens.fx, lens.fy, lens.cx, lens.cy, lens.width, lens.height, *rows]


@pytest.mark.parametrize("name", [name for name in PRESETS if " then " not in name and "+" not in name])
def test_presets(name):
    poses = moving_poses([(name.split("|")[1].lower(), 1.0)], len(PRESETS[name]))
    for pose, wanted in zip(poses, PRESETS[name], strict=True):
        assert numbers(pose) == pytest.approx(wanted, abs=1e-12)


def test_presets_together_and_in_a_row():
    name = "advanced|Pan Up x0.5 + Roll Anticlockwise x2 + Zoom Out x0.3"
    poses = moving_poses([("pan up", 0.5), ("roll anticlockwise", 2.0), ("zoom out", 0.3)], 6)
    assert [numbers(pose) for pose in poses] == [pytest.approx(row, abs=1e-12) for row in PRESETS[name]]
    name = "basic|Zoom In then Tilt Up"
    poses = joined(moving_poses([("zoom in", 1.0)], 4, 0.8), moving_poses([("tilt up", 1.0)], 3, 1.0))
    assert [numbers(pose) for pose in poses] == [pytest.approx(row, abs=1e-12) for row in PRESETS[name]]
    assert joined([], poses) == poses


@pytest.mark.parametrize("frames", [2, 3, 4])
def test_three_frames_are_no_special_case(frames):
    """A cross product without an axis takes the first one of length 3."""
    poses = moving_poses([("pan left", 1.0), ("tilt up", 0.5)], 5)
    rays = pluecker(poses, 16, 8)
    assert torch.allclose(pluecker(poses[:frames], 16, 8), rays[:frames])
    moment, direction = rays.split(3, dim=1)
    assert (moment * direction).sum(1).abs().max() < 1e-6
    assert not moment[0].any()


def test_long_clips_attend_in_windows(state):
    given = json.loads(golden_file("cameractrl/ade_long.json").read_text())
    lines = "\n".join(["link", *(" ".join(map(str, row)) for row in given["rows"])])
    long = tensors("cameractrl/ade_long.safetensors")
    rays = pluecker(read_poses(lines), WIDTH, HEIGHT)
    assert relative_error(rays[[0, -1]].transpose(0, 1), long["plucker_first_last"]) <= FP32
    with torch.inference_mode():
        features = pose_encoder_for(state)(rays)
    for level, feature in enumerate(features):
        found = feature.flatten(2)[::5].permute(2, 0, 1)
        assert relative_error(found, long[f"feature.{level}"]) <= FP32


def test_sizes_that_the_unet_rounds_up():
    encoder = PoseEncoder((16, 32, 32), num_heads=4)
    sizes = [tuple(f.shape) for f in encoder(pluecker(moving_poses([("static", 1.0)], 2), 56, 40))]
    assert sizes == [(2, 16, 5, 7), (2, 32, 3, 4), (2, 32, 2, 2)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no camera poses"),
        ("https://example.org", "no camera poses"),
        ("link\n1 2 3", "Line 2 of the camera poses is `1 2 3`; expected 19 numbers"),
        ("link\n" + "x " * 19, "Line 2"),
        ("link\n" + "nan " * 19, "Line 2"),
        ("0 " * 19, "above 0"),
    ],
)
def test_unreadable_poses_are_named(text, words):
    with pytest.raises(ValueError, match=words):
        read_poses(text)


def test_the_last_pose_stays():
    poses = moving_poses([("zoom in", 1.0)], 3)
    assert for_frames(poses, 5)[2:] == [poses[-1]] * 3
    assert for_frames(poses, 2) == poses[:2]
    with pytest.raises(ValueError, match="Unknown camera motion 'up'"):
        moving_poses([("up", 1.0)], 2)
    assert len(MOTIONS) == 13


def test_incomplete_files_are_refused(state):
    with pytest.raises(ValueError, match="incomplete"):
        pose_encoder_for({})
    with pytest.raises(ValueError, match="pose encoder"):
        pose_encoder_for({key: value for key, value in state.items() if "1.1.ff_norm" not in key})
    with pytest.raises(ValueError, match="qkv_merge"):
        merge_layers({key: value for key, value in state.items() if not key.endswith("merge.bias")})
    with pytest.raises(ValueError, match="no whole CameraCtrl"):
        merge_layers({})
