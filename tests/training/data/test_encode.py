"""The cache: complete, resumable, never stale; and the samples that are drawn from it."""

import shutil

import numpy as np
import pytest
import torch
from animatediff_flipbook.training.data import encode, live, video
from animatediff_flipbook.training.data.cache import Store
from animatediff_flipbook.training.data.dataset import ClipData, Schedule, stacked
from animatediff_flipbook.training.data.encode import Encodings, text_key
from animatediff_flipbook.training.data.live import LiveEncodings
from animatediff_flipbook.training.data.media import list_media
from PIL import Image


class FakeBase:
    """Encodes by averaging 8x8 pixels: as good as any VAE for counting and comparing."""

    def __init__(self) -> None:
        self.encoded = 0

    def encode_pixels(self, pixels: torch.Tensor):
        self.encoded += len(pixels)
        small = torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8)
        mean = torch.cat([small, small.mean(1, keepdim=True)], dim=1)
        return mean, torch.full_like(mean, -4.0)

    def encode_text(self, text: str):
        return torch.full((4, 8), float(len(text))), None


@pytest.fixture
def make(settings, tmp_path):
    """``make("key=value", ...)`` -> configuration, its store and its files, with a cache of its own."""

    def build(*overrides: str):
        config = settings(tmp_path / "run", f"cache.folder={tmp_path / 'cache'}", *overrides)
        return config, Encodings(config, "base"), list_media(config.data.sources, config.data)

    return build


def clip_data(config, store, files) -> ClipData:
    store.fill(FakeBase(), files)
    return ClipData(config, store, store.tracks(files))


def test_everything_is_encoded_once(make):
    config, store, files = make()
    base = FakeBase()
    store.fill(base, files)
    assert base.encoded == 6 * 8
    _, again, _ = make()
    assert again.missing(files) == ([], [])
    again.fill(base, files)
    assert base.encoded == 6 * 8


def test_interrupted_it_goes_on(make, monkeypatch):
    _, store, files = make()

    class Stops(FakeBase):
        def encode_pixels(self, pixels):
            if self.encoded >= 3 * 8:
                raise KeyboardInterrupt
            return super().encode_pixels(pixels)

    with pytest.raises(KeyboardInterrupt):
        store.fill(Stops(), files)
    _, store, _ = make()
    base = FakeBase()
    store.fill(base, files)
    assert base.encoded == 3 * 8, "what was written is not made again"
    assert len(store.tracks(files)) == 6


def test_a_file_is_given_up_between_frames_and_the_ones_before_are_kept(make):
    _, store, files = make()
    frames = iter(range(8 + 3))  # a file and a part of the next

    def pause():
        if next(frames, None) is None:
            raise KeyboardInterrupt

    base = FakeBase()
    with pytest.raises(KeyboardInterrupt):
        store.fill(base, files, pause=pause)
    assert base.encoded == 8
    assert len(make()[1].missing(files)[0]) == 5


def test_finished_files_go_to_the_disk_every_minute(make, monkeypatch):
    _, store, files = make()
    monkeypatch.setattr(encode, "SECONDS_BETWEEN_WRITES", 0.0)
    written = []
    store.fill(FakeBase(), files, lambda *_: written.append(len(list(store.latents.folder.glob("shard-*")))))
    assert written[:3] == [1, 2, 3]
    assert len(list(store.text.folder.glob("shard-*"))) > 1


def test_a_file_stopped_between_its_tracks_is_made_again(make):
    _, store, files = make("data.horizontal_flip=true")

    class Stops(FakeBase):
        def encode_pixels(self, pixels):
            if self.encoded >= 8:
                raise KeyboardInterrupt  # between a file's track and its mirror
            return super().encode_pixels(pixels)

    with pytest.raises(KeyboardInterrupt):
        store.fill(Stops(), files)
    _, store, _ = make("data.horizontal_flip=true")
    store.fill(FakeBase(), files)
    assert all(f"{track.mirror}.mean" in store.latents for track in store.tracks(files))


def test_a_deleted_shard_is_made_again_beside_the_others(make):
    _, store, files = make()
    for part in (files[:3], files[3:]):
        store.fill(FakeBase(), part)
    sorted(store.latents.folder.glob("shard-*"))[0].unlink()
    _, store, _ = make()
    base = FakeBase()
    store.fill(base, files)
    assert base.encoded == 3 * 8
    _, store, _ = make()
    assert store.missing(files) == ([], []), "no other shard was overwritten"


def test_a_machine_s_error_is_tried_again_in_the_next_run(make, monkeypatch, caplog):
    _, store, files = make()
    decode = video.av.open

    def fails_once(*args, **kwargs):
        monkeypatch.setattr(video.av, "open", decode)
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(video.av, "open", fails_once)
    store.fill(FakeBase(), files)
    assert len(store.tracks(files)) == 5
    assert "Too many open files" in caplog.text
    _, store, _ = make()
    base = FakeBase()
    store.fill(base, files)
    assert base.encoded == 8
    assert len(store.tracks(files)) == 6


def test_a_changed_stride_needs_no_other_encodings(make):
    config, store, files = make()
    assert clip_data(config, store, files).tracks[0].stride == 1
    config, store, files = make("data.stride=2")
    base = FakeBase()
    store.fill(base, files)
    data = ClipData(config, store, store.tracks(files))
    assert base.encoded == 0
    assert data.window(data.tracks[0], (7, 0, 0)).indices in ([0, 2, 4, 6], [1, 3, 5, 7])


def test_a_folder_of_frames_is_at_the_rate_of_training(make, tmp_path):
    folder = tmp_path / "data" / "clip"
    folder.mkdir(parents=True)
    for number in range(6):
        Image.new("RGB", (64, 64), (8 * number,) * 3).save(folder / f"{number}.png")
    config, store, files = make(
        "data.fps=24", f"data.sources=[{{path='{tmp_path / 'data'}', frame_folders=true}}]"
    )
    store.fill(FakeBase(), files)
    assert [track.num_frames for track in store.tracks(files)] == [6]


def test_a_damaged_shard_is_made_again(make, caplog):
    config, store, files = make()
    store.fill(FakeBase(), files)
    shard = next(store.latents.folder.glob("shard-*"))
    shard.write_bytes(shard.read_bytes()[:1000])
    _, store, _ = make()
    assert "damaged" in caplog.text
    base = FakeBase()
    store.fill(base, files)
    assert base.encoded == 6 * 8
    assert len(store.tracks(files)) == 6


@pytest.mark.parametrize(
    "setting", ["data.fps=4", "data.resolutions=[[32, 32]]", "data.background=#000000", "cache.dtype=float16"]
)
def test_other_settings_take_another_store_and_say_so(make, setting, caplog):
    caplog.set_level("INFO")
    _, store, files = make()
    store.fill(FakeBase(), files)
    _, other, _ = make(setting)
    assert len(other.missing(files)[0]) == 6
    assert "made with other settings" in caplog.text
    assert setting.split(".")[1].split("=")[0] in caplog.text


def test_a_changed_file_is_not_served_from_the_cache(make, clips, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(clips, folder)
    source = f"data.sources.0.path={folder}"
    _, store, files = make(source)
    store.fill(FakeBase(), files)
    before = {t.file.path.name: t.key for t in store.tracks(files)}
    shutil.copy(folder / "clip1.mp4", folder / "clip0.mp4")
    _, store, files = make(source)
    base = FakeBase()
    store.fill(base, files)
    after = {t.file.path.name: t.key for t in store.tracks(files)}
    assert after["clip0.mp4"] == before["clip1.mp4"] != before["clip0.mp4"]
    assert base.encoded == 0, "its new content is known under another name"


def test_unreadable_files_are_reported_once_and_never_retried(make, clips, tmp_path, caplog, monkeypatch):
    folder = tmp_path / "data"
    shutil.copytree(clips, folder)
    (folder / "broken.mp4").write_bytes(b"no video" * 99)
    source = f"data.sources.0.path={folder}"
    _, store, files = make(source)
    store.fill(FakeBase(), files)
    assert len(store.tracks(files)) == 6
    said = [record for record in caplog.records if "Left out" in record.message]
    assert sum("broken.mp4" in record.message for record in said) == 1
    tried = []
    monkeypatch.setattr(encode, "tracks_of_file", lambda file, *_: tried.append(file))
    _, store, files = make(source)
    store.fill(FakeBase(), files)
    assert not tried


def test_looking_at_files_goes_on_where_it_was_stopped(settings, tmp_path, monkeypatch):
    config = settings(tmp_path / "run", f"cache.folder={tmp_path / 'cache'}", "cache.mode=off")
    files = list_media(config.data.sources, config.data)
    looked, look = [], live.tracks_of_file

    def stops(file, *rest):
        if len(looked) == 4:
            raise KeyboardInterrupt
        looked.append(file.name)
        return look(file, *rest)

    monkeypatch.setattr(live, "tracks_of_file", stops)
    with pytest.raises(KeyboardInterrupt):
        LiveEncodings(config, "base").fill(None, files)
    assert len(LiveEncodings(config, "base").missing(files)[0]) == 2


def test_nothing_usable_is_an_error(make, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "broken.mp4").write_bytes(b"no video" * 99)
    _, store, files = make(f"data.sources.0.path={tmp_path / 'data'}")
    store.fill(FakeBase(), files)
    with pytest.raises(ValueError, match="None of the 1 files"):
        store.tracks(files)


def test_the_distribution_is_kept_and_sampled_afresh(make):
    data = clip_data(*make())
    one = data.load([0], [(7, 0, 0)]).latents
    again = data.load([0], [(7, 0, 0)]).latents
    other = data.load([0], [(7, 1, 0)]).latents
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    track = data.tracks[0]
    mean, logvar = data.encodings.latent_frames(track.key, data.window(track, (7, 0, 0)).indices)
    assert float((one[0] - mean).std()) == pytest.approx(np.exp(-2), rel=0.1)
    assert torch.equal(logvar, torch.full_like(mean, -4.0))


def test_windows_are_in_order_and_cover_the_file(make):
    config, store, files = make("data.stride=2")
    data = clip_data(config, store, files)
    seen = {tuple(data.window(data.tracks[0], (7, epoch, 0)).indices) for epoch in range(30)}
    assert seen == {(0, 2, 4, 6), (1, 3, 5, 7)}


@pytest.mark.parametrize(
    ("policy", "expected", "real"),
    [
        ("loop", [0, 1, 2, 3, 4, 5, 6, 7, 6, 5, 4, 3], 12),
        ("shorten", [0, 1, 2, 3, 4, 5, 6, 7], 8),
        ("pad", [0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 7, 7], 8),
    ],
)
def test_short_clips(policy, expected, real, make):
    data = clip_data(*make("data.frames=12", f"data.short_clips={policy}"))
    window = data.window(data.tracks[0], (7, 0, 0))
    assert window.indices == expected
    assert window.num_real == real
    batch = data.load([0], [(7, 0, 0)])
    if policy == "pad":
        assert batch.mask.tolist() == [[1.0] * 8 + [0.0] * 4]
    else:
        assert batch.mask is None


@pytest.mark.parametrize("policy", ["loop", "shorten", "pad"])
def test_files_with_hardly_any_frames_are_left_out_whatever_the_policy(policy, make):
    """A picture played forward and backward is a picture that stands still."""
    store = make("data.frames=12", f"data.short_clips={policy}", "data.min_frames=9")
    with pytest.raises(ValueError, match="fewer frames"):
        clip_data(*store)


def test_short_clips_are_left_out_by_default(make):
    with pytest.raises(ValueError, match="short_clips = 'loop', 'shorten' or 'pad'"):
        clip_data(*make("data.frames=12"))


def test_captions_drop_at_their_rate_and_stay_with_their_clips(make):
    config, store, files = make("objective.caption_dropout=0.25")
    data = clip_data(config, store, files)
    lengths = {index: float(len(track.caption)) for index, track in enumerate(data.tracks)}
    dropped = 0
    for slot in range(240):
        context = data.load([slot % 6], [(7, 0, slot)]).context
        assert float(context[0, 0, 0]) in (0.0, lengths[slot % 6])
        dropped += float(context[0, 0, 0]) == 0.0
    assert 0.15 < dropped / 240 < 0.35
    assert all(
        float(data.load([n], [(7, 0, s)], training=False).context[0, 0, 0])
        for n in range(6)
        for s in range(9)
    )


def test_mirrored_samples_have_mirrored_captions(make):
    config, store, files = make("data.horizontal_flip=true", "objective.caption_dropout=0.0")
    data = clip_data(config, store, files)
    index = next(i for i, t in enumerate(data.tracks) if t.caption.endswith("left"))
    texts = {"a red square left", "a red square right"}
    assert {data.tracks[index].caption, data.tracks[index].mirror_caption} == texts
    track = data.tracks[index]
    plain, mirrored = (store.latent_frames(key, [0])[0] for key in (track.key, track.mirror))
    assert torch.allclose(plain.flip(-1), mirrored, atol=1e-6)
    seen = {float(data.load([index], [(7, 0, slot)]).context[0, 0, 0]) for slot in range(20)}
    assert seen == {float(len(text)) for text in texts}


def test_captions_of_different_lengths_share_a_batch():
    two, three = torch.randn(154, 4), torch.randn(231, 4)
    both = stacked([two, three])
    assert both.shape == (2, 462, 4)
    assert torch.equal(both[0], two.repeat(3, 1))
    assert torch.equal(both[1], three.repeat(2, 1))
    with pytest.raises(ValueError, match="77 and 385 tokens cannot share a batch"):
        stacked([torch.zeros(77, 4), torch.zeros(385, 4)])


def test_captions_too_long_to_share_batches_are_found_beforehand(make):
    config, store, files = make()
    data = clip_data(config, store, files)
    data.require_common_length()
    key = text_key(files[0].caption)
    store.text.put(f"{key}.states", torch.zeros(20, 8))
    with pytest.raises(ValueError, match="4 and 20 tokens"):
        data.require_common_length()


def test_camera_clips(make):
    _, store, files = make("camera.direction=zoom_in", "camera.clips_per_file=3", "data.frames=6")
    store.fill(FakeBase(), files)
    tracks = store.tracks(files)
    assert len(tracks) == 6 * 3
    assert {track.num_frames for track in tracks} == {6}
    _, store, files = make("camera.direction=pan_left", "camera.still=true", "data.frames=16")
    store.fill(FakeBase(), files)
    assert {track.num_frames for track in store.tracks(files)} == {16}, "one frame is enough for a still"


def test_an_epoch_shows_everything_in_an_order_of_its_own(make):
    data = clip_data(*make())
    schedule = Schedule(data, seed=7, global_batch=4)
    assert schedule.steps_per_epoch == 2
    epochs = [[schedule.step(2 * epoch + i) for i in range(2)] for epoch in range(3)]
    orders = [[index for indices, _ in epoch for index in indices] for epoch in epochs]
    assert all(set(order) == set(range(6)) and len(order) == 8 for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    keys = [key for epoch in epochs for _, part in epoch for key in part]
    assert len(set(keys)) == len(keys), "no sample shares its random numbers with another"
    assert Schedule(data, 7, 4).step(4) == epochs[2][0], "any step can be asked for first"


def test_batches_have_one_shape(make, clips, tmp_path, write_video, numbered_frames):
    folder = tmp_path / "data"
    shutil.copytree(clips, folder)
    for number in range(3):
        frames = numbered_frames(8, 96, 64)
        frames[:, :8] = 40 * number
        write_video(folder / f"wide{number}.mp4", frames)
    data = clip_data(*make(f"data.sources.0.path={folder}", "data.resolutions=[[64, 64], [96, 64]]"))
    shapes = set()
    for batch in data.epoch(7, 0, 2):
        assert len({data.tracks[index].bucket for index in batch}) == 1
        shapes.add(tuple(data.load(batch, [(7, 0, n) for n in range(2)]).latents.shape))
    assert shapes == {(2, 4, 4, 8, 8), (2, 4, 4, 8, 12)}


def test_repeats(make, clips):
    data = clip_data(*make("data.sources.0.repeats=3"))
    assert len(data) == 18


def test_store_reads_only_the_span_asked_for(tmp_path):
    store = Store(tmp_path, "latents", {"a": 1})
    tensor = torch.arange(40.0).reshape(10, 4)
    store.put("x", tensor)
    assert torch.equal(store.frames("x", [2, 5, 3]), tensor[[2, 5, 3]])
    store.flush()
    assert torch.equal(store.frames("x", [2, 5, 3]), tensor[[2, 5, 3]])
    assert store.shape("x") == (10, 4)
