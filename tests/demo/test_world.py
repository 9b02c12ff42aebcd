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
