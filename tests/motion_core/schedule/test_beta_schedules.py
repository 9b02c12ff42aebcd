"""Noise schedules: the betas of both names, against the table of the papers and ComfyUI's own sampling."""

from types import SimpleNamespace

import pytest
import torch
from animatediff_flipbook.motion_core.schedule import beta_schedules as schedules
from animatediff_flipbook.motion_core.schedule.beta_schedules import (
    LINEAR,
    LINEAR_SDXL,
    SQRT_LINEAR,
    BetaSchedule,
)
from comfy.model_sampling import ModelSamplingDiscrete

I2V = BetaSchedule("sqrt_linear", end=0.014)


@pytest.mark.parametrize(
    ("schedule", "signal", "snr", "sigma_max", "sigma_499"),
    [
        (SQRT_LINEAR, 0.0397, 1.58e-3, 25.15, 2.276),
        (I2V, 0.0240, 5.76e-4, 41.67, 2.635),
        (LINEAR, 0.0683, 4.68e-3, 14.61, 1.613),
        (LINEAR_SDXL, 0.0152, 2.30e-4, 65.93, 2.209),
    ],
)
def test_published_values(schedule, signal, snr, sigma_max, sigma_499):
    alphas, sigmas = schedules.alphas_cumprod(schedule), schedules.sigmas(schedule)
    assert alphas.shape == sigmas.shape == (1000,)
    assert float(alphas[-1].sqrt()) == pytest.approx(signal, rel=5e-3)
    assert float(alphas[-1] / (1 - alphas[-1])) == pytest.approx(snr, rel=5e-3)
    assert float(sigmas[-1]) == pytest.approx(sigma_max, rel=5e-4)
    assert float(sigmas[499]) == pytest.approx(sigma_499, rel=5e-4)
    assert float(sigmas[0]) == pytest.approx(0.0292, rel=5e-3)
    assert (sigmas.diff() > 0).all()


@pytest.mark.parametrize(
    "schedule", [SQRT_LINEAR, I2V, LINEAR, LINEAR_SDXL, BetaSchedule("linear", 0.001, 0.03)]
)
def test_comfyui_means_the_same_by_the_name(schedule):
    settings = {
        "beta_schedule": schedule.name,
        "linear_start": schedule.start,
        "linear_end": schedule.end,
    }
    theirs = ModelSamplingDiscrete(SimpleNamespace(sampling_settings=settings)).sigmas
    assert torch.allclose(schedules.sigmas(schedule).float(), theirs, rtol=1e-5)


def test_the_two_names_are_not_confused():
    """sqrt_linear is evenly spaced in beta, linear in its root: the field's naming trap."""
    steps = schedules.betas(SQRT_LINEAR).diff()
    assert torch.allclose(steps, steps[0].expand(999), rtol=1e-6)
    steps = schedules.betas(LINEAR).sqrt().diff()
    assert torch.allclose(steps, steps[0].expand(999), rtol=1e-6)
    for schedule in (SQRT_LINEAR, LINEAR, LINEAR_SDXL):
        betas = schedules.betas(schedule)
        assert betas.dtype == torch.float64
        assert float(betas[0]) == pytest.approx(schedule.start)
        assert float(betas[-1]) == pytest.approx(schedule.end)


def test_the_text_for_users_names_it():
    assert str(SQRT_LINEAR) == "sqrt_linear 0.00085..0.012"
    assert str(LINEAR_SDXL) == "linear 0.00085..0.02"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("scaled_linear",), "scaled_linear"),
        (("linear", 0.0), "0 < start"),
        (("linear", 0.02, 0.01), "start < end"),
        (("linear", 0.1, 1.0), "end < 1"),
        (("linear", float("nan")), "nan"),
    ],
)
def test_impossible_schedules_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        BetaSchedule(*arguments)
