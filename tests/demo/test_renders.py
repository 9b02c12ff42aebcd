"""Exchanging values in a workflow: what is reached, and that a change which reaches nothing is refused."""

import copy

import pytest
from animatediff_flipbook.demo import renders

PROMPT = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15.safetensors"}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "wanted"}},
    "3": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "unwanted"}},
    "4": {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["2", 0]}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 512, "batch_size": 16}},
    "6": {
        "class_type": "KSampler",
        "inputs": {
            "model": ["1", 0],
            "positive": ["4", 0],
            "negative": ["3", 0],
            "latent_image": ["5", 0],
            "seed": 1,
        },
    },
}


def test_values_change_and_the_original_stays():
    before = copy.deepcopy(PROMPT)
    after = renders.changed(
        PROMPT, {"KSampler.seed": 7, "CheckpointLoaderSimple.ckpt_name": "tiny.safetensors"}
    )
    assert after["6"]["inputs"]["seed"] == 7
    assert after["1"]["inputs"]["ckpt_name"] == "tiny.safetensors"
    assert before == PROMPT


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("KSamplerAdvanced.seed", "no node KSamplerAdvanced"),
        ("KSampler.sed", "no value of the node"),
        ("KSampler.model", "no value of the node"),
    ],
)
def test_a_change_that_reaches_nothing_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        renders.changed(PROMPT, {change: 1})


def test_text_is_found_through_other_nodes():
    after = renders.with_text(PROMPT, "a red circle")
    assert (after["2"]["inputs"]["text"], after["3"]["inputs"]["text"]) == ("a red circle", "unwanted")
    after = renders.with_text(PROMPT, "dull", "negative")
    assert (after["2"]["inputs"]["text"], after["3"]["inputs"]["text"]) == ("wanted", "dull")
    with pytest.raises(ValueError, match="no text leads to"):
        renders.with_text({"5": PROMPT["5"]}, "x")


def test_files_and_size_fit_the_nodes_that_are_there(tmp_path):
    models = {
        "checkpoints": [tmp_path / "tiny_ad.safetensors"],
        "animatediff_models": [tmp_path / "mm.ckpt"],
    }
    after = renders.fitted(PROMPT, models)
    assert after["1"]["inputs"]["ckpt_name"] == "tiny_ad.safetensors"
    assert after["5"]["inputs"] == {"width": renders.SIZE, "height": renders.SIZE, "batch_size": 16}


def test_every_render_names_a_published_workflow():
    published = {path.stem for path in (renders.ROOT / "workflows").glob("*.json")}
    assert {render.workflow for render in renders.RENDERS} <= published
    for render in renders.RENDERS:
        renders.changed(renders.load_workflow(render.workflow), render.changes)
