"""Layouts and conventions: what each released generation is, and what cannot be."""

from dataclasses import FrozenInstanceError, replace

import pytest
from animatediff_flipbook.motion_core.module.config import (
    GENERATIONS,
    ModuleShape,
    MotionModuleConfig,
    base_of,
)
from animatediff_flipbook.motion_core.module.model import MotionModel
from animatediff_flipbook.motion_core.schedule.beta_schedules import LINEAR, LINEAR_SDXL, SQRT_LINEAR

SD15 = [
    *(
        (f"down_blocks.{b}.motion_modules.{i}", c)
        for b, c in enumerate((320, 640, 1280, 1280))
        for i in (0, 1)
    ),
    ("mid_block.motion_modules.0", 1280),
    *(
        (f"up_blocks.{b}.motion_modules.{i}", c)
        for b, c in enumerate((1280, 1280, 640, 320))
        for i in range(3)
    ),
]
SDXL = [
    *((f"down_blocks.{b}.motion_modules.{i}", c) for b, c in enumerate((320, 640, 1280)) for i in (0, 1)),
    ("mid_block.motion_modules.0", 1280),
    *((f"up_blocks.{b}.motion_modules.{i}", c) for b, c in enumerate((1280, 640, 320)) for i in range(3)),
]


@pytest.mark.parametrize(
    ("generation", "slots", "modules", "length", "unet_norm", "module_norm", "schedule"),
    [
        ("v1", SD15, 20, 24, "joint", "per_frame", SQRT_LINEAR),
        ("v2", SD15, 21, 32, "per_frame", "per_frame", SQRT_LINEAR),
        ("v3", SD15, 20, 32, "per_frame", "per_frame", SQRT_LINEAR),
        ("animatelcm", SD15, 21, 64, "per_frame", "per_frame", SQRT_LINEAR),
        ("pia", SD15, 20, 32, "joint", "per_frame", SQRT_LINEAR),
        ("sdxl", SDXL, 15, 32, "per_frame", "joint", LINEAR_SDXL),
        ("hotshotxl", SDXL, 15, 24, "joint", "per_frame", LINEAR),
    ],
)
def test_generations_are_those_released(generation, slots, modules, length, unet_norm, module_norm, schedule):
    config = MotionModuleConfig.for_slots(slots, generation)
    assert len(config.modules) == modules
    assert config.pe_length == length
    assert (config.unet_groupnorm, config.module_groupnorm) == (unet_norm, module_norm)
    assert config.beta_schedule == schedule
    assert config.num_heads == 8
    assert config.mid_block == (modules == 21)
    assert config.base == ("sdxl" if slots is SDXL else "sd15")


def test_every_generation_is_covered_above():
    assert set(GENERATIONS) == {"v1", "v2", "v3", "sdxl", "hotshotxl", "animatelcm", "animatelcm_i2v", "pia"}


@pytest.mark.parametrize(
    ("generation", "slots", "values", "tensors"),
    [
        ("v1", SD15, 417_137_600, 520),
        ("v2", SD15, 453_209_280, 546),
        ("v3", SD15, 417_137_600, 520),
        ("sdxl", SDXL, 236_779_200, 390),
    ],
)
def test_full_size_models_have_the_published_number_of_values(generation, slots, values, tensors):
    model = MotionModel(MotionModuleConfig.for_slots(slots, generation), device="meta", fused_qkv=False)
    assert sum(p.numel() for p in model.parameters()) == values
    assert len(model.state_dict()) == tensors
    tables = [value for name, value in model.named_buffers() if name.endswith("pos_encoder.pe")]
    assert len(tables) == tensors // 13


def test_modules_keep_the_original_names():
    model = MotionModel(MotionModuleConfig.for_slots(SD15, "v2"), device="meta", fused_qkv=False)
    layer = "temporal_transformer.transformer_blocks.0.attention_blocks.1.to_out.0"
    assert model.get_submodule(f"mid_block.motion_modules.0.{layer}").weight.shape == (1280, 1280)
    assert [name for name, _ in model.motion_modules()] == [name for name, _ in SD15]


@pytest.mark.parametrize(
    ("slots", "base"),
    [(SD15, "sd15"), (SDXL, "sdxl"), ([("down_blocks.0.motion_modules.0", 64)], "custom"), ([], "custom")],
)
def test_base_is_told_by_widths(slots, base):
    assert base_of(slots) == base


def test_overrides_win():
    config = MotionModuleConfig.for_slots(
        SD15, "v3", pe_length=7, mid_block=True, num_heads=4, unet_groupnorm="joint", beta_schedule=LINEAR
    )
    assert (config.pe_length, config.mid_block, config.num_heads) == (7, True, 4)
    assert (config.unet_groupnorm, config.beta_schedule) == ("joint", LINEAR)


def test_shortest_table_limits_the_frames():
    shapes = [("down_blocks.0.motion_modules.0", 32), ("down_blocks.0.motion_modules.1", 16)]
    config = MotionModuleConfig(
        tuple((name, ModuleShape(32, 32, 1, 2, 128, length)) for name, length in shapes), "v3"
    )
    assert config.pe_length == 16


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"modules": ()}, "none"),
        ({"generation": "v4"}, r"v4.*v1"),
        ({"num_heads": 7}, r"320 wide.*7 attention heads"),
        ({"num_heads": 0}, "heads"),
        ({"num_heads": -8}, "heads"),
        ({"norm_groups": 33}, "33"),
        ({"norm_groups": 0}, "groups"),
        ({"unet_groupnorm": "together"}, "together"),
        ({"module_groupnorm": ""}, "module_groupnorm"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(change, words):
    config = MotionModuleConfig.for_slots(SD15, "v3")
    with pytest.raises(ValueError, match=words):
        replace(config, **change)


def test_unknown_generation_names_those_known():
    with pytest.raises(ValueError, match="hotshotxl"):
        MotionModuleConfig.for_slots(SD15, "v9")


def test_description_tells_the_user_what_the_file_was_taken_for():
    line = MotionModuleConfig.for_slots(SD15, "v1").describe()
    for word in ("AnimateDiff v1", "sd15", "20 modules", "24 frames", "joint", "sqrt_linear"):
        assert word in line


def test_configuration_is_frozen_data():
    config = MotionModuleConfig.for_slots(SD15, "v3")
    with pytest.raises(FrozenInstanceError):
        config.num_heads = 4
    assert config == MotionModuleConfig.for_slots(SD15, "v3")
    assert config.to_dict()["beta_schedule"]["name"] == "sqrt_linear"
