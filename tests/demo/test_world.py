"""The world is a pure function of its numbers, captioned by a vocabulary the tiny family reads."""

import av
import numpy as np
import pytest
from animatediff_flipbook.demo import world
from animatediff_flipbook.demo.tiny_family import tokenizer


def test_same_numbers_same_clip():
    first, caption = world.clip(5, 7)
    again, caption_again = world.clip(5, 7)
    assert np.array_equal(first, again)
    assert caption == caption_again
    assert first.shape == (16, 128, 128, 3)
    assert first.dtype == np.float32
    assert 0 <= first.min() < first.max() <= 1
    assert not np.array_equal(first, world.clip(5, 8)[0])
    assert not np.array_equal(first, world.clip(6, 7)[0])


def test_every_word_of_every_caption_is_in_the_vocabulary():
    words = tokenizer.WordTokenizer(tokenizer.read_vocabulary())
    for index in range(200):
        assert tokenizer.UNKNOWN not in words(world.scene(1, index).caption)["input_ids"]


def test_moving_shapes_stay_in_the_picture():
    for index in range(60):
        content = world.scene(2, index, world.MOTIONS[index % 4])
        ends = [
            content.centre[axis] + sign * step * content.travel / 2
            for sign in (-1, 1)
            for axis, step in enumerate(world.DIRECTIONS[content.motion.split()[-1]])
        ]
        assert min(ends) > 4
        assert max(ends) < 124


def test_a_motion_can_be_chosen_without_changing_the_rest():
    left, right = world.scene(1, 3, "moving left"), world.scene(1, 3, "moving right")
    assert (left.colour, left.shape, left.centre) == (right.colour, right.shape, right.centre)
    with pytest.raises(ValueError, match="sideways"):
        world.scene(1, 3, "sideways")


def test_unknown_domain_is_refused():
    with pytest.raises(ValueError, match="film"):
        world.clip(1, 1, "film")


def test_clips_on_disk_hold_the_frames_and_are_not_written_twice(tmp_path):
    world.write_clips(tmp_path, seed=4, count=2, motions=("moving left", "growing"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "000000.mp4",
        "000000.txt",
        "000001.mp4",
        "000001.txt",
    ]
    frames, caption = world.clip(4, 1, "video", "growing")
    assert (tmp_path / "000001.txt").read_text().strip() == caption
    with av.open(str(tmp_path / "000001.mp4")) as container:
        assert container.streams.video[0].average_rate == world.FPS
        read = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]) / 255
    assert read.shape == frames.shape
    assert np.abs(read - frames).mean() < 0.02
    before = (tmp_path / "000000.mp4").stat().st_mtime_ns
    world.write_clips(tmp_path, seed=4, count=2, motions=("moving left", "growing"))
    assert (tmp_path / "000000.mp4").stat().st_mtime_ns == before


def test_drawn_cameras_zoom_and_pan_both_ways_and_each_clip_keeps_its_own(tmp_path):
    cameras = [world.drawn_camera(3, index) for index in range(400)]
    assert cameras == [world.drawn_camera(3, index) for index in range(400)]
    moves = {
        kind: [getattr(camera, kind) for camera in cameras if getattr(camera, kind)]
        for kind in ("zoom", "pan_x", "pan_y")
    }
    assert sum(map(len, moves.values())) == 400  # each camera does one thing
    assert 0.4 < len(moves["zoom"]) / 400 < 0.6
    for kind, low, high in (("zoom", 0.02, 0.04), ("pan_x", 1.5, 3.0), ("pan_y", 1.5, 3.0)):
        assert all(low <= abs(rate) <= high for rate in moves[kind])
        assert 0.3 < np.mean(np.array(moves[kind]) > 0) < 0.7

    world.write_clips(tmp_path, 3, 1, motions=("still",), camera=world.drawn_camera, first=7)
    with av.open(str(tmp_path / "000000.mp4")) as container:
        read = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]) / 255
    drawn, _ = world.clip(3, 7, "video", "still", world.drawn_camera(3, 7))
    still, _ = world.clip(3, 7, "video", "still")
    assert np.abs(read - drawn).mean() < 0.02 < np.abs(read - still).mean()


def test_a_zoom_passes_the_worlds_own_size_half_way():
    content, times = world.scene(3, 5, "still"), np.array([0.0, 0.5, 1.0])
    at_rest = world.render(content, times)
    inwards, outwards = (world.render(content, times, world.zooming(rate)) for rate in (0.03, -0.03))
    for moved in (inwards, outwards):
        assert np.abs(moved - at_rest).mean((1, 2, 3))[1] < 1e-3
        assert np.abs(moved - at_rest).mean((1, 2, 3))[[0, 2]].min() > 0.02
    coloured = [(frames.max(-1) - frames.min(-1) > 0.3).sum((1, 2)) for frames in (inwards, outwards)]
    assert coloured[0][0] < coloured[0][1] < coloured[0][2]
    assert coloured[1][0] > coloured[1][1] > coloured[1][2]


def test_sized_stills_are_the_same_scenes_at_sizes_of_their_own():
    for index in range(3):
        plain, sized = world.still(2, index), world.still(2, index, sized=True)
        assert plain[1] == sized[1]
        assert np.abs(plain[0] - sized[0]).mean() > 0.01
        assert np.array_equal(sized[0], world.still(2, index, sized=True)[0])
