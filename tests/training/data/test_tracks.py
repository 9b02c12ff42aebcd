"""Tracks: captions of mirrored clips, files that are too long or too short, and what is said of them."""

import pytest
import torch
from animatediff_flipbook.training.data.dataset import ClipData
from animatediff_flipbook.training.data.encode import Encodings
from animatediff_flipbook.training.data.media import list_media, say_left_out
from animatediff_flipbook.training.data.tracks import mirrored_caption


class FakeBase:
    """Encodes to nothing."""

    def encode_pixels(self, pixels: torch.Tensor):
        return torch.zeros(len(pixels), 4, 8, 8), None

    def encode_text(self, text: str):
        return torch.zeros(4, 8), None


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("Left turn, leftmost, right.", "Right turn, rightmost, left."),
        ("LEFT, rightwards, left-hand", "RIGHT, leftwards, right-hand"),
        ("a bright dog, upright, drives left,right", "a bright dog, upright, drives right,left"),
        ("a frightened thief, leftovers", "a frightened thief, leftovers"),
    ],
)
def test_words_change_sides(text, mirrored):
    assert mirrored_caption(text) == mirrored
    assert mirrored_caption(mirrored) == text


@pytest.fixture
def encoded(settings, tmp_path, write_video, numbered_frames):
    """``encoded(frames of each file, "key=value", ...)`` -> the samples of such files."""

    def build(lengths, *overrides):
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        for number, length in enumerate(lengths):
            frames = numbered_frames(length)
            frames[:, :8] = 40 * number
            write_video(folder / f"clip{number}.mp4", frames)
        cache = f"cache.folder={tmp_path / 'cache'}"
        config = settings(tmp_path / "run", cache, f"data.sources.0.path={folder}", *overrides)
        files = list_media(config.data.sources, config.data)
        store = Encodings(config, "base")
        store.fill(FakeBase(), files)
        return ClipData(config, store, store.tracks(files))

    return build


@pytest.mark.parametrize("fps", [8, 4, 0])
@pytest.mark.parametrize("camera", ["", "zoom_in"])
def test_files_that_are_cut_say_so(fps, camera, encoded, caplog):
    most = 6 if fps != 4 else 3
    more = (f"camera.direction={camera}", f"data.frames={min(3, most)}", f"data.max_frames_per_file={most}")
    data = encoded([most * (8 // (fps or 8)), 24], f"data.fps={fps}", *more)
    if not camera:
        assert {track.num_frames for track in data.tracks} == {most}
    said = [record.getMessage() for record in caplog.records if "max_frames_per_file" in record.getMessage()]
    assert len(said) == 1 and said[0].startswith("1 files are longer than data.max_frames_per_file, ")
    assert "clip1.mp4" in said[0] and "clip0.mp4" not in said[0]
    assert (f"{most} frames at data.fps = {fps}" in said[0]) == bool(fps)
    caplog.clear()
    encoded([most, 24], f"data.fps={fps}", *more)
    assert "max_frames_per_file" in caplog.text, "and again from the cache"


def test_a_clip_too_short_for_the_grid_names_the_grid(encoded, caplog):
    """60 frames are enough for 24, but 2 seconds at 8 frames per second are not."""
    with pytest.raises(ValueError, match=r"longest 16 frames at data.fps = 8 \(2.0 s\).*raise data.fps"):
        encoded([16], "data.frames=24")
    assert "its 16 frames at data.fps = 8 (2.0 s) are too few for a clip of 24" in caplog.text
    with pytest.raises(ValueError, match=r"its 16 frames at data.fps = 8 \(2.0 s\) are fewer than the 24"):
        encoded([16], "data.frames=24", "camera.direction=zoom_in")


def test_thousands_of_bad_files_are_a_few_lines(caplog):
    say_left_out([(f"clip{number}.mp4", "damaged") for number in range(100_000)])
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "Left out: clip0.mp4: damaged"
    assert len(said) == 21 and "99980 more files" in said[-1]
