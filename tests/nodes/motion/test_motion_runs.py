"""Values in whole runs: keyframes one after the other, repeated runs, and links that bring something odd."""

import numpy as np
import pytest
import torch
from animatediff_flipbook.nodes.motion import motion_run
from animatediff_flipbook.nodes.noise.model_free_init import ModelFreeInit
from animatediff_flipbook.tests.nodes.motion.test_apply import apply, sample
from animatediff_flipbook.tests.nodes.motion.test_motion_values import keyframe, value


@pytest.fixture
def scales(monkeypatch):
    """Scale at each noise level of a run."""
    seen = []
    make = motion_run._motion_call

    def look(applied, values, motion, x, t, *rest):
        call = make(applied, values, motion, x, t, *rest)
        entry = (float(t.flatten()[0]), call.scale)
        if seen[-1:] != [entry]:
            seen.append(entry)
        return call

    monkeypatch.setattr(motion_run, "_motion_call", look)
    return seen


def three(**later):
    first = keyframe(0.0, scale=0.1)
    return keyframe(0.5, scale=0.3, previous=keyframe(0.2, scale=0.2, previous=first, **later))


def test_a_third_keyframe_has_its_turn(tiny_model, motion_module, scales):
    """A keyframe that is guaranteed a step ends after it: the run remembers between calls."""
    model = apply(tiny_model, motion_module(), motion_keyframes=three())
    sample(model, steps=8)
    assert [scale for _, scale in scales] == [0.1] * 2 + [0.2] * 2 + [0.3] * 4


def test_guaranteed_steps_are_counted(tiny_model, motion_module, scales):
    sample(apply(tiny_model, motion_module(), motion_keyframes=three(guarantee_steps=4)), steps=8)
    assert [scale for _, scale in scales] == [0.1] * 2 + [0.2] * 4 + [0.3] * 2


@pytest.mark.parametrize("free_init_first", [True, False])
def test_keyframes_begin_anew_with_each_iteration_of_free_init(
    tiny_model, motion_module, scales, free_init_first
):
    model = ModelFreeInit.execute(tiny_model, iterations=2)[0] if free_init_first else tiny_model
    model = apply(model, motion_module(), motion_keyframes=three())
    model = model if free_init_first else ModelFreeInit.execute(model, iterations=2)[0]
    sample(model, steps=4)
    assert [scale for _, scale in scales] == [0.1, 0.2, 0.3, 0.3] * 2


@pytest.mark.parametrize("given", [0.5, np.float32(0.5), [0.5, 1.0], True])
def test_numbers_are_no_masks(given):
    with pytest.raises(ValueError, match="mask got .*expected"):
        value(mask=given, values=[1.0, 2.0])


def test_complex_numbers_are_refused():
    with pytest.raises(ValueError, match="expected a number"):
        value(values=torch.tensor([1j]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_values_of_two_devices_meet():
    given = value(values=torch.ones(2, device="cuda"), mask=torch.ones(1, 2, 2))
    assert given.device.type == "cpu"
