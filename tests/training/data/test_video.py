"""Decoding: frames by their times, odd files, and what is refused."""

import os
import random
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from animatediff_flipbook.training.data import video
from animatediff_flipbook.training.data.video import TimedFrame, Unreadable, on_grid, timed_frames
from PIL import Image

WHITE = "#ffffff"


def numbers(frames) -> list[int]:
    """The numbers of numbered frames; coding changes grey levels by less than half a step."""
    return [round(float(np.asarray(image).mean()) / 8) for image in frames]


def read(path: Path, fps: float, most: int = 1000, repeats: bool = False) -> list[int]:
    return numbers(on_grid(timed_frames(path, path.name, WHITE), fps, most, repeats))


@pytest.mark.parametrize(
    ("source", "fps", "expected"),
    [
        (24, 24, list(range(24))),
        (24, 8, [0, 3, 6, 9, 12, 15, 18, 21]),
        (30, 8, [0, 4, 7, 11, 15, 19, 22]),
        (24, 0, list(range(24))),
    ],
)
def test_resampling_is_exact(source, fps, expected, tmp_path, write_video, numbered_frames):
    write_video(tmp_path / "a.mp4", numbered_frames(24), source)
    assert read(tmp_path / "a.mp4", fps) == expected
    assert read(tmp_path / "a.mp4", fps, most=3) == expected[:3]


def test_a_slow_video_is_refused_unless_repeats_are_allowed(tmp_path, write_video, numbered_frames):
    write_video(tmp_path / "slow.mp4", numbered_frames(8), 4)
    with pytest.raises(Unreadable, match="would repeat at data.fps = 8"):
        read(tmp_path / "slow.mp4", 8)
    assert read(tmp_path / "slow.mp4", 8, repeats=True)[:6] == [0, 0, 1, 1, 2, 2]


def test_a_rate_that_is_nearly_right_serves(tmp_path, write_video, numbered_frames):
    write_video(tmp_path / "ntsc.mp4", numbered_frames(30), Fraction(30000, 1001))
    assert read(tmp_path / "ntsc.mp4", 30) == list(range(30))


def test_variable_frame_rate_goes_by_time():
    image = [Image.new("RGB", (8, 8), (8 * n,) * 3) for n in range(5)]
    times = [0.0, 0.1, 0.15, 0.4, 0.5]
    frames = [TimedFrame(t, i) for t, i in zip(times, image, strict=True)]
    # On screen at 0, .1, .2, .3, .4, .5 seconds:
    assert numbers(on_grid(iter(frames), 10, 100, True)) == [0, 1, 2, 2, 3, 4]


def test_a_phone_video_is_turned_upright(tmp_path):
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:, :32] = 255  # white on the left
    path = tmp_path / "phone.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.height, stream.width = 32, 64
        stream.set_display_rotation(90)
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        marked = next(container.decode(video=0)).rotation
    frame = next(timed_frames(path, path.name, WHITE)).image
    assert marked in (90, -90, 270)
    assert frame.size == (32, 64), "width and height have changed places"
    grey = np.asarray(frame.convert("L")).mean(axis=1)
    top_is_white = grey[:16].mean() > 200
    # A mark of +90 asks for a quarter turn against the clock, which brings the right side up.
    assert top_is_white == (marked % 360 == 270)
    assert abs(grey[:16].mean() - grey[48:].mean()) > 200


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_animated_pictures_keep_their_timing(ending, tmp_path):
    images = [Image.new("RGB", (32, 32), (8 * n * 4,) * 3) for n in range(4)]
    path = tmp_path / f"a.{ending}"
    times = [100, 200, 100, 100]
    images[0].save(path, save_all=True, append_images=images[1:], duration=times, lossless=True)
    frames = list(timed_frames(path, path.name, WHITE))
    assert [round(f.time, 3) for f in frames] == [0.0, 0.1, 0.3, 0.4]
    assert numbers(f.image for f in frames) == [0, 4, 8, 12]


def test_transparency_lies_over_the_background(tmp_path):
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    frame = next(timed_frames(tmp_path / "clear.png", "clear.png", "#102030")).image
    assert frame.mode == "RGB"
    assert frame.getpixel((3, 3)) == (0x10, 0x20, 0x30)


def test_a_folder_of_frames_goes_by_name(tmp_path):
    for number in (2, 0, 1):
        Image.new("RGB", (8, 8), (8 * number,) * 3).save(tmp_path / f"frame_{number:03d}.png")
    assert numbers(f.image for f in timed_frames(tmp_path, tmp_path.name, WHITE)) == [0, 1, 2]


def test_bytes_serve_as_well_as_files(clips):
    path = clips / "clip0.mp4"
    from_file = list(timed_frames(path, path.name, WHITE))
    from_bytes = list(timed_frames(path.read_bytes(), path.name, WHITE))
    assert [f.image.tobytes() for f in from_file] == [f.image.tobytes() for f in from_bytes]


@pytest.mark.parametrize("name", ["broken.mp4", "broken.png", "broken.webp"])
def test_damaged_files_say_so(name, tmp_path):
    (tmp_path / name).write_bytes(b"this is no picture" * 100)
    with pytest.raises(Unreadable):
        list(timed_frames(tmp_path / name, name, WHITE))


def outcome(content, name):
    """How a file ends; any other exception than the one for unreadable files passes through."""
    try:
        list(timed_frames(content, name, WHITE))
    except Unreadable:
        return "unreadable"
    return "read"


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow tells what it finds damaged
@pytest.mark.parametrize("ending", ["bmp", "gif", "jpg", "png", "tif", "webp"])
def test_no_damage_raises_anything_else(ending, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**5)  # damaged sizes cost time otherwise
    images = [Image.effect_noise((32, 32), 64).convert("RGB") for _ in range(3)]
    many = {"save_all": True, "append_images": images[1:]} if ending in ("gif", "webp") else {}
    images[0].save(tmp_path / f"a.{ending}", **many)
    whole = (tmp_path / f"a.{ending}").read_bytes()
    rng = random.Random(0)
    outcomes = set()
    for number in range(120):
        content = bytearray(whole)
        if number % 3 == 0:
            content = content[: rng.randrange(len(content))]
        else:
            for _ in range(rng.randint(1, 6)):
                content[rng.randrange(min(len(content), 200))] = rng.randrange(256)
        outcomes.add(outcome(bytes(content), f"a.{ending}"))
    assert "unreadable" in outcomes, "no damage was met: this tests nothing"


def test_damaged_videos_raise_nothing_else_either(clips):
    whole = (clips / "clip0.mp4").read_bytes()
    rng = random.Random(0)
    outcomes = set()
    for number in range(90):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 6)):
            # The first bytes and the last ones, where an mp4 describes its streams.
            content[rng.randrange(200) if number % 2 else -rng.randrange(1, 700)] = rng.randrange(256)
        outcomes.add(outcome(bytes(content), "a.mp4"))
    assert outcomes == {"read", "unreadable"}


def test_a_picture_of_too_many_pixels_is_unreadable(tmp_path, monkeypatch):
    Image.new("RGB", (64, 64)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(Unreadable, match="DecompressionBomb"):
        list(timed_frames(tmp_path / "large.png", "large.png", WHITE))


def test_sixteen_bits_keep_their_greys(tmp_path):
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    image = next(timed_frames(tmp_path / "deep.png", "deep.png", WHITE)).image
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image)[..., 0].ravel(), np.arange(256))


def test_greys_without_a_known_range_are_refused(tmp_path):
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(Unreadable, match="mode F"):
        list(timed_frames(tmp_path / "a.tif", "a.tif", WHITE))


def test_pictures_are_turned_as_their_camera_says(tmp_path):
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:, :32] = 255  # white on the left
    facts = Image.Exif()
    facts[0x0112] = 6  # shown upright after a quarter turn with the clock
    Image.fromarray(picture).save(tmp_path / "phone.jpg", exif=facts)
    image = next(timed_frames(tmp_path / "phone.jpg", "phone.jpg", WHITE)).image
    assert image.size == (32, 64)
    rows = np.asarray(image.convert("L")).mean(axis=1)
    assert rows[:28].mean() > 240 > 10 > rows[36:].mean()


def test_a_transparent_colour_lies_over_the_background(tmp_path):
    Image.new("RGB", (8, 8), (255, 0, 255)).save(tmp_path / "key.png", transparency=(255, 0, 255))
    image = next(timed_frames(tmp_path / "key.png", "key.png", "#102030")).image
    assert image.getpixel((3, 3)) == (0x10, 0x20, 0x30)


@pytest.fixture
def clear_webm(tmp_path) -> Path:
    """A VP9 video whose right half is transparent."""
    if "libvpx-vp9" not in av.codecs_available:
        pytest.skip("this PyAV cannot write VP9")
    picture = np.zeros((64, 64, 4), np.uint8)
    picture[..., 0], picture[:, :32, 3] = 200, 255
    with av.open(str(tmp_path / "clear.webm"), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=8)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuva420p"
        for _ in range(4):
            frame = av.VideoFrame.from_ndarray(picture, format="rgba")
            container.mux(stream.encode(frame.reformat(format="yuva420p")))
        container.mux(stream.encode())
    return tmp_path / "clear.webm"


def test_transparency_of_vp9(clear_webm, monkeypatch, caplog):
    frames = list(timed_frames(clear_webm, clear_webm.name, "#00ff00"))
    assert [round(frame.time, 3) for frame in frames] == [0.0, 0.125, 0.25, 0.375]
    assert frames[0].image.getpixel((50, 30))[1] > 240
    assert frames[0].image.getpixel((10, 30))[0] > 150
    monkeypatch.setattr(video.av, "codecs_available", set())
    assert len(list(timed_frames(clear_webm, clear_webm.name, "#00ff00"))) == 4
    assert "clear.webm: its transparency is lost" in caplog.text


@pytest.mark.parametrize("kind", ["MPO", "TIFF"])
def test_pages_of_a_photo_are_no_animation(kind, tmp_path):
    """Cameras put a second view or a preview into a .jpg, scanners pages into a .tif."""
    first, second = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    path = tmp_path / ("photo.jpg" if kind == "MPO" else "photo.tif")
    first.save(path, kind, save_all=True, append_images=[second])
    with Image.open(path) as image:
        assert image.n_frames == 2
    frames = list(timed_frames(path, path.name, "#000000"))
    assert len(frames) == 1
    assert np.asarray(frames[0].image)[8, 8, 0] > 200


@pytest.fixture
def small_limit(monkeypatch):
    monkeypatch.setattr(video, "MOST_PIXELS", 64 * 64)


@pytest.mark.parametrize("ending", ["bmp", "gif", "jpg", "png", "tif", "webp"])
def test_large_pictures_are_refused_before_they_take_memory(ending, tmp_path, small_limit, monkeypatch):
    path = tmp_path / f"a.{ending}"
    for size, fits in (((64, 64), True), ((64, 65), False)):
        Image.new("RGB", size).save(path)
        if not fits:
            kind = type(Image.open(path))
            monkeypatch.setattr(kind, "load", lambda image: pytest.fail("it is decoded"))
        if fits:
            assert len(list(timed_frames(path, path.name, WHITE))) == 1
            continue
        for source in (path, path.read_bytes()):
            with pytest.raises(Unreadable, match="64 x 65 are larger than 4096 pixels"):
                list(timed_frames(source, path.name, WHITE))


@pytest.mark.parametrize(("ending", "codec"), [("mp4", "mpeg4"), ("avi", "mjpeg"), ("mkv", "mpeg4")])
def test_large_videos_are_refused(ending, codec, tmp_path, monkeypatch):
    path = tmp_path / f"a.{ending}"
    monkeypatch.setattr(video, "MOST_PIXELS", 2**16)
    for size, fits in ((64, True), (1104, False), (4096, False)):
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=8)
            stream.width, stream.height = size, 64
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for number in range(2):
                frame = av.VideoFrame(size, 64, stream.pix_fmt)
                frame.pts = number
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        if fits:
            assert len(list(timed_frames(path, path.name, WHITE))) == 2
            continue
        with pytest.raises(Unreadable, match="larger than 65536 pixels") as caught:
            list(timed_frames(path, path.name, WHITE))
        assert not caught.value.passing


@pytest.mark.parametrize("ending", ["mp4", "mov"])
@pytest.mark.parametrize("film", [False, True])
def test_a_cover_is_no_clip(ending, film, tmp_path):
    path = tmp_path / f"song.{ending}"
    with av.open(str(path), "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=44100)
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        moving = container.add_stream("mpeg4", rate=8) if film else None
        if film:
            moving.width, moving.height, moving.pix_fmt = 32, 32, "yuv420p"
        frame = av.VideoFrame.from_image(Image.new("RGB", (64, 64))).reformat(format="yuvj420p")
        frame.pts = 0
        container.mux([*cover.encode(frame), *cover.encode()])
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.int16), format="s16", layout="mono")
        silence.rate = 44100
        container.mux([*sound.encode(silence), *sound.encode()])
        for number in range(4 if film else 0):
            picture = av.VideoFrame(32, 32, "yuv420p")
            picture.pts = number
            container.mux(moving.encode(picture))
        if film:
            container.mux(moving.encode())
    if film:
        assert {frame.image.size for frame in timed_frames(path, path.name, WHITE)} == {(32, 32)}
    else:
        with pytest.raises(Unreadable, match="cover picture, no video"):
            list(timed_frames(path, path.name, WHITE))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("name", ["pipe.mp4", "pipe.png"])
def test_a_pipe_is_not_opened(name, tmp_path):
    os.mkfifo(tmp_path / name)
    with pytest.raises(Unreadable, match="no regular file"):
        list(timed_frames(tmp_path / name, name, WHITE))
