"""Values that are not finite are found where they come from, not as a loss of the first step."""

import os
import shutil

import numpy as np
import pytest
import torch
from animatediff_flipbook.training.data.encode import Encodings
from animatediff_flipbook.training.data.live import LiveEncodings
from animatediff_flipbook.training.data.media import list_media
from animatediff_flipbook.training.run.train import Run, train
from safetensors.torch import load_file, save_file

BAD = (float("nan"), float("inf"), float("-inf"))


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize(
    ("prefix", "part"),
    [
        ("model.diffusion_model.", "UNet"),
        ("first_stage_model.", "VAE"),
        ("cond_stage_model.", "text encoder"),
    ],
)
def test_a_broken_checkpoint_is_named_at_load(prefix, part, value, stage_settings, checkpoint, tmp_path):
    tensors = load_file(checkpoint)
    keys = [key for key, t in tensors.items() if key.startswith(prefix) and t.is_floating_point()]
    tensors[keys[-1]].view(-1)[-1] = value
    broken = tmp_path / "broken.safetensors"
    save_file(tensors, broken)
    fresh = f"cache.folder={tmp_path / 'cache'}"
    config = stage_settings("motion_module", tmp_path / "run", fresh, f"base.checkpoint={broken}")
    with pytest.raises(ValueError, match=rf"base.checkpoint: 1 tensors of its {part} .* not finite, such as"):
        train(config)


@pytest.mark.parametrize("value", BAD)
def test_a_broken_motion_module_is_named_at_load(value, stage_settings, motion_file, tmp_path):
    tensors = load_file(motion_file)
    key = next(key for key in tensors if key.endswith("proj_out.weight"))
    tensors[key][0, 0] = value
    save_file(tensors, tmp_path / "broken.safetensors")
    for stage in ("motion_module", "motion_lora"):
        with pytest.raises(ValueError, match="not finite|infinite|NaN"):
            train(stage_settings(stage, tmp_path / stage, f"motion.file={tmp_path / 'broken.safetensors'}"))


class Base:
    """Gives a value that is not finite for bright frames and for one caption."""

    def __init__(self, value: float, where: str) -> None:
        self.value, self.where = value, where

    def encode_pixels(self, pixels):
        mean = torch.zeros(len(pixels), 4, 8, 8)
        logvar = torch.zeros_like(mean)
        (mean if self.where == "mean" else logvar)[-1, 0, 0, 0] = (
            self.value if float(pixels.max()) > 0.9 else 0.0
        )
        return mean, logvar

    def encode_text(self, text):
        return torch.full((4, 8), self.value if self.where == "text" and text else 0.0), None


@pytest.fixture
def data(tmp_path, write_video):
    for name, level in (("dark", 40), ("bright", 255)):
        (tmp_path / "data").mkdir(exist_ok=True)
        write_video(tmp_path / "data" / f"{name}.mp4", np.full((8, 64, 64, 3), level, np.uint8))
    return f"data.sources.0.path={tmp_path / 'data'}"


@pytest.mark.parametrize("value", [*BAD, 1e5])
@pytest.mark.parametrize("where", ["mean", "logvar"])
def test_a_file_that_the_vae_breaks_at_is_left_out(where, value, data, settings, tmp_path, caplog):
    """1e5 is a number, but not as the float16 that is stored."""
    config = settings(tmp_path / "run", data, f"cache.folder={tmp_path / 'cache'}", "cache.dtype=float16")
    store = Encodings(config, "base")
    files = list_media(config.data.sources, config.data)
    store.fill(Base(value, where), files)
    assert [track.file.path.stem for track in store.tracks(files)] == ["dark"]
    assert "bright.mp4: the VAE of tiny.safetensors gives values that are not finite" in caplog.text
    with pytest.raises(ValueError, match="None of the 1 files can be used, such as .*bright.mp4: the VAE"):
        store.tracks(files[:1])
    again = Encodings(config, "base")
    assert len(again.missing(files)[0]) == 1, "another precision may do better"


def test_a_broken_text_encoder_is_named_with_the_caption(settings, tmp_path):
    config = settings(tmp_path / "run", f"cache.folder={tmp_path / 'cache'}")
    files = list_media(config.data.sources, config.data)
    for kind in (Encodings, LiveEncodings):
        encodings = kind(config, "base")
        encodings.base = Base(float("nan"), "text")
        with pytest.raises(ValueError, match="text encoder .* not finite for the caption 'a red square"):
            if kind is Encodings:
                encodings.fill(encodings.base, files)
            encodings.text_states("a red square up")


@pytest.mark.parametrize("damage", ["deleted", "another film", "shorter", "no film", "a pipe"])
def test_a_file_that_changes_while_it_is_trained_on_is_one_sentence(
    damage, stage_settings, clips, tmp_path, write_video, numbered_frames
):
    folder = tmp_path / "data"
    folder.mkdir()
    video = folder / "a.mp4"
    shutil.copy(clips / "clip0.mp4", video)
    config = stage_settings(
        "motion_module", tmp_path / "run", f"data.sources.0.path={folder}", "cache.mode=off",
        f"cache.folder={tmp_path / 'cache'}", "train.batch_size=1",
    )  # fmt: skip
    run = Run(config, resume=False)
    try:
        run.take_step(0)
        video.unlink()
        if damage == "a pipe" and hasattr(os, "mkfifo"):
            os.mkfifo(video)
        elif damage == "no film":
            video.write_bytes(b"no video" * 99)
        elif damage == "shorter":
            write_video(video, numbered_frames(2))
        elif damage == "another film":
            write_video(video, numbered_frames(8, 64, 32))
        if damage == "another film":
            run.take_step(1)
            return
        with pytest.raises(
            ValueError, match="a.mp4 could be used when the run began, and now cannot: .*--resume"
        ):
            run.take_step(1)
    finally:
        run.close()
