"""Mutated weight files: every outcome is a correct load or one sentence of ours.

A few in the quick suite; 2,400 with ``python run.py test -m slow tests/fuzz``.
"""

import json
import random
import struct
import zipfile

import pytest
import torch
from animatediff_flipbook.motion_core.files.checkpoint import load_motion_module, motion_state_dict
from animatediff_flipbook.motion_core.files.lora import lora_targets, read_lora
from animatediff_flipbook.motion_core.module.config import MotionModuleConfig
from animatediff_flipbook.motion_core.module.model import MotionModel
from safetensors.torch import save_file

SLOTS = (("down_blocks.0.motion_modules.0", 32), ("up_blocks.0.motion_modules.0", 32))
ODD_VALUES = (float("nan"), float("inf"), 3e38, -1e30, 0.0)
ODD_NAMES = ("", "\n\x1b[31m", "x" * 5000, "module.", "ema.", "..", "名")
ODD_TYPES = (torch.int8, torch.bool, torch.float64, torch.float8_e4m3fn, torch.complex64, torch.bfloat16)


def motion_state():
    torch.manual_seed(0)
    model = MotionModel(MotionModuleConfig.for_slots(SLOTS), fused_qkv=False)
    return {key: value.clone() for key, value in motion_state_dict(model).items()}, model


def lora_state(model):
    return {
        f"{name}.lora_{part}.weight": torch.randn(shape) * 0.1
        for name, target in lora_targets(model).items()
        if ".to_" in name
        for part, shape in (("down", (2, target.shape[1])), ("up", (target.shape[0], 2)))
    }


def mutate_tensors(state, rng):
    """One thing of the tensors is changed."""
    key = rng.choice(list(state))
    value = state.pop(key)
    kind = rng.randrange(8)
    if kind == 0:
        return state  # it is gone
    if kind == 1:
        value = value.flatten()[: rng.randrange(value.numel())].clone()
    elif kind == 2:
        value = value.clone()
        value.view(-1)[rng.randrange(value.numel())] = rng.choice(ODD_VALUES)
    elif kind == 3:
        value = value.to(rng.choice(ODD_TYPES))
    elif kind == 4:
        key = f"{rng.choice(ODD_NAMES)}{key}"
    elif kind == 5:
        state[f"{rng.choice(('module.', 'ema.', 'model.'))}{key}"] = value + 1
    elif kind == 6:
        value = value.reshape(*value.shape, 1)
    else:
        state[f"{rng.choice(ODD_NAMES)}{rng.randrange(9)}"] = torch.ones(2)
    return {**state, key: value}


def mutate_bytes(content, rng):
    """The file itself is damaged."""
    content = bytearray(content)
    kind = rng.randrange(5)
    if kind == 0:
        return bytes(content[: rng.randrange(len(content))])
    if kind == 1:
        for _ in range(rng.randrange(1, 20)):
            content[rng.randrange(min(len(content), 4000))] = rng.randrange(256)
    elif kind == 2:
        content[:8] = struct.pack("<Q", rng.choice((0, 7, 2**40, 2**63)))
    elif kind == 3:
        return b""
    else:
        content = content[rng.randrange(1, 64) :]
    return bytes(content)


def write(path, state, rng):
    if path.suffix == ".safetensors":
        metadata = rng.choice((
            {}, {"version": "v9"}, {"num_heads": "9" * 400}, {"pe_length": "-1"}, {"beta_start": "nan"},
            {"lora_adapter_metadata": json.dumps({"lora_alpha": rng.choice((1e308, "x", None, [1]))})},
        ))  # fmt: skip
        save_file({key: value.contiguous() for key, value in state.items()}, path, metadata)
        return
    content = rng.choice((state, {"state_dict": state}, {"unet": state, "ema_unet": state}))
    torch.save(content, path, _use_new_zipfile_serialization=rng.random() < 0.8)
    if rng.random() < 0.2 and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = [(item.filename, archive.read(item)) for item in archive.infolist()]
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members:
                archive.writestr(name, data)


def assert_read_or_refused(folder, seed):
    """A mutated file through its loader; raises AssertionError where the outcome is neither."""
    rng = random.Random(seed)
    state, model = motion_state()
    is_lora = rng.random() < 0.5
    if is_lora:
        state = lora_state(model)
    path = folder / f"file{seed}{rng.choice(('.safetensors', '.ckpt', '.pt'))}"
    if rng.random() < 0.7:
        state = mutate_tensors(dict(state), rng)
    try:
        write(path, state, rng)
    except Exception:  # the format itself refuses such tensors
        return
    if rng.random() < 0.4:
        path.write_bytes(mutate_bytes(path.read_bytes(), rng))
    try:
        if is_lora:
            values = [part for layer in read_lora(path).layers.values() for part in (layer.up, layer.down)]
        else:
            values = list(load_motion_module(path).parameters())
    except (ValueError, FileNotFoundError) as error:
        text = str(error)
        assert 10 < len(text) < 1500 and text.isprintable(), f"seed {seed}: {text!r}"
        assert path.name[:8] in text or "file" in text, f"seed {seed}: {text!r}"
        assert "weights_only" not in text, f"seed {seed}: {text!r}"
        return
    assert values and all(torch.isfinite(value).all() for value in values), f"seed {seed}"


@pytest.mark.parametrize("start", range(0, 60, 10))
def test_a_sample_of_mutated_files(tmp_path, start):
    for seed in range(start, start + 10):
        assert_read_or_refused(tmp_path, seed)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 3400, 200))
def test_mutated_files(tmp_path, start):
    for seed in range(start, start + 200):
        assert_read_or_refused(tmp_path, seed)
        for file in tmp_path.iterdir():
            file.unlink()
