"""Exchanging values in a workflow: what is reached, and that a change which reaches nothing is refused."""

import copy
import importlib
from dataclasses import replace
from pathlib import Path

import pytest
from animatediff_flipbook.demo import gallery, renders
from PIL import Image, ImageColor

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
    with pytest.raises(ValueError, match="has a seed"):
        renders.with_seed({"5": PROMPT["5"]}, 3)


MODELS = {
    "checkpoints": [Path("tiny_ad.safetensors")],
    "animatediff_models": [Path("tiny_mm.safetensors")],
    "animatediff_motion_lora": [
        Path(f"{name}.safetensors")
        for name in ("pan_left", "pan_right", "roll_anticlockwise", "roll_clockwise", "zoom_in")
    ],
    "loras": [Path("adapter.safetensors")],
}


def test_every_render_becomes_a_prompt_of_its_published_workflow():
    published = {path.stem for path in (renders.ROOT / "workflows").glob("*.json")}
    every = (*renders.RENDERS, *renders.THUMBNAILS)
    assert {render.workflow for render in every} <= published
    assert len({render.name for render in every}) == len(every)
    for render in every:
        original, prompt = renders.load_workflow(render.workflow), renders.prompt_of(render, MODELS)
        assert {k: v["class_type"] for k, v in prompt.items()} == {
            k: v["class_type"] for k, v in original.items()
        }
        for key, node in prompt.items():
            links = {name: value for name, value in node["inputs"].items() if isinstance(value, list)}
            assert links.items() <= original[key]["inputs"].items(), "the graph must stay as published"
        by_kind = {node["class_type"]: node["inputs"] for node in prompt.values()}
        assert by_kind["CheckpointLoaderSimple"]["ckpt_name"] == "tiny_ad.safetensors"
        assert {inputs["seed"] for inputs in by_kind.values() if "seed" in inputs} == {render.seed}
        assert by_kind["EmptyLatentImage"]["width"] == renders.SIZE
        assert any(by_kind.get(kind, {}).get("steps") == renders.STEPS for kind in renders.SAMPLING_NODES)
        if render.workflow == "motion-lora":
            words = render.name.removeprefix("motion-lora-").replace("-", "_")
            name = words if render.section == renders.OTHERS else "pan_left"
            assert by_kind["FlipbookLoadMotionLora"]["motion_lora"] == f"{name}.safetensors"


def test_a_missing_model_is_named():
    render = next(render for render in renders.RENDERS if render.workflow == "motion-lora")
    with pytest.raises(LookupError, match=r"no file \*pan_left\* for animatediff_motion_lora"):
        renders.prompt_of(render, {**MODELS, "animatediff_motion_lora": [Path("zoom_in.safetensors")]})


@pytest.fixture
def animation(tmp_path):
    def make(name, colours):
        frames = [Image.new("RGB", (16, 16), colour) for colour in colours]
        path = tmp_path / f"{name}.webp"
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=100, lossless=True)
        return path

    return make


def test_only_what_moves_is_an_animation(animation):
    assert gallery.count_moving_frames(animation("moving", ["red", "blue", "green"])) == 3
    with pytest.raises(ValueError, match="one frame"):
        gallery.count_moving_frames(animation("picture", ["red"]))


def test_page_shows_every_result_and_escapes_prompts(animation, tmp_path):
    render = renders.Render("a", "text-to-animation", "One <section>", "cap", "<b>prompt</b>", seed=5)
    results = [
        renders.Result(render, animation("a", ["red", "blue"]), 2, 1.25),
        renders.Result(replace(render, section="Two"), animation("b", ["red", "blue"]), 2, 1.0),
    ]
    page = tmp_path / "index.html"
    gallery.write_page(results, page, "intro & more")
    text = page.read_text(encoding="utf-8")
    for words in (
        "One &lt;section&gt;",
        "&lt;b&gt;prompt",
        'src="a.webp"',
        'src="b.webp"',
        "seed 5",
        "&amp; more",
    ):
        assert words in text
    assert "<b>prompt" not in text


def test_strip_puts_animations_side_by_side(animation, tmp_path):
    paths = [animation("a", ["red", "blue"]), animation("b", ["green", "white", "black"])]
    gallery.write_strip(paths, tmp_path / "docs" / "hero.webp", size=32, gap=4)
    frames = gallery.read_frames(tmp_path / "docs" / "hero.webp")
    assert len(frames) == 2 and frames[0].size == (68, 32)
    assert frames[1].getpixel((16, 16))[2] > 200 and min(frames[1].getpixel((52, 16))) > 200


def test_thumbnail_shows_four_moments(animation, tmp_path):
    path = animation("a", ["red", "green", "blue", "white", "black", "red", "white"])
    gallery.write_thumbnail(path, tmp_path / "workflows" / "a.jpg", size=32)
    (page,) = gallery.read_frames(tmp_path / "workflows" / "a.jpg")
    assert page.size == (64, 64)
    # moments 0, 2, 4 and 6 of 7
    for place, expected in (((16, 16), "red"), ((48, 16), "blue"), ((16, 48), "black"), ((48, 48), "white")):
        got, wanted = page.getpixel(place), ImageColor.getrgb(expected)
        assert max(abs(a - b) for a, b in zip(got, wanted, strict=True)) < 40


def test_a_change_may_name_one_node():
    prompt = renders.load_workflow("fading-prompt")
    texts = [key for key, node in prompt.items() if node["class_type"] == "CLIPTextEncode"]
    found = renders.changed(prompt, {f"#{texts[1]}.text": "a red circle"})
    assert [found[key]["inputs"]["text"] == "a red circle" for key in texts] == [False, True, False]
    with pytest.raises(ValueError, match="#99"):
        renders.changed(prompt, {"#99.text": "a"})


def test_every_workflow_has_one_thumbnail_and_one_way_to_make_it(root, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(root / "demo"))
    thumbnails = importlib.import_module("animatediff_flipbook.demo.thumbnails")
    rendered = {render.workflow for render in (*renders.RENDERS, *renders.THUMBNAILS)}
    drawn = {path.stem for path in thumbnails.draw_thumbnails(tmp_path)}
    workflows = {path.stem for path in (root / "workflows").glob("*.json")}
    assert rendered | drawn == workflows and not rendered & drawn
    assert {path.stem for path in (root / "workflows").glob("*.jpg")} == workflows
    for path in (*(root / "workflows").glob("*.jpg"), *tmp_path.iterdir()):
        assert path.stat().st_size < 60_000
        (page,) = gallery.read_frames(path)
        assert page.width == page.height >= 256
        assert len(page.getcolors(1 << 24)) > 500, "more than a plain area"
