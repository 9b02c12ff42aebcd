"""Slots: every place of the original, in order, with its width, in UNets of ComfyUI."""

import comfy.ops
import pytest
import torch
from animatediff_flipbook.motion_core.module.unet import unet_slots
from animatediff_flipbook.tests.support import golden_unet, small_unet
from animatediff_flipbook.tests.support_full_size import SD15, SDXL
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

# name, block, width, behind a transformer
SD15_SLOTS = [
    ("down_blocks.0.motion_modules.0", "input_blocks.1", 320, True),
    ("down_blocks.0.motion_modules.1", "input_blocks.2", 320, True),
    ("down_blocks.1.motion_modules.0", "input_blocks.4", 640, True),
    ("down_blocks.1.motion_modules.1", "input_blocks.5", 640, True),
    ("down_blocks.2.motion_modules.0", "input_blocks.7", 1280, True),
    ("down_blocks.2.motion_modules.1", "input_blocks.8", 1280, True),
    ("down_blocks.3.motion_modules.0", "input_blocks.10", 1280, False),
    ("down_blocks.3.motion_modules.1", "input_blocks.11", 1280, False),
    ("mid_block.motion_modules.0", "middle_block", 1280, True),
    ("up_blocks.0.motion_modules.0", "output_blocks.0", 1280, False),
    ("up_blocks.0.motion_modules.1", "output_blocks.1", 1280, False),
    ("up_blocks.0.motion_modules.2", "output_blocks.2", 1280, False),
    ("up_blocks.1.motion_modules.0", "output_blocks.3", 1280, True),
    ("up_blocks.1.motion_modules.1", "output_blocks.4", 1280, True),
    ("up_blocks.1.motion_modules.2", "output_blocks.5", 1280, True),
    ("up_blocks.2.motion_modules.0", "output_blocks.6", 640, True),
    ("up_blocks.2.motion_modules.1", "output_blocks.7", 640, True),
    ("up_blocks.2.motion_modules.2", "output_blocks.8", 640, True),
    ("up_blocks.3.motion_modules.0", "output_blocks.9", 320, True),
    ("up_blocks.3.motion_modules.1", "output_blocks.10", 320, True),
    ("up_blocks.3.motion_modules.2", "output_blocks.11", 320, True),
]
SDXL_SLOTS = [
    ("down_blocks.0.motion_modules.0", "input_blocks.1", 320, False),
    ("down_blocks.0.motion_modules.1", "input_blocks.2", 320, False),
    ("down_blocks.1.motion_modules.0", "input_blocks.4", 640, True),
    ("down_blocks.1.motion_modules.1", "input_blocks.5", 640, True),
    ("down_blocks.2.motion_modules.0", "input_blocks.7", 1280, True),
    ("down_blocks.2.motion_modules.1", "input_blocks.8", 1280, True),
    ("mid_block.motion_modules.0", "middle_block", 1280, True),
    ("up_blocks.0.motion_modules.0", "output_blocks.0", 1280, True),
    ("up_blocks.0.motion_modules.1", "output_blocks.1", 1280, True),
    ("up_blocks.0.motion_modules.2", "output_blocks.2", 1280, True),
    ("up_blocks.1.motion_modules.0", "output_blocks.3", 640, True),
    ("up_blocks.1.motion_modules.1", "output_blocks.4", 640, True),
    ("up_blocks.1.motion_modules.2", "output_blocks.5", 640, True),
    ("up_blocks.2.motion_modules.0", "output_blocks.6", 320, False),
    ("up_blocks.2.motion_modules.1", "output_blocks.7", 320, False),
    ("up_blocks.2.motion_modules.2", "output_blocks.8", 320, False),
]


def full_size(config):
    return UNetModel(**config, operations=comfy.ops.disable_weight_init, device="meta")


@pytest.mark.parametrize(
    ("config", "wanted"), [(SD15, SD15_SLOTS), (SDXL, SDXL_SLOTS)], ids=["SD1.5", "SDXL"]
)
def test_every_slot_in_order(config, wanted):
    unet = full_size(config)
    slots = unet_slots(unet)
    assert [(s.name, s.path, s.channels, s.attention is not None) for s in slots] == wanted
    for slot in slots:
        assert unet.get_submodule(slot.path) is slot.block
        kind = type(slot.block.get_submodule(slot.after)).__name__
        assert kind == ("SpatialTransformer" if slot.attention else "ResBlock")
        if slot.attention:
            assert type(unet.get_submodule(slot.attention_path)).__name__ == "SpatialTransformer"


def test_spatial_transformers_have_the_names_of_domain_adapter_files():
    """16 blocks in SD1.5; in SDXL the deepest level has them and the outermost has none."""
    named = {s.attention: s.attention_path for s in unet_slots(full_size(SD15)) if s.attention}
    expected = {
        f"down_blocks.{b}.attentions.{i}": f"input_blocks.{1 + 3 * b + i}.1"
        for b in range(3)
        for i in range(2)
    }
    expected |= {
        f"up_blocks.{b}.attentions.{i}": f"output_blocks.{3 * b + i}.1" for b in (1, 2, 3) for i in range(3)
    }
    assert named == {**expected, "mid_block.attentions.0": "middle_block.1"}
    named = [s.attention for s in unet_slots(full_size(SDXL)) if s.attention]
    assert "down_blocks.0.attentions.0" not in named
    assert "up_blocks.0.attentions.2" in named


def test_slots_come_before_the_upsampler():
    for config in (SD15, SDXL):
        for slot in unet_slots(full_size(config)):
            layers = list(slot.block._modules)
            behind = [type(slot.block[int(k)]).__name__ for k in layers[layers.index(slot.after) + 1 :]]
            assert behind in ([], ["Upsample"], ["ResBlock"])


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ["down_blocks.0", "down_blocks.1", "mid_block", *["up_blocks.0"] * 2, *["up_blocks.1"] * 2]),
        (
            {"channel_mult": [1], "num_res_blocks": [3], "transformer_depth": [0, 1, 0]}
            | {"transformer_depth_output": [0, 1, 0, 1]},
            [*["down_blocks.0"] * 3, "mid_block", *["up_blocks.0"] * 4],
        ),
        (
            {"channel_mult": [1, 1, 2], "num_res_blocks": [1, 2, 1], "transformer_depth": [1, 1, 0, 0]}
            | {"transformer_depth_output": [1, 1, 1, 0, 0, 0, 0], "transformer_depth_middle": -1},
            ["down_blocks.0", *["down_blocks.1"] * 2, "down_blocks.2", "mid_block"]
            + [*["up_blocks.0"] * 2, *["up_blocks.1"] * 3, *["up_blocks.2"] * 2],
        ),
    ],
    ids=["golden", "one level", "uneven"],
)
def test_other_depths_and_widths_are_served(changes, names):
    slots = unet_slots(small_unet(**changes))
    assert [slot.name.split(".motion_modules")[0] for slot in slots] == names
    for slot in slots:
        width = slot.block.get_submodule(slot.after)
        width = width.out_channels if slot.attention is None else width.in_channels
        assert slot.channels == width


def test_subclasses_of_comfyuis_layers_are_known():
    """Other packs derive from them; an exact class test would lose the slot."""
    unet = small_unet()
    for block in unet.input_blocks:
        for layer in block:
            layer.__class__ = type(f"Their{type(layer).__name__}", (type(layer),), {})
    assert [slot.name for slot in unet_slots(unet)] == [slot.name for slot in unet_slots(small_unet())]


def test_compiled_unets_are_looked_through():
    unet = golden_unet()
    compiled = torch.compile(unet, backend="eager")
    assert [s.block for s in unet_slots(compiled)] == [s.block for s in unet_slots(unet)]


@pytest.mark.parametrize("thing", [torch.nn.Linear(2, 2), torch.nn.Sequential()])
def test_another_kind_of_model_is_refused_with_what_to_load(thing):
    with pytest.raises(ValueError, match=rf"{type(thing).__name__}.*SD1.5 or SDXL"):
        unet_slots(thing)
