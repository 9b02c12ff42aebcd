"""Motion modules in diffusers' layout: read again by ours, and by diffusers itself where it is installed."""

import json

import pytest
import torch
from animatediff_flipbook.motion_core.files.checkpoint import (
    load_motion_module,
    motion_state_dict,
    open_motion_module,
)
from animatediff_flipbook.motion_core.files.motion_adapter import save_motion_adapter
from animatediff_flipbook.motion_core.module.config import MotionModuleConfig
from animatediff_flipbook.motion_core.module.model import MotionModel
from animatediff_flipbook.tests.support import initialise
from torch import nn

WIDTHS = (32, 64)
SLOTS = [
    *((f"down_blocks.{level}.motion_modules.{n}", w) for level, w in enumerate(WIDTHS) for n in range(2)),
    ("mid_block.motion_modules.0", WIDTHS[-1]),
    *((f"up_blocks.{level}.motion_modules.{n}", w) for level, w in enumerate(WIDTHS[::-1]) for n in range(3)),
]


def make(generation="v2", slots=SLOTS, **options):
    return initialise(MotionModel(MotionModuleConfig.for_slots(slots, generation, **options)), 1)


def assert_same(got, wanted):
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[key], value) for key, value in wanted.items())


@pytest.mark.parametrize(
    ("generation", "options"), [("v1", {"num_heads": 4}), ("v2", {}), ("v3", {"pe_length": 48}), ("sdxl", {})]
)
def test_ours_reads_it_again_with_all_its_conventions(tmp_path, generation, options):
    model = make(generation, **options)
    save_motion_adapter(tmp_path / "m", model, {"licence": "CC0"})
    file = open_motion_module(tmp_path / "m" / "diffusion_pytorch_model.safetensors")
    assert file.config == model.config and file.source.metadata["licence"] == "CC0"
    assert_same(motion_state_dict(load_motion_module(file)), motion_state_dict(model))
    assert [path.name for path in sorted((tmp_path / "m").iterdir())] == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]


@pytest.mark.parametrize("generation", ["v2", "v3"])
@pytest.mark.parametrize("learnt", [False, True])
def test_diffusers_reads_it_whole(tmp_path, generation, learnt):
    diffusers = pytest.importorskip("diffusers")
    model = make(generation, num_heads=4, pe_length=24)
    if learnt:
        for name, module in model.named_modules():
            if name.endswith(".pos_encoder"):
                module.pe = module.pe + 0.1
    save_motion_adapter(tmp_path, model, dtype=torch.float16)
    adapter, report = diffusers.MotionAdapter.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert adapter.config.motion_num_attention_heads == 4 and adapter.config.motion_max_seq_length == 24
    assert adapter.config.use_motion_mid_block == (generation == "v2")
    ours = model.get_submodule("up_blocks.0.motion_modules.2").temporal_transformer
    theirs = adapter.up_blocks[0].motion_modules[2]
    wanted = ours.proj_in.weight.half().float()
    assert torch.equal(theirs.proj_in.weight.float(), wanted)
    table = ours.transformer_blocks[0].attention_blocks[1].pos_encoder.pe
    assert torch.allclose(theirs.transformer_blocks[0].pos_embed.pe.float(), table, atol=1e-3)


def test_what_diffusers_reads_back_is_what_was_written(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    model = make("v2")
    save_motion_adapter(tmp_path / "ours", model)
    diffusers.MotionAdapter.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    back = load_motion_module(tmp_path / "theirs" / "diffusion_pytorch_model.safetensors")
    assert_same(motion_state_dict(back), motion_state_dict(model))
    first, second = (
        json.loads((tmp_path / place / "config.json").read_text()) for place in ("ours", "theirs")
    )
    assert all(second[key] == value for key, value in first.items())


@pytest.mark.parametrize(
    ("slots", "why"),
    [
        (SLOTS[:4], "every level"),
        (SLOTS[:3] + SLOTS[4:], "mirror"),
        ([(name, 96 if name == "mid_block.motion_modules.0" else w) for name, w in SLOTS], "middle block"),
        ([(n, 64 if n == "up_blocks.1.motion_modules.2" else w) for n, w in SLOTS], "mirror"),
    ],
)
def test_layouts_that_diffusers_cannot_build_are_refused(tmp_path, slots, why):
    with pytest.raises(ValueError, match=f"{why}.*original layout"):
        save_motion_adapter(tmp_path / "m", make(slots=slots))
    assert not (tmp_path / "m").exists()


def test_positions_that_differ_between_attentions_and_parts_for_pictures_are_refused(tmp_path):
    model = make()
    first = next(module for name, module in model.named_modules() if name.endswith("0.pos_encoder"))
    first.pe = first.pe + 1
    with pytest.raises(ValueError, match="differ in positions"):
        save_motion_adapter(tmp_path / "m", model)
    model = make()
    model.add_module("pia_input", nn.Conv2d(5, 32, 3, bias=False))
    model.pia_input.latent_part = torch.zeros(32, 4, 3, 3)
    with pytest.raises(ValueError, match="steered by a picture"):
        save_motion_adapter(tmp_path / "m", model)
    assert not (tmp_path / "m").exists()
