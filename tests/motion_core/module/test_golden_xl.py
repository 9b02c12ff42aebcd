"""SDXL beta and HotshotXL: the original's numbers, with the norm modes that the files are known for."""

from dataclasses import replace

import pytest
import torch
from animatediff_flipbook.motion_core.files.checkpoint import (
    load_motion_module,
    open_motion_module,
    save_motion_module,
)
from animatediff_flipbook.motion_core.module.call import MotionCall
from animatediff_flipbook.motion_core.module.config import MotionModuleConfig
from animatediff_flipbook.motion_core.module.model import MotionModel
from animatediff_flipbook.tests.support import fold, relative_error, unfold
from animatediff_flipbook.tests.support_families import (
    FP32,
    base_unet,
    golden_file,
    meta,
    run_videos,
    tensors,
)
from safetensors.torch import load_file, save_file

FAMILIES = {"sdxl_beta": "sdxl", "hotshotxl": "hotshotxl"}


def named(source, generation, tmp_path):
    """The file with metadata that names its release: a base of two levels does not show it."""
    path = tmp_path / "named.safetensors"
    save_file(load_file(source), path, {"version": generation})
    return path


@pytest.mark.parametrize("family", FAMILIES)
class TestGolden:
    def test_motion(self, family, tmp_path):
        path = named(golden_file(f"{family}/motion_module.safetensors"), FAMILIES[family], tmp_path)
        io, facts = tensors(f"{family}/io.safetensors"), meta(family)
        motion = load_motion_module(path, dtype=torch.float32)
        assert motion.config.unet_groupnorm == facts["unet_groupnorm"]
        assert motion.config.module_groupnorm == facts["module_groupnorm"]
        call = MotionCall(facts["frames"])
        y = io["y"].repeat_interleave(facts["frames"], dim=0)
        assert (
            relative_error(run_videos(base_unet("sdxl"), io, [(motion, call)], y=y), io["y_motion"]) <= FP32
        )

    def test_first_module(self, family, tmp_path):
        path = named(golden_file(f"{family}/first_module.safetensors"), FAMILIES[family], tmp_path)
        io, facts = tensors(f"{family}/first_module_io.safetensors"), meta(family)
        motion = load_motion_module(path, dtype=torch.float32)
        (_, module), *_ = motion.motion_modules()
        with torch.inference_mode():
            out = module(fold(io["module_in"]), MotionCall(facts["frames"]))
        assert relative_error(unfold(out, facts["batch"]), io["module_out"]) <= FP32

    def test_the_other_norm_mode_is_noticed(self, family, tmp_path):
        path = named(golden_file(f"{family}/first_module.safetensors"), FAMILIES[family], tmp_path)
        io, facts = tensors(f"{family}/first_module_io.safetensors"), meta(family)
        file = open_motion_module(path)
        other = "joint" if facts["module_groupnorm"] == "per_frame" else "per_frame"
        motion = load_motion_module(
            replace(file, config=replace(file.config, module_groupnorm=other)), dtype=torch.float32
        )
        (_, module), *_ = motion.motion_modules()
        with torch.inference_mode():
            out = module(fold(io["module_in"]), MotionCall(facts["frames"]))
        assert relative_error(unfold(out, facts["batch"]), io["module_out"]) > 1e-3


def test_hotshot_is_known_by_its_names():
    config = open_motion_module(golden_file("hotshotxl/first_module.safetensors")).config
    assert (config.generation, config.unet_groupnorm, config.pe_length) == ("hotshotxl", "joint", 24)


@pytest.mark.parametrize(
    ("widths", "generation"),
    [((320, 640, 1280), "sdxl"), ((32, 64, 128), "sdxl"), ((64, 64, 128), "v3"), ((32, 64, 128, 128), "v3")],
)
def test_three_levels_that_double_are_sdxls_whatever_their_widths(tmp_path, widths, generation):
    """Three levels alone are no sign: small models of SD1.5's kind have them too."""
    slots = [(f"down_blocks.{level}.motion_modules.0", width) for level, width in enumerate(widths)]
    path = tmp_path / "module.safetensors"
    save_motion_module(path, MotionModel(MotionModuleConfig.for_slots(slots, generation)))
    save_file(load_file(path), path)  # without metadata
    config = open_motion_module(path).config
    assert config.generation == generation
    assert config.module_groupnorm == ("joint" if generation == "sdxl" else "per_frame")
