"""States with missing or wrong fields: passed over, or one sentence; never a traceback."""

import json
import os
import shutil

import pytest
from animatediff_flipbook.training.run.saving import check_facts, restore
from animatediff_flipbook.training.run.states import load_state, newest_state
from animatediff_flipbook.training.run.train import Run, train

WRONG = (None, True, -1, "x", [None], {})


def places(tree, path=()):
    """Every place in nested tables and lists; of long lists the first."""
    if path:
        yield path
    if isinstance(tree, dict):
        for key in tree:
            yield from places(tree[key], (*path, key))
    elif isinstance(tree, list) and tree:
        yield from places(tree[0], (*path, 0))


def changed(tree, path, value):
    """A copy with another value at a place; without it where the value is ``...``."""
    copy = json.loads(json.dumps(tree))
    node = copy
    for key in path[:-1]:
        node = node[key]
    if value is ...:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return copy


# AdamW has ten times as many fields
@pytest.mark.parametrize("optimizer", [pytest.param("AdamW", marks=pytest.mark.slow), "SGD"])
def test_every_field_missing_or_of_another_type(optimizer, stage_settings, tmp_path):
    settings = (f"optimizer.name={optimizer}", "train.ema_decay=0.9", "train.steps=2", "checkpoints.every=1")
    train(stage_settings("domain_adapter", tmp_path, *settings))
    folder = tmp_path / "checkpoints" / "step-00000002"
    record = json.loads((folder / "state.json").read_text())
    run = Run(stage_settings("domain_adapter", tmp_path, *settings, "train.steps=3"), resume=True)
    outcomes = set()
    try:
        for place in places(record):
            if place[:2] == ("facts", "config") and len(place) > 2 or "params" in place[:-1]:
                continue
            for value in (..., *WRONG):
                (folder / "state.json").write_text(json.dumps(changed(record, place, value)))
                try:
                    state = load_state(folder)
                    check_facts(state)
                    restore(run.parts, state)
                    if "optimizer" in place:
                        run.take_step(state.step)
                    outcomes.add("goes on")
                except ValueError as error:
                    outcomes.add("said")
                    assert str(error)
                except Exception as error:
                    pytest.fail(f"{place} = {value!r}: {error!r}")
    finally:
        run.close()
    assert outcomes == {"goes on", "said"}
    (folder / "state.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "null",
        "[" * 100_000,
        '{"step": 2',
        "\x00",
        '{"facts": {}}',
        "\udcff".encode(errors="surrogateescape"),
    ],
)
def test_a_record_that_is_none_is_passed_over(content, stage_settings, tmp_path):
    train(stage_settings("domain_adapter", tmp_path, "train.steps=2", "checkpoints.every=1"))
    path = tmp_path / "checkpoints" / "step-00000002" / "state.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    result = train(stage_settings("domain_adapter", tmp_path, "train.steps=3"), resume=True)
    assert result.steps == 3


@pytest.mark.parametrize("name", ["state.json", "weights.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("what", ["gone", "empty", "a folder"])
def test_a_file_of_a_state_that_is_no_file(name, what, stage_settings, tmp_path):
    train(stage_settings("domain_adapter", tmp_path, "train.steps=2", "checkpoints.every=1"))
    path = tmp_path / "checkpoints" / "step-00000002" / name
    os.unlink(path)
    if what == "empty":
        path.touch()
    elif what == "a folder":
        path.mkdir()
    assert newest_state(tmp_path / "checkpoints").step == 1


def test_a_state_under_another_step_s_name_is_passed_over(stage_settings, tmp_path):
    train(stage_settings("domain_adapter", tmp_path, "train.steps=2", "checkpoints.every=1"))
    states = tmp_path / "checkpoints"
    shutil.copytree(states / "step-00000001", states / "step-00000009")
    assert newest_state(states).step == 2
