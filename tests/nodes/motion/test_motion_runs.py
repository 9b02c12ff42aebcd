"""Values in whole runs: keyframes one after the other, repeated runs, and links that bring something odd."""

import logging

import numpy as np
import pytest
import torch
from animatediff_flipbook.motion_core.module.values import of_frames
from animatediff_flipbook.nodes.context.context import ContextWindows
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


def test_a_mask_for_a_long_clip_is_not_copied_for_all_of_it():
    mask = torch.rand(2, 3, 3)
    assert torch.equal(of_frames(mask, [0, 1, 10**11], 10**12), mask[[0, 1, 1]])


def test_a_call_multiplies_the_values_of_its_own_frames(tiny_model, motion_module, monkeypatch):
    rows, times = set(), motion_run.times

    def look(a, b):
        rows.update(one.shape[0] for one in (a, b) if isinstance(one, torch.Tensor))
        return times(a, b)

    monkeypatch.setattr(motion_run, "times", look)
    keyed = keyframe(effect=torch.rand(9, 3, 3))
    model = apply(tiny_model, motion_module(), motion_keyframes=keyed, effect_values=torch.rand(9))
    sample(ContextWindows.execute(model, length=4, overlap=1)[0], frames=9, steps=1)
    assert rows == {4}


def test_a_keyframe_whose_values_end_before_the_clip_is_told_of(tiny_model, motion_module, caplog):
    model = apply(tiny_model, motion_module(), motion_keyframes=keyframe(0.3, scale=[0.3, 1.4]))
    with caplog.at_level(logging.WARNING):
        sample(model, steps=1)
    told = [record.getMessage() for record in caplog.records if "2 values for scale" in record.getMessage()]
    assert len(told) == 1 and "keyframe at 0.3" in told[0]
