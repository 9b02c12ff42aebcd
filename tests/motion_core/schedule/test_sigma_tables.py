"""Noise schedules by name: the tables of the field's pack, and AnimateLCM's own steps."""

import json

import pytest
import torch
from animatediff_flipbook.motion_core.schedule.sigma_tables import (
    LCM_I2V,
    LCM_T2V,
    NAMES,
    lcm_sigmas,
    lcm_timesteps,
    sigma_table,
)
from animatediff_flipbook.tests.support import GOLDEN
from comfy.ldm.modules.diffusionmodules.util import make_beta_schedule
from comfy.samplers import calculate_sigmas
from comfy_extras.nodes_model_advanced import ModelSamplingDiscreteDistilled

TABLES = json.loads((GOLDEN / "sched_tables.json").read_text())
RECIPES = json.loads((GOLDEN / "animatelcm" / "meta.json").read_text())["recipe"]
OURS = {"sqrt_linear (AnimateDiff)": "sqrt_linear", "linear (AnimateDiff-SDXL)": "linear_sdxl"}


@pytest.mark.parametrize("case", TABLES)
def test_published_schedules(case):
    """Our tables in ComfyUI's sampling, cut into steps by ComfyUI's schedulers."""
    name, scheduler, steps = case.split("|")
    table = sigma_table("lcm" if name == "comfy core lcm" else OURS.get(name, name))
    sampling = ModelSamplingDiscreteDistilled()
    sampling.skip_steps = table.skip
    sampling.set_sigmas(table.sigmas)
    found = calculate_sigmas(sampling, scheduler, int(steps))
    assert found.tolist() == pytest.approx(TABLES[case]["sigmas"], rel=1e-5, abs=2e-6)
    # A level half way between two entries of a distilled table belongs to either by its last bit.
    tie = table.skip if table.skip > 1 and scheduler == "sgm_uniform" else 0
    assert sampling.timestep(found[:-1]).tolist() == pytest.approx(TABLES[case]["timesteps"], abs=tie)


@pytest.mark.parametrize("name", ["sqrt", "cosine", "squaredcos_cap_v2", "linear", "sqrt_linear"])
def test_comfyuis_betas(name):
    betas = torch.as_tensor(make_beta_schedule(name, 1000, 0.00085, 0.012), dtype=torch.float64)
    alphas = torch.cumprod(1 - betas, dim=0)
    wanted = ((1 - alphas) / alphas).sqrt()
    # The very last signal of the cosines is all rounding: where it begins differs by a hair.
    assert torch.allclose(sigma_table(name).sigmas, wanted, rtol=1e-6)


def test_comfyuis_distilled_table():
    assert torch.allclose(
        sigma_table("lcm").sigmas.float(), ModelSamplingDiscreteDistilled().sigmas, rtol=1e-5
    )


def test_means_lie_between():
    low, high = sigma_table("linear").sigmas, sigma_table("sqrt_linear").sigmas
    mean = sigma_table("avg(sqrt_linear,linear)")
    assert torch.allclose(mean.sigmas, (low + high) / 2)
    distilled = sigma_table("lcm avg(sqrt_linear,linear)")
    assert torch.equal(distilled.sigmas, mean.sigmas[distilled.timesteps()])


@pytest.mark.parametrize("kind", ["t2v", "i2v"])
def test_the_authors_steps(kind):
    schedule, original = LCM_T2V if kind == "t2v" else LCM_I2V
    for steps, wanted in RECIPES[kind]["steps"].items():
        assert lcm_timesteps(int(steps), original) == wanted["timesteps"]
        found = lcm_sigmas(int(steps), schedule, original)
        assert found[:-1].tolist() == pytest.approx(wanted["sigmas"], rel=1e-5)
        assert found[-1] == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_tables_ascend_to_the_last_timestep(name):
    table = sigma_table(name)
    assert (table.sigmas.diff() > 0).all()
    assert int(table.timesteps()[-1]) == 999


def test_what_is_not_there_is_refused():
    with pytest.raises(ValueError, match="Unknown beta schedule 'cosinus'"):
        sigma_table("cosinus")
    with pytest.raises(ValueError, match="1 to 100 steps, got 101"):
        lcm_timesteps(101)
