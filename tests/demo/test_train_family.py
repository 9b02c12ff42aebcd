"""The stages of the tiny family: movements begin with others, forwards or backwards."""

import importlib
import json

import pytest
import torch
from animatediff_flipbook.motion_core.files.lora import read_lora


@pytest.fixture
def family(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "demo"))
    return importlib.import_module("animatediff_flipbook.demo.train_family")


@pytest.mark.parametrize("factor", [-1.0, 1.4])
def test_a_scaled_file_has_that_many_times_the_effect_and_the_same_metadata(family, root, tmp_path, factor):
    file = root / "demo" / "models" / "animatediff_motion_lora" / "tiny_pan_left.safetensors"
    written = read_lora(family.write_scaled(file, factor, tmp_path / "new" / file.name))
    original = read_lora(file)
    assert written.metadata == original.metadata
    changes = [
        {place: layer.up @ layer.down for place, layer in f.layers.items()} for f in (original, written)
    ]
    assert changes[0].keys() == changes[1].keys() and len(changes[0]) > 8
    for place, change in changes[0].items():
        assert change.abs().max() > 0
        torch.testing.assert_close(changes[1][place], factor * change, rtol=5e-3, atol=1e-4)


def test_a_copy_of_what_is_not_there_says_what_to_train(family, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"zoom_in\.safetensors is missing.*Train it first"):
        family.write_scaled(tmp_path / "zoom_in.safetensors", -1.0, tmp_path / "copy.safetensors")


def test_every_opposite_is_trained_after_the_one_it_begins_with(family):
    order = list(family.STAGES)
    for stage, opposite in family.OPPOSITES.items():
        assert order.index(opposite) < order.index(stage) and opposite not in family.OPPOSITES
    assert set(family.PARTS) <= set(family.STAGES)


def change_of(file):
    return {place: layer.up @ layer.down for place, layer in read_lora(file).layers.items()}


@pytest.mark.parametrize(
    ("stage", "begins_with", "factor"),
    [("pan_left", "pan_left", 1 / 1.4), ("pan_right", "pan_left", -1 / 1.4), ("zoom_in", "zoom_in", 1.0)],
)
def test_a_movement_begins_with_what_was_learnt_not_with_what_is_published(
    family, root, tmp_path, monkeypatch, stage, begins_with, factor
):
    monkeypatch.setattr(family, "TRAIN", tmp_path)
    models = root / "demo" / "models"
    found = [line for line in family.settings_of(stage, models, models) if line.startswith("lora.file=")]
    begun = change_of(json.loads(found[0].removeprefix("lora.file=")))
    published = change_of(models / "animatediff_motion_lora" / f"tiny_{begins_with}.safetensors")
    assert begun.keys() == published.keys()
    for place, change in published.items():
        torch.testing.assert_close(begun[place], factor * change, rtol=5e-3, atol=1e-4)


def test_a_movement_that_no_earlier_family_has_begins_from_nothing(family, tmp_path):
    for start in (None, tmp_path):
        assert not any("lora.file" in line for line in family.settings_of("zoom_in", tmp_path / "new", start))
