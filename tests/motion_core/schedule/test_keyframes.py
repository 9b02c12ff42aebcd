"""Values over the steps: the plans of the field's pack, call by call."""

import json

import pytest
from animatediff_flipbook.motion_core.schedule.keyframes import Keyframe, KeyframeSchedule, KeyframeState
from animatediff_flipbook.tests.support import GOLDEN

META = json.loads((GOLDEN / "ade_keyframes" / "meta.json").read_text())
NAMES = ("effect", "scale", "per_block")


def schedule_of(case):
    return KeyframeSchedule.of(
        [
            Keyframe(
                given["start"],
                {name: given.get(name) for name in NAMES},
                given.get("g", 1),
                given.get("inherit", True),
            )
            for given in case["keyframes"]
        ]
    )


def run(case, calls):
    """``(state, values)`` of every call."""
    schedule = schedule_of(case)
    starts = dict(zip([k["start"] for k in case["keyframes"]], case["keyframe_start_sigmas"], strict=False))
    sigmas = schedule.start_sigmas(lambda percent: starts[percent])
    state = KeyframeState()
    for sigma in calls:
        state = schedule.next_state(state, sigma, sigmas, max(case["sigmas"]))
        yield state, schedule.values_at(state.keyframe)


@pytest.mark.parametrize("name", META["cases"])
def test_plan(name):
    case = META["cases"][name]
    found = list(run(case, [call["sigma"] for call in case["calls"]]))
    assert [(state.keyframe, state.used) for state, _ in found] == [
        (call["keyframe"], call["used"]) for call in case["calls"]
    ]
    node = case["node"]
    for (_, values), call in zip(found, case["calls"], strict=True):
        for key in ("effect", "scale"):
            wanted, value = call[f"combined_{key}"], values.get(key, 1.0)
            if isinstance(wanted, float) and isinstance(value, float):
                assert value * node.get(f"{key}_multival", 1.0) == pytest.approx(wanted)
            else:
                assert isinstance(value, list) or isinstance(wanted, float)


def test_a_call_repeated_at_its_noise_level_changes_nothing():
    case = META["cases"]["guarantee"]
    calls = [call["sigma"] for call in case["calls"]]
    twice = [sigma for sigma in calls for _ in range(2)]
    assert [state for state, _ in run(case, twice)][::2] == [state for state, _ in run(case, calls)]


def test_nothing_is_inherited_over_a_keyframe_that_does_not_inherit():
    schedule = KeyframeSchedule.of(
        [
            Keyframe(0.0, {"scale": 2.0, "effect": 0.5}),
            Keyframe(0.5, {"effect": 0.1}, inherit_missing=False),
            Keyframe(0.8, {"scale": None}),
        ]
    )
    assert schedule.values_at(0) == {"scale": 2.0, "effect": 0.5}
    assert schedule.values_at(2) == {"effect": 0.1}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"start_percent": 1.5}, "start_percent"),
        ({"start_percent": 0.0, "guarantee_steps": -1}, "guarantee"),
    ],
)
def test_keyframes_outside_of_the_schedule_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        Keyframe(**fields)
