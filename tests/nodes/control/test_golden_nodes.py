"""The authors' numbers of PIA, AnimateLCM-I2V and CameraCtrl, with everything going through our nodes."""

import json

import pytest
import torch
from animatediff_flipbook.nodes.control.camera_control import CameraControl, LoadCameraControl
from animatediff_flipbook.nodes.control.camera_poses import CameraPosesFromText
from animatediff_flipbook.nodes.control.image_reference import ImageReference
from animatediff_flipbook.nodes.control.pia_reference import PiaReference
from animatediff_flipbook.nodes.motion.apply import ApplyMotionModule
from animatediff_flipbook.nodes.motion.load import LoadMotionModule
from animatediff_flipbook.tests.support import as_patcher, bare, call_model, fold, relative_error, unfold
from animatediff_flipbook.tests.support_families import FP32, golden_file, meta, tensors


class GivenLatents:
    """A VAE that knows what the picture is in latents (in the model's scale)."""

    def __init__(self, latents):
        self.latents = latents / 0.18215

    def spacial_compression_encode(self):
        return 8

    def encode(self, pixels):
        assert pixels.shape[1:] == (8 * self.latents.shape[-2], 8 * self.latents.shape[-1], 3)
        return self.latents


def base(family):
    config = json.loads(golden_file(f"{family}/unet_config.json").read_text())
    weights = tensors(f"{family}/unet.safetensors")
    return as_patcher(config, {k.removeprefix("model.diffusion_model."): v for k, v in weights.items()})


def load(folders, name):
    return LoadMotionModule.execute(motion_module=folders.add("animatediff_models", golden_file(name)))[0]


def error(model, io, output):
    y = call_model(bare(model), fold(io["x"]), io["timestep"], io["context"], conds=io["x"].shape[0])
    return relative_error(unfold(y, io["x"].shape[0]), io[output])


@pytest.mark.parametrize("name", ["animation_medium", "spatial"])
def test_pia(name, model_folders):
    about, io = meta("pia"), tensors("pia/io.safetensors")
    module = load(model_folders, "pia/pia.safetensors")
    if name == "spatial":
        given = {"values": [1.0], "mask": fold(io["spatial.mask"])[:, 0]}
        latents = fold(io["spatial.references"])
    else:
        name = name if name in about["cases"] else next(iter(about["cases"]))
        case = about["cases"][name]
        given = {"setting": case["setting"].replace("_", " "), "reference_frame": case["cond_frame"]}
        latents = io["reference"]
    image = torch.rand(latents.shape[0], 90, 70, 3)
    control = PiaReference.execute(image, GivenLatents(latents), **given)[0]
    model = ApplyMotionModule.execute(base("pia"), module, motion_control=control)[0]
    assert error(model, io, f"{name}.y_motion") <= FP32


@pytest.mark.parametrize("name", ["default", "per_frame"])
def test_animatelcm_i2v(name, model_folders):
    case, io = meta("animatelcm")["i2v"][name], tensors("animatelcm/i2v_io.safetensors")
    module = load(model_folders, "animatelcm/i2v_motion_module.safetensors")
    assert module.config.generation == "animatelcm_i2v"
    latents = io[case["reference"]]
    latents = fold(latents) if latents.ndim == 5 else latents
    image = torch.rand(latents.shape[0], 60, 70, 3)
    control = ImageReference.execute(image, GivenLatents(latents), case["motion_scale"])[0]
    model = ApplyMotionModule.execute(base("animatelcm"), module, motion_control=control)[0]
    assert error(model, io, f"{name}.y") <= FP32


@pytest.mark.parametrize("name", ["wide", "tall"])
def test_cameractrl(name, model_folders):
    given, io = meta("cameractrl")["poses"][name], tensors("cameractrl/io.safetensors")
    file = model_folders.add("animatediff_models", golden_file("cameractrl/cameractrl.safetensors"))
    poses = CameraPosesFromText.execute(
        "\n".join(given["lines"]), given["original_pose_width"], given["original_pose_height"]
    )[0]
    control = CameraControl.execute(LoadCameraControl.execute(file)[0], poses)[0]
    module = load(model_folders, "sd/v3_motion_module.safetensors")
    model = ApplyMotionModule.execute(base("sd"), module, motion_control=control)[0]
    assert error(model, io, f"{name}.y") <= FP32
