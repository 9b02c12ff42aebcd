"""The schedules by name, on a MODEL and in ComfyUI's schedulers."""

import json

import pytest
from animatediff_flipbook.motion_core.schedule.sigma_tables import NAMES, lcm_sigmas
from animatediff_flipbook.nodes.motion.apply import ApplyMotionModule
from animatediff_flipbook.tests.support import GOLDEN
from comfy.model_sampling import EPS
from comfy.samplers import calculate_sigmas
from comfy_extras.nodes_model_advanced import LCM, ModelSamplingDiscrete, ModelSamplingDiscreteDistilled

TABLES = json.loads((GOLDEN / "sched_tables.json").read_text())
DISTILLED = [case for case in TABLES if case.startswith("lcm")]


def sampling_of(model, module, choice):
    node = ApplyMotionModule.execute(model=model, motion_module=module, beta_schedule=choice)
    return node[0].get_model_object("model_sampling")


@pytest.mark.parametrize("case", DISTILLED)
def test_published_steps(case, tiny_model, motion_module):
    name, scheduler, steps = case.split("|")
    sampling = sampling_of(tiny_model, motion_module(), name)
    assert isinstance(sampling, EPS)
    sigmas = calculate_sigmas(sampling, scheduler, int(steps))
    assert sigmas.tolist() == pytest.approx(TABLES[case]["sigmas"], rel=1e-5, abs=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_keeps_the_kind_of_prediction(name, tiny_model, motion_module):
    lcm = ModelSamplingDiscrete().patch(tiny_model, "lcm", False)[0]
    sampling = sampling_of(lcm, motion_module(), name)
    assert isinstance(sampling, LCM)
    assert isinstance(sampling, ModelSamplingDiscreteDistilled)
    assert int(sampling.timestep(sampling.sigma_max)) == 999
    assert float(sampling.sigma(sampling.timestep(sampling.sigmas[3]))) == pytest.approx(
        float(sampling.sigmas[3]), rel=1e-4
    )


def test_auto_of_animatelcm_is_its_lcm_schedule(tiny_model, motion_module):
    module = motion_module("animatelcm")
    auto, lcm = (sampling_of(tiny_model, module, choice) for choice in ("auto", "lcm"))
    assert auto.sigmas.tolist() == lcm.sigmas.tolist()
    authors = calculate_sigmas(sampling_of(tiny_model, module, "sqrt_linear"), "simple", 4)
    assert authors.tolist() == pytest.approx(lcm_sigmas(4).tolist(), rel=1e-5)
