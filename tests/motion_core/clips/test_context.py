"""Context windows: coverage and range for every setting, exact lists, and ComfyUI's core as an oracle."""

import inspect
from types import SimpleNamespace

import comfy.context_windows as core
import pytest
import torch
from animatediff_flipbook.motion_core.clips.context import (
    FUSE_METHODS,
    SCHEDULES,
    ContextOptions,
    ContextWindow,
    context_windows,
    needs_windows,
    ordered_halving,
    position_in,
    step_at,
)
from animatediff_flipbook.motion_core.clips.context_fuse import fused_weights, window_weights
from hypothesis import given, settings
from hypothesis import strategies as st


@st.composite
def cases(draw):
    """Any clip of 1 to 300 frames, any legal options, any step of a run."""
    length = draw(st.integers(1, 40))
    options = ContextOptions(
        length=length,
        overlap=draw(st.integers(0, length - 1)),
        stride=draw(st.integers(1, 6)),
        schedule=draw(st.sampled_from(SCHEDULES)),
        fuse=draw(st.sampled_from(FUSE_METHODS)),
        closed_loop=draw(st.booleans()),
    )
    return options, draw(st.integers(1, 300)), draw(st.integers(0, 60))


@settings(max_examples=400, deadline=None)
@given(cases())
def test_every_frame_is_covered_and_every_index_exists(case):
    options, num_frames, step = case
    windows = context_windows(options, num_frames, step)
    assert set().union(*(window.indices for window in windows)) == set(range(num_frames))
    for window in windows:
        assert all(0 <= index < num_frames for index in window.indices)
        assert len(set(window.indices)) == len(window)
        assert len(window) <= options.length
        assert len(window) >= 2 or 1 in (num_frames, options.length)
        if options.schedule != "batched":
            assert len(window) == min(options.length, num_frames)
    assert len(set(windows)) == len(windows)


@settings(max_examples=300, deadline=None)
@given(cases(), st.floats(0.0, 20.0))
def test_weights_are_positive_and_fuse_to_one(case, sigma):
    options, num_frames, step = case
    windows = context_windows(options, num_frames, step)
    total = torch.zeros(num_frames)
    for number, window in enumerate(windows):
        raw = window_weights(window, options, num_frames, sigma=sigma, seed=5, step=step, number=number)
        assert len(raw) == len(window)
        assert min(raw) > 0.0
    for window, weights in zip(
        windows, fused_weights(windows, options, num_frames, sigma=sigma, seed=5, step=step), strict=True
    ):
        assert weights.dtype == torch.float32
        assert weights.shape == (len(window),)
        total[list(window.indices)] += weights
    torch.testing.assert_close(total, torch.ones(num_frames), rtol=0, atol=2e-6)


@pytest.mark.parametrize("schedule", ["standard_static", "standard_uniform", "looped_uniform", "batched"])
def test_stride_1_gives_the_windows_of_comfyui(schedule):
    """Core is right at stride 1: a grid over clip, length, overlap and step must agree list by list."""
    oracle = core.get_matching_context_schedule(schedule).func
    compared = 0
    for length in (2, 3, 5, 8, 16):
        for overlap in sorted({0, 1, length // 4, length // 2, length - 1} & set(range(length))):
            for num_frames in range(length + 1, 4 * length + 4, 1 + length // 5):
                for step in range(9):
                    for closed_loop in (False, True):
                        handler = SimpleNamespace(
                            context_length=length,
                            context_overlap=overlap,
                            context_stride=1,
                            closed_loop=closed_loop,
                            _step=step,
                        )
                        expected = oracle(num_frames, handler, {})
                        if schedule == "batched" and len(expected[-1]) == 1:
                            continue  # the one deliberate difference, see the table below
                        options = ContextOptions(length, overlap, 1, schedule, closed_loop=closed_loop)
                        got = [list(window.indices) for window in context_windows(options, num_frames, step)]
                        assert got == expected, (num_frames, handler)
                        compared += 1
    assert compared > 500


def spans(*bounds):
    """``(a, b)`` -> the frames a .. b, both included."""
    return [list(range(first, last + 1)) for first, last in bounds]


EXACT = {
    "static ends with the clip": (
        ContextOptions(16, 4),
        48,
        3,
        spans((0, 15), (12, 27), (24, 39), (32, 47)),
    ),
    "static that fits needs no extra window": (ContextOptions(8, 4), 16, 0, spans((0, 7), (4, 11), (8, 15))),
    "static, clip no longer than a window": (ContextOptions(16, 4), 16, 0, spans((0, 15))),
    "batched keeps a short tail": (
        ContextOptions(16, schedule="batched"),
        37,
        0,
        spans((0, 15), (16, 31), (32, 36)),
    ),
    "batched extends a tail of one": (
        ContextOptions(16, schedule="batched"),
        33,
        0,
        spans((0, 15), (16, 31), (31, 32)),
    ),
    "uniform, step 0": (
        ContextOptions(8, 2, schedule="standard_uniform"),
        20,
        0,
        spans((0, 7), (6, 13), (12, 19)),
    ),
    # Step 1: halving 1/2, pad 10: 10-17, 16-23 -> pushed back to 12-19 with 0-7 inserted, 22-29 = 2-9.
    "uniform, step 1 pushes back what leaves the clip": (
        ContextOptions(8, 2, schedule="standard_uniform"),
        20,
        1,
        spans((10, 17), (12, 19), (0, 7), (2, 9)),
    ),
    "looped, step 1 runs over the end": (
        ContextOptions(8, 2, schedule="looped_uniform"),
        20,
        1,
        [*spans((10, 17)), [16, 17, 18, 19, 0, 1, 2, 3], *spans((2, 9))],
    ),
    # Step 2: halving 1/4, pad 5, up to 20 + 5: 5-12, 11-18, 17-24, and over the seam 23-30.
    "closed loop adds the windows of the last overlap": (
        ContextOptions(8, 2, schedule="looped_uniform", closed_loop=True),
        20,
        2,
        [*spans((5, 12), (11, 18)), [17, 18, 19, 0, 1, 2, 3, 4], *spans((3, 10))],
    ),
    "stride 2 looks at every second frame too": (
        ContextOptions(4, 1, stride=2, schedule="looped_uniform"),
        8,
        0,
        [*spans((0, 3), (3, 6)), [6, 7, 0, 1], [0, 2, 4, 6]],
    ),
    # Core leaves frame 0 of this one uncovered and points at frames 17 and 19: its strided window cannot fit.
    "stride 2 that does not fit": (
        ContextOptions(16, 4, stride=2, schedule="standard_uniform"),
        17,
        2,
        spans((1, 16), (0, 15)),
    ),
}


@pytest.mark.parametrize("name", EXACT)
def test_exact_windows(name):
    options, num_frames, step, expected = EXACT[name]
    assert [list(window.indices) for window in context_windows(options, num_frames, step)] == expected


def test_a_wrapped_window_says_so_and_counts_on():
    options = ContextOptions(8, 2, schedule="looped_uniform")
    wraps = [window.wraps for window in context_windows(options, 20, 1)]
    assert wraps == [False, True, False]
    assert ContextWindow((18, 19, 0, 1), wraps=True).unwrapped(20) == (18, 19, 20, 21)
    assert ContextWindow((2, 4, 6)).unwrapped(20) == (2, 4, 6)


def test_a_clip_no_longer_than_a_window_is_cut_only_to_close_a_loop():
    assert not needs_windows(ContextOptions(16), 16)
    assert needs_windows(ContextOptions(16), 17)
    loop = ContextOptions(16, schedule="looped_uniform", closed_loop=True)
    assert not needs_windows(loop, 1)
    for num_frames in (2, 3, 12, 15, 16):
        assert needs_windows(loop, num_frames)
        for step in range(4):
            windows = context_windows(loop, num_frames, step)
            assert any(window.wraps for window in windows)
            assert all(len(window) == num_frames for window in windows)


def test_ordered_halving_lands_between():
    assert [ordered_halving(step) for step in range(8)] == [0, 0.5, 0.25, 0.75, 0.125, 0.625, 0.375, 0.875]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"overlap": 16}, "smaller than the context length"),
        ({"overlap": -1}, "at least 0"),
        ({"length": 0, "overlap": 0}, "at least 1 frame"),
        ({"stride": 0}, "stride"),
        ({"schedule": "spiral"}, "standard_static"),
        ({"fuse": "mean"}, "pyramid"),
    ],
)
def test_bad_options_are_refused_with_a_sentence(bad, says):
    with pytest.raises(ValueError, match=says):
        ContextOptions(**bad)


def test_bad_clips_and_steps_are_refused():
    with pytest.raises(ValueError, match="at least 1 frame"):
        context_windows(ContextOptions(), 0)
    with pytest.raises(ValueError, match="counts from 0"):
        context_windows(ContextOptions(), 20, -1)


def raw(fuse, length, num_frames=100, start=40, sigma=2.0, **options):
    window = ContextWindow(tuple(range(start, start + length)))
    return window_weights(window, ContextOptions(16, fuse=fuse, **options), num_frames, sigma=sigma)


def test_weights_by_position():
    assert raw("flat", 3) == [1, 1, 1]
    assert raw("pyramid", 6) == [1, 2, 3, 3, 2, 1]
    assert raw("pyramid", 5) == [1, 2, 3, 2, 1]
    assert raw("delayed reverse sawtooth", 6) == [0.01, 0.01, 3, 3, 2, 1]
    assert raw("delayed reverse sawtooth", 5) == [0.01, 0.01, 3, 2, 1]
    assert raw("pyramid-sigma", 5, sigma=4.0) == raw("pyramid", 5) == raw("pyramid-sigma", 5, sigma=30.0)
    assert raw("pyramid-sigma", 5, sigma=0.0) == [0.001, 0.001, 3, 0.001, 0.001]
    assert raw("pyramid-sigma", 6, sigma=0.0) == [0.001, 0.001, 3, 3, 0.001, 0.001]
    # Half way: (1 - 3) / 2, (2 - 3) / 2 and 3, cut off at 0.001.
    assert raw("pyramid-sigma", 5, sigma=2.0) == [0.001, 0.001, 3, 0.001, 0.001]
    assert raw("pyramid-sigma inverse", 5, sigma=0.0) == raw("pyramid", 5)


def test_gauss_widens_with_the_noise_and_narrows_inverted():
    narrow, wide = raw("gauss-sigma", 5, sigma=0.0), raw("gauss-sigma", 5, sigma=4.0)
    bell = torch.exp(-(torch.arange(-2.0, 3.0) ** 2) / 2)
    torch.testing.assert_close(torch.tensor(narrow), bell * 3 / bell.norm())
    assert max(wide) / min(wide) < 1.1 < max(narrow) / min(narrow)
    assert raw("gauss-sigma inverse", 5, sigma=0.0) == wide


@pytest.mark.parametrize("length", [4, 7, 16])
@pytest.mark.parametrize("method", ["flat", "pyramid"])
def test_position_weights_agree_with_comfyui(method, length):
    assert raw(method, length) == [float(weight) for weight in core.FUSE_MAPPING[method](length)]


@pytest.mark.parametrize("start", [0, 40, 84])
def test_overlap_linear_agrees_with_comfyui_where_nothing_wraps(start):
    theirs = core.create_weights_overlap_linear
    newer = "context_overlap" in inspect.signature(theirs).parameters  # older versions ask their handler
    told = {"context_overlap": 5} if newer else {"handler": SimpleNamespace(context_overlap=5)}
    expected = theirs(16, 100, list(range(start, start + 16)), **told)
    torch.testing.assert_close(torch.tensor(raw("overlap-linear", 16, start=start, overlap=5)), expected)


def test_overlap_linear_blends_a_wrapped_window_at_both_ends():
    """It holds the first and the last frame of the clip, but begins and ends at neither."""
    window = ContextWindow(tuple(i % 40 for i in range(32, 48)), wraps=True)
    weights = window_weights(window, ContextOptions(16, 4, fuse="overlap-linear"), 40)
    assert weights[0] == weights[-1] == 1e-37
    assert weights[4:12] == [1.0] * 8


def test_relative_is_cores_running_mean():
    """Core blends window by window with a running weight; the closed form must give the same average."""
    options = ContextOptions(8, 5, fuse="relative")
    windows = context_windows(options, 20)
    outputs = [
        torch.randn(8, generator=torch.Generator().manual_seed(number)) for number in range(len(windows))
    ]
    mean, weight_so_far = torch.zeros(20), torch.zeros(20)
    for window, output in zip(windows, outputs, strict=True):
        first, last = window.indices[0], window.indices[-1]
        for place, frame in enumerate(window.indices):
            bias = max(1e-2, 1 - abs(frame - (first + last) / 2) / ((last - first + 1e-2) / 2))
            share = bias / (weight_so_far[frame] + bias)
            mean[frame] = mean[frame] * (1 - share) + output[place] * share
            weight_so_far[frame] += bias
    fused = torch.zeros(20)
    for window, output, weights in zip(windows, outputs, fused_weights(windows, options, 20), strict=True):
        fused[list(window.indices)] += weights * output
    torch.testing.assert_close(fused, mean, rtol=0, atol=1e-6)


def test_relative_weighs_a_wrapped_window_as_one_stretch():
    options = ContextOptions(8, fuse="relative")
    straight = window_weights(ContextWindow(tuple(range(8))), options, 20)
    wrapped = window_weights(ContextWindow((17, 18, 19, 0, 1, 2, 3, 4), wraps=True), options, 20)
    assert wrapped == pytest.approx(straight)


def test_random_weights_follow_seed_step_and_window():
    options = ContextOptions(16, fuse="random")
    window = ContextWindow(tuple(range(16)))

    def draw(**which):
        return window_weights(window, options, 40, **which)

    torch.manual_seed(1)
    first = draw(seed=7, step=2, number=1)
    torch.manual_seed(2)
    assert draw(seed=7, step=2, number=1) == first
    for other in (
        {"seed": 8, "step": 2, "number": 1},
        {"seed": 7, "step": 3, "number": 1},
        {"seed": 7, "step": 2},
    ):
        assert draw(**other) != first
    assert all(0.001 <= weight <= 8.001 for weight in first)


@pytest.mark.parametrize("fuse", FUSE_METHODS)
def test_a_single_window_has_weight_exactly_one(fuse):
    options = ContextOptions(16, fuse=fuse)
    (weights,) = fused_weights(context_windows(options, 16), options, 16, sigma=1.0)
    assert weights.tolist() == [1.0] * 16


def test_step_of_a_noise_level():
    sigmas = [14.6, 5.0, 1.0, 0.3, 0.0]
    assert [step_at(sigma, sigmas) for sigma in (14.6, 5.0, 1.0, 0.3, 0.0)] == [0, 1, 2, 3, 4]
    assert step_at(5.0 * (1 + 5e-5), sigmas) == 1  # rounding on the way through a half-precision sampler
    assert step_at(2.5, sigmas) == 1  # between two levels: still in step 1
    assert step_at(99.0, sigmas) == 0


def test_steps_count_from_the_start_where_the_noise_grows():
    """A flipped schedule takes a picture back to noise."""
    sigmas = [1e-4, 0.3, 1.0, 5.0, 14.6]
    assert [step_at(sigma, sigmas) for sigma in sigmas] == [0, 1, 2, 3, 4]
    assert step_at(2.5, sigmas) == 2
    assert step_at(5.0 * (1 - 5e-5), sigmas) == 3
    assert step_at(0.0, sigmas) == 0


def test_position_of_a_partial_run():
    whole = [14.6, 8.0, 5.0, 2.0, 1.0, 0.3, 0.0]
    assert position_in(whole, whole) == 0
    assert position_in([5.0, 2.0, 1.0], whole) == 2
    assert position_in([1.0, 0.3, 0.0], whole) == 4
    assert position_in([5.0, 2.0, 0.0], whole) == 2  # a run that ends early and is told to finish
    assert position_in([5.0, 1.0], whole) is None
    assert position_in([0.0], whole) is None
