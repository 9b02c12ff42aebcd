"""Every arm of every experiment at the smallest size: what it trains, samples and measures goes through."""

import math

import numpy as np
import pytest
import torch
from animatediff_flipbook.experiments import base, catalogue, results, stages
from animatediff_flipbook.experiments.bench import Bench
from animatediff_flipbook.experiments.convolution import ConvolutionModel
from animatediff_flipbook.tests.experiments.support_sizes import SIZES


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    lab = stages.Lab(tmp_path_factory.mktemp("lab"), 1, SIZES)
    return Bench(lab, {"moving": 4, "still": 2, "steps": 2, "cfg": 1.5})


@pytest.mark.slow
@pytest.mark.parametrize("name", [one.name for one in catalogue.experiments()])
def test_every_arm_runs_and_is_judged(bench, name):
    (one,) = (e for e in catalogue.experiments() if e.name == name)
    found = []
    for arm in one.script.arms(one.config):
        outcome = one.script.run(arm, bench, one.config | {"steps": 2})
        numbers = [v for values in outcome.samples.values() for v in values] + list(outcome.values.values())
        assert numbers and all(map(math.isfinite, numbers))
        found.append(results.Result(name, arm, 1, "", "", 0.0, dict(outcome.samples), dict(outcome.values)))
    table = results.Table(found)
    verdicts = one.script.judge(table, one.config)
    assert verdicts and all(one.text and one.figure for one in verdicts)
    for measure in one.config["measures"]:
        assert any(measure in result.samples or measure in result.values for result in found)


@pytest.mark.slow
def test_trained_parts_are_used_and_the_same_noise_serves_every_arm(bench):
    scenes = bench.scenes()
    alone = bench.shoot(bench.setup(), scenes).clips
    again = bench.shoot(bench.setup(), scenes).clips
    np.testing.assert_array_equal(alone, again)
    lora = bench.lab.motion_lora("zoom_in_rank2", rank=2, zoom=0.04)
    with_lora = bench.shoot(bench.setup(loras={lora: 1.0}), scenes).clips
    without = bench.shoot(bench.setup(loras={lora: 0.0}), scenes).clips
    assert np.abs(with_lora - alone).max() > 1e-5
    np.testing.assert_array_equal(without, alone)


def test_convolution_has_the_transformers_size_and_begins_as_the_identity():
    lab = stages.Lab(stages.state_folder(), 1, SIZES)
    sizes = {}
    for kind in ("attention", "convolution"):
        motion = lab.fresh_module(kind)
        sizes[kind] = sum(weight.numel() for weight in motion.parameters())
        assert isinstance(motion, ConvolutionModel) == (kind == "convolution")
        for _, module in motion.motion_modules():
            assert not module.temporal_transformer.proj_out.weight.any()
    assert sizes["convolution"] == pytest.approx(sizes["attention"], rel=0.02)


def test_words_and_latents_go_there_and_back():
    words = base.WordVectors()
    assert words(["a red ball", ""]).shape == (2, 16, 64)
    with pytest.raises(ValueError, match="no word 'purple'"):
        words(["a purple ball"])
    pixels = torch.rand(2, 3, 8, 8)
    latents = base.to_latents(pixels)
    assert latents.shape == (2, 4, 8, 8) and not latents[:, 3].any()
    np.testing.assert_allclose(base.to_pixels(latents), pixels.movedim(1, -1).numpy(), atol=1e-6)
