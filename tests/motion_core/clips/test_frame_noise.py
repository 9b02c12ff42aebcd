"""Noise for clips: variance, relations between frames, reproducibility, the order FreeNoise gives."""

import pytest
import torch
from animatediff_flipbook.motion_core.clips.frame_noise import (
    NOISE_KINDS,
    FrameNoise,
    draw_frame_noise,
    freenoise_order,
    seeds_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

SHAPE = (40, 4, 16, 16)


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()


@pytest.mark.parametrize("kind", NOISE_KINDS)
@pytest.mark.parametrize("frame_seeds", [None, (3, 900, 12)])
def test_same_seed_same_noise_whatever_the_global_generator(kind, frame_seeds):
    noise = FrameNoise(kind, seed=11, frame_seeds=frame_seeds)
    torch.manual_seed(1)
    first = draw_frame_noise(noise, SHAPE)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(draw_frame_noise(noise, SHAPE), first)
    assert first.shape == SHAPE
    assert first.dtype == torch.float32
    assert first.device.type == "cpu"
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())  # nothing was drawn from the global generator
    if frame_seeds is None:
        assert not torch.equal(draw_frame_noise(FrameNoise(kind, seed=12), SHAPE), first)


@pytest.mark.parametrize("kind", NOISE_KINDS)
def test_every_frame_is_standard_normal(kind):
    frames = draw_frame_noise(FrameNoise(kind, seed=4), (8, 4, 64, 64)).flatten(1)
    assert frames.mean(1).abs().max() < 0.03  # 16,384 values per frame: standard error 0.008
    assert (frames.std(1) - 1).abs().max() < 0.03


def test_independent_noise_is_comfyuis_own():
    expected = torch.randn(SHAPE, generator=torch.manual_seed(77))
    assert torch.equal(draw_frame_noise(FrameNoise(seed=77), SHAPE), expected)


def test_constant_noise_is_one_frame():
    frames = draw_frame_noise(FrameNoise("constant", seed=5), SHAPE)
    assert torch.equal(frames, frames[:1].expand_as(frames))
    assert torch.equal(frames[:1], draw_frame_noise(FrameNoise(seed=5), (1, *SHAPE[1:])))


@pytest.mark.parametrize("shared", [0.0, 0.3, 1.0])
def test_mixed_noise_correlates_by_the_shared_part(shared):
    frames = draw_frame_noise(FrameNoise("mixed", seed=6, shared=shared), (4, 4, 64, 64))
    assert correlation(frames[0], frames[3]) == pytest.approx(shared, abs=0.03)
    if shared == 0.0:
        torch.testing.assert_close(frames, draw_frame_noise(FrameNoise(seed=6), (4, 4, 64, 64)))


def test_repeated_noise_returns_after_the_length():
    frames = draw_frame_noise(FrameNoise("repeated", seed=7, length=16), SHAPE)
    assert torch.equal(frames[16:32], frames[:16])
    assert torch.equal(frames[32:], frames[:8])
    assert not torch.equal(frames[0], frames[1])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_freenoise_shuffles_groups_of_the_window_before(data):
    length = data.draw(st.integers(2, 24))
    overlap = data.draw(st.integers(0, length - 1))
    num_frames = data.draw(st.integers(1, 120))
    order = freenoise_order(num_frames, length, overlap, seed=data.draw(st.integers(0, 99)))
    group = length - overlap
    assert order[:length] == list(range(min(length, num_frames)))
    for place in range(length, num_frames, group):
        size = min(group, num_frames - place)
        source = order[place - length : place - length + group]
        assert len(set(order[place : place + size])) == size and set(order[place : place + size]) <= set(
            source
        )


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_longer_freenoise_clip_begins_as_the_shorter_one_up_to_its_last_whole_group(data):
    length = data.draw(st.integers(2, 24))
    overlap = data.draw(st.integers(0, length - 1))
    short, more = data.draw(st.integers(1, 80)), data.draw(st.integers(0, 40))
    whole = freenoise_order(short + more, length, overlap, seed=5)
    same = min(short, length) + max(0, short - length) // (length - overlap) * (length - overlap)
    assert freenoise_order(short, length, overlap, seed=5)[:same] == whole[:same]


def test_freenoise_cut_by_the_end_of_the_clip_shuffles_the_frames_that_are_left():
    """AnimateDiff-Evolved's rule: 11 frames, windows of 4 that move by 3: groups of 3, 3 and 1."""
    torch_order = torch.Generator().manual_seed(5)
    first = torch.randperm(3, generator=torch_order).tolist()
    second = torch.randperm(3, generator=torch_order).tolist()
    order = freenoise_order(11, 4, 1, seed=5)
    assert order[4:7] == first
    assert order[7:10] == [order[3 + i] for i in second]
    assert order[10] == order[6], "one frame is left, and takes the first of its group"


def test_freenoise_window_holds_the_first_windows_noises():
    """At a third of a window per group, every aligned window is a permutation of the first."""
    frames = draw_frame_noise(FrameNoise("freenoise", seed=3, length=12, overlap=8), (36, 1, 2, 2)).flatten(1)
    first = sorted(frames[:12].tolist())
    for start in range(0, 25, 4):
        assert sorted(frames[start : start + 12].tolist()) == first
    assert not torch.equal(frames[12:24], frames[:12])


def test_frame_seeds_fix_single_frames():
    frames = draw_frame_noise(FrameNoise(frame_seeds=(5, 5, 9)), (5, 4, 8, 8))
    assert torch.equal(frames[0], frames[1])
    assert torch.equal(frames[2], draw_frame_noise(FrameNoise(seed=9), (1, 4, 8, 8))[0])
    assert torch.equal(frames[3], draw_frame_noise(FrameNoise(frame_seeds=(10,)), (1, 4, 8, 8))[0])
    assert seeds_of((5, 5, 9), 5) == [5, 5, 9, 10, 11]
    assert seeds_of((5, 5, 9), 2) == [5, 5]


@pytest.mark.parametrize("kind", ["constant", "repeated", "freenoise"])
def test_frame_seeds_are_honoured_by_every_kind(kind):
    seeds = tuple(range(100, 140))
    own = draw_frame_noise(FrameNoise(frame_seeds=seeds), SHAPE)
    frames = draw_frame_noise(FrameNoise(kind, frame_seeds=seeds), SHAPE)
    assert torch.equal(frames[0], own[0])
    assert all(any(torch.equal(frame, candidate) for candidate in own[:16]) for frame in frames)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"kind": "pink"}, "independent"),
        ({"shared": 1.5}, "0..1"),
        ({"overlap": 16}, "smaller than the length"),
        ({"length": 0}, "at the earliest"),
        ({"seed": -1}, "seed"),
        ({"frame_seeds": ()}, "empty"),
    ],
)
def test_bad_settings_are_refused_with_a_sentence(bad, says):
    with pytest.raises(ValueError, match=says):
        FrameNoise(**bad)


def test_an_empty_clip_is_refused():
    with pytest.raises(ValueError, match="at least 1 frame"):
        draw_frame_noise(FrameNoise(), (0, 4, 8, 8))


@pytest.mark.parametrize("frame_seeds", [None, (7,), (3, 900, 12)])
@given(offset=st.integers(0, 9), num_frames=st.integers(1, 9))
def test_an_offset_leaves_out_the_first_frames_of_the_same_noise(frame_seeds, offset, num_frames):
    whole = draw_frame_noise(FrameNoise(seed=5, frame_seeds=frame_seeds), (offset + num_frames, 4, 3, 3))
    rest = FrameNoise(seed=5, frame_seeds=frame_seeds, offset=offset)
    assert torch.equal(draw_frame_noise(rest, (num_frames, 4, 3, 3)), whole[offset:])
    assert rest.is_plain == (not offset and frame_seeds is None)


def test_a_negative_offset_is_refused():
    with pytest.raises(ValueError, match="leave out 0 frames or more before the first, got -1"):
        FrameNoise(offset=-1)
