"""What is converted only where it is asked for."""

import pytest
from animatediff_flipbook.graphs.__main__ import main
from animatediff_flipbook.graphs.convert import convert
from support_graphs import Builder, faults, feeder, node, nodes_of, published, widgets

TEXT = '"0": "a cat",\n"16": "a dog"'
VALUES = [
    [TEXT, 48, "photo,", ", sharp", 0, 0, 0, 0],
    [TEXT, 48, False, "photo", "sharp", 0, 0, 0, 0, 0, 0],
]


def schedule(values, **links):
    build = Builder()
    build.add("CheckpointLoaderSimple", ["sd.ckpt"], (), ("MODEL:MODEL", "CLIP:CLIP", "VAE:VAE"))
    build.add("INTConstant", [32], (), ("value:INT",))
    build.add(
        "BatchPromptSchedule", values, (), ("POS:CONDITIONING", "NEG:CONDITIONING"), clip=(1, 1), **links
    )
    inputs = ("positive:CONDITIONING", "negative:CONDITIONING")
    build.add("KSampler", [1, "fixed", 8, 7.0, "euler", "normal", 1.0], inputs, (), positive=(3, 0))
    return build


@pytest.mark.parametrize("values", VALUES)
def test_a_schedule_of_fizznodes_becomes_ours_on_demand(values):
    graph = schedule(values, max_frames=(2, 0)).graph()
    assert convert(graph).graph == graph
    done = convert(graph, also=["fizznodes"])
    new = done.graph
    assert faults(new) == [] and nodes_of(new, "FlipbookPromptSchedule") == [3]
    shown = widgets(new, 3)
    assert (shown["prompts"], shown["frames"]) == (TEXT, 48)
    assert (shown["prepend"], shown["append"]) == ("photo", "sharp")
    assert feeder(new, 3, "frames") == (2, 0) and feeder(new, 3, "clip") == (1, 1)
    assert feeder(new, 4, "positive") == (3, 0)


@pytest.mark.parametrize("text", ['"0": "a cat --neg dog"', '"0": "(cat:`0.5*t`)"'])
def test_a_schedule_that_ours_cannot_read_stays(text):
    done = convert(schedule([text, 48, "", "", 0, 0, 0, 0]).graph(), also=["fizznodes"])
    assert node(done.graph, 3)["type"] == "BatchPromptSchedule" and done.report.of_kind("left")


def test_a_negative_output_in_use_keeps_the_schedule():
    build = schedule(VALUES[0])
    build.add("ConditioningSink", [], (), (), conditioning=(3, 1))
    done = convert(build.graph(), also=["fizznodes"])
    assert node(done.graph, 3)["type"] == "BatchPromptSchedule" and done.report.of_kind("left")


def test_a_published_schedule():
    new = convert(published("prompt-travel"), also=["fizznodes"]).graph
    assert faults(new) == [] and node(new, 38)["type"] == "FlipbookPromptSchedule"
    assert feeder(new, 38, "frames") is not None and widgets(new, 38)["append"].startswith("professional")


def test_an_unknown_offer_is_refused(capsys):
    with pytest.raises(ValueError, match="fizznodes"):
        convert(Builder().graph(), also=["other"])
    with pytest.raises(SystemExit):
        main(["convert", "x.json", "--also", "other"])
    assert "fizznodes" in capsys.readouterr().err
