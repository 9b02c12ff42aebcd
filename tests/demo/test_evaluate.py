"""The evaluation's arithmetic: which samples make up which figure."""

import importlib

import pytest


@pytest.fixture
def evaluate(root, monkeypatch):
    """The script as a module; it finds its neighbours as scripts do."""
    monkeypatch.syspath_prepend(str(root / "demo"))
    return importlib.import_module("animatediff_flipbook.demo.evaluate")


def found(**values):
    plain = {
        "direction": False,
        "colour": True,
        "watermark": 0.1,
        "sharpness": 1.0,
        "zoom": 0.0,
        "pan_x": 0.0,
        "roll": 0.0,
        "shape": False,
        "one_object": True,
    }
    return plain | values


def test_each_figure_comes_from_its_own_series(evaluate):
    def sample(series, number, **options):
        return evaluate.Sample(series, number, "moving left", **options)

    results = {
        sample("alpha_0", 0): found(direction=True, watermark=0.2, sharpness=3.0, shape=True),
        sample("alpha_0", 1): found(direction=True, watermark=0.0, sharpness=1.0, one_object=False),
        sample("motion_off", 0, motion=False): found(direction=True),
        sample("motion_off", 1, motion=False): found(),
        sample("alpha_1", 0, alpha=1.0): found(watermark=0.5),
        sample("loop", 0): {"closure": 0.5},
        sample("loop", 8): {"closure": 0.7},
        sample("travel", 0): {"travel": 1.0, "turned": 32},
        sample("travel", 8): {"travel": 0.5, "turned": 64},
        sample("tiny_zoom_in", 0, lora="tiny_zoom_in"): found(zoom=0.02),
        sample("tiny_zoom_in", 2, lora="tiny_zoom_in"): found(zoom=-0.01),
        sample("tiny_zoom_out", 1, lora="tiny_zoom_out"): found(zoom=-0.02),
        sample("tiny_zoom_out", 3, lora="tiny_zoom_out"): found(zoom=-0.02),
        sample("tiny_roll_anticlockwise", 1, lora="tiny_roll_anticlockwise"): found(roll=-0.75),
    }
    figures = evaluate.figures(results)
    assert figures["samples"] == 2
    assert figures["direction_accuracy"] == 1.0
    assert figures["direction_accuracy_motion_off"] == 0.5
    assert figures["watermark_ratio"] == pytest.approx(0.2)
    assert figures["sharpness_ratio"] == pytest.approx(2.0)
    assert figures["shape_accuracy"] == 0.5
    assert figures["one_object"] == 0.5
    assert figures["zoom_sign"] == 0.75
    assert figures["zoom_size"] == pytest.approx((0.02 - 0.01 + 0.02 + 0.02) / 4 / 0.022, abs=1e-3)
    assert figures["roll_sign"] == 1.0
    assert figures["roll_size"] == pytest.approx(0.5)
    assert figures["loop_closure"] == pytest.approx(0.6)
    assert figures["travel_accuracy"] == pytest.approx(0.75)
    assert figures["travel_frame"] == pytest.approx(48)
    assert figures["pan_sign"] is None, "no such MotionLoRA took part"


def test_a_plan_takes_the_directions_in_turn_and_pairs_noise_and_prompt(evaluate, tmp_path):
    for folder, name in (("loras", "tiny_adapter"), ("animatediff_motion_lora", "tiny_zoom_out")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.safetensors").touch()
    samples = evaluate.plan(8, tmp_path)
    by_series = {}
    for sample in samples:
        by_series.setdefault(sample.series, []).append(sample)
    short = {"motion_off", "alpha_0", "alpha_0.5", "alpha_1", "tiny_zoom_out"}
    assert by_series.keys() == short | {"loop", "travel"}
    words = [sample.words for sample in by_series["alpha_0"]]
    assert sorted(words) == sorted(evaluate.DIRECTIONS * 2)
    for series in ("motion_off", "alpha_0.5", "alpha_1"):
        assert [(s.number, s.words) for s in by_series[series]] == list(zip(range(8), words, strict=True))
    assert not any(sample.motion for sample in by_series["motion_off"])


def test_long_clips_are_an_eighth_of_the_samples(evaluate):
    samples = [
        sample for sample in evaluate.plan(9, evaluate.MODELS) if sample.series in evaluate.LONG_FRAMES
    ]
    assert [(sample.series, sample.number, sample.frames) for sample in samples] == [
        ("loop", 0, 48),
        ("travel", 0, 64),
        ("loop", 8, 48),
        ("travel", 8, 64),
    ]
    assert evaluate.plan(1, evaluate.MODELS)[0].frames == 16


def test_a_travelling_prompt_changes_to_another_colour(evaluate):
    from animatediff_flipbook.demo import world

    for number in range(12):
        scene = world.scene(5000, number)
        assert evaluate.second_colour(scene) in set(world.COLOURS) - {scene.colour}
