"""What a second run of the demo keeps."""

import importlib

import pytest


@pytest.fixture
def demo(root, monkeypatch):
    """The script as a module; it finds its neighbours as scripts do."""
    monkeypatch.syspath_prepend(str(root / "demo"))
    return importlib.import_module("animatediff_flipbook.demo.demo")


def test_a_recipe_is_the_same_in_every_process_and_another_for_other_parts(demo, tmp_path):
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    one.write_bytes(b"1")
    two.write_bytes(b"2")
    prompt = {"1": {"class_type": "KSampler", "inputs": {"seed": 1}}}
    models = {"checkpoints": [one], "loras": [two]}
    first = demo.parts_of(models, tmp_path)
    # folders come from a set, whose order is another in every process
    assert demo.parts_of(dict(reversed(models.items())), tmp_path) == first
    assert demo.recipe_of(prompt, first) == demo.recipe_of(prompt, first)
    assert demo.recipe_of({"1": {**prompt["1"], "inputs": {"seed": 2}}}, first) != demo.recipe_of(
        prompt, first
    )
    (tmp_path / "comfyui_version.py").write_text('__version__ = "9"')
    updated = demo.parts_of(models, tmp_path)
    assert updated != first, "another ComfyUI in the same folder"
    two.write_bytes(b"3")
    assert demo.parts_of(models, tmp_path) != updated


def test_a_damaged_note_keeps_nothing(demo, tmp_path):
    picture, facts = tmp_path / "a.webp", tmp_path / "a.json"
    picture.write_bytes(b"")
    assert demo._facts_of(picture, facts) is None
    facts.write_text('{"recipe": "x", "fra')
    assert demo._facts_of(picture, facts) is None
    for lacking in ('{"frames": 16, "seconds": 1.0}', "[]"):
        facts.write_text(lacking)
        assert demo._facts_of(picture, facts) is None
    facts.write_text('{"recipe": "x", "frames": 16, "seconds": 1.0}')
    assert demo._facts_of(picture, facts)["frames"] == 16
