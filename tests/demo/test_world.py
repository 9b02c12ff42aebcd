"""The world is a pure function of its numbers, captioned by a vocabulary the tiny family reads."""

import av
import numpy as np
import pytest
from animatediff_flipbook.demo import clip_files, world
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


def test_a_roll_turns_the_picture_clockwise():
    content = world.scene(1, 3, "moving left")
    last = np.ones(1)
    upright, turned = world.render(content, last), world.render(content, last, world.Camera(roll=6.0))
    assert np.abs(turned - np.rot90(upright, -1, (1, 2))).max() < 0.01
    assert np.abs(turned - upright).max() > 0.3


def test_the_lamp_shows_a_camera_where_the_texture_tells_nothing(monkeypatch):
    """The mean of many grounds, all that a denoiser knows in the worst noise, shows the camera move."""
    scenes = [world.scene(2, index, "still") for index in range(48)]
    cameras = (world.Camera(zoom=0.022), world.Camera(pan_x=2.2), world.Camera(roll=1.5))

    def change(camera):
        """Of the mean of all scenes over a clip, in blocks of 16 pixels."""
        first, last = np.mean([world.render(s, np.array([0.0, 1.0]), camera) for s in scenes], axis=(0, 4))
        return np.abs((last - first).reshape(8, 16, 8, 16).mean((1, 3))).mean()

    lit = [change(camera) for camera in cameras]
    for name, none_of_it in (("LAMP", (1.0, 0.0)), ("RELIEF", 0.0), ("SHADOW", (0.0, 1.0))):
        monkeypatch.setattr(world, name, none_of_it)
    unlit = [change(camera) for camera in cameras]
    assert all(more > 2 * less for more, less in zip(lit, unlit, strict=True)), (lit, unlit)


def test_any_camera_is_another_in_each_clip_and_the_same_again(tmp_path):
    for folder in ("once", "again"):
        clip_files.write_clips(tmp_path / folder, seed=4, count=2, motions=("still",), camera="any")
    once, again = (
        [path.read_bytes() for path in sorted((tmp_path / folder).glob("*.mp4"))]
        for folder in ("once", "again")
    )
    assert once == again
    kinds = {tuple(np.sign([c.zoom, c.pan_x, c.roll])) for c in map(world.any_camera, _generators(40))}
    assert len(kinds) == 6, "zoom and roll both ways, pans to all sides"
    assert not any(camera.rests for camera in map(world.any_camera, _generators(40)))


def _generators(count):
    return [np.random.default_rng(number) for number in range(count)]


def test_unknown_domain_is_refused():
    with pytest.raises(ValueError, match="film"):
        world.clip(1, 1, "film")


def test_clips_on_disk_hold_the_frames_and_are_not_written_twice(tmp_path):
    clip_files.write_clips(tmp_path, seed=4, count=2, motions=("moving left", "growing"))
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
    clip_files.write_clips(tmp_path, seed=4, count=2, motions=("moving left", "growing"))
    assert (tmp_path / "000000.mp4").stat().st_mtime_ns == before
