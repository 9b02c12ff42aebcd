"""What is trained is kept, and made anew where it would come out otherwise. The trainer is a stand-in here;
`test_every_arm.py` has the real one."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from animatediff_flipbook.experiments import stages
from animatediff_flipbook.tests.experiments.support_sizes import SIZES
from animatediff_flipbook.training.files import read_json


@pytest.fixture
def trained(monkeypatch):
    """Names of what the stand-in has been asked to train; what it leaves is empty."""
    names = []

    def train(config, resume, loaded, watcher):
        names.append(config.name)
        file = stages.Path(config.output) / f"{config.name}.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        return SimpleNamespace(file=file)

    monkeypatch.setattr(stages, "train", train)
    monkeypatch.setattr(stages.base, "train_base", lambda *told: None)
    monkeypatch.setattr(stages.base, "load_base", lambda path: None)
    monkeypatch.setattr(stages.base, "loaded", lambda model, motion: None)
    monkeypatch.setattr(stages, "load_motion_module", lambda path, fused_qkv: None)
    return names


@pytest.fixture
def lab(tmp_path):
    return stages.Lab(tmp_path, 1, SIZES, "first")


def test_what_is_there_is_taken(lab, trained):
    path = lab.module()
    assert lab.module() == path and trained == ["adapter", "module"]
    assert read_json(path.parent / stages.RECORD)["commits"] == ["first"]


@pytest.mark.parametrize(
    "change",
    [{"steps": 3}, {"schedule": stages.BetaSchedule("linear", 0.001, 0.02)}, {"kind": "no_positions"}],
)
def test_another_training_of_the_same_name_is_made_anew(lab, trained, change):
    path = lab.module(name="one")
    (path.parent / "left").touch()
    assert lab.module(name="one", **change) == path
    assert trained == ["adapter", "one", "one"] and not (path.parent / "left").exists()


def test_clips_of_another_camera_make_their_lora_anew(lab, trained):
    lab.motion_lora("zoom", zoom=0.04)
    lab.motion_lora("zoom", zoom=0.04)
    assert trained.count("zoom") == 1
    lab.motion_lora("zoom", zoom=0.05)
    lab.motion_lora("zoom", zoom=0.05, clips=1)
    assert trained.count("zoom") == 3
    lab.motion_lora("zoom", zoom=0.05, clips=1, debiased=1.0)
    assert trained.count("zoom") == 4


def test_clips_of_another_kind_replace_those_of_the_same_name(lab):
    folder = lab.clips("some", 2, 0, "video")
    kept = (folder / "0000" / "0.png").stat().st_mtime_ns
    assert lab.clips("some", 2, 0, "video") == folder
    assert (folder / "0000" / "0.png").stat().st_mtime_ns == kept
    lab.clips("some", 1, 5, "image", "still", zoom=0.1)
    assert sorted(one.name for one in folder.iterdir()) == ["0000", "done"]
    assert read_json(folder / "done") == {
        "count": 1,
        "first": 5,
        "domain": "image",
        "motion": "still",
        "camera": {"zoom": 0.1},
    }


def test_what_stands_on_something_else_is_made_anew(lab, trained, monkeypatch):
    lab.motion_lora("zoom", zoom=0.04)
    assert trained == ["adapter", "module", "zoom"]
    record = lab.home / "adapter" / stages.RECORD
    record.write_text(json.dumps({"digest": "another", "commits": ["old"]}))
    lab.motion_lora("zoom", zoom=0.04)
    assert trained == ["adapter", "module", "zoom", "adapter"]  # it came out the same, so what is on it stays
    lab.clips("video", 1, 7, "video")
    monkeypatch.setattr(stages.Lab, "video", lambda lab: lab.home / "clips" / "video")
    lab.motion_lora("zoom", zoom=0.04)
    assert trained[4:] == ["adapter", "module", "zoom"]


def test_weights_without_a_record_are_not_trusted(lab, trained):
    (lab.adapter().parent / stages.RECORD).unlink()
    lab.adapter()
    assert trained == ["adapter", "adapter"]


def test_weights_tell_the_commits_that_trained_them(lab, trained):
    path = lab.module()
    later = stages.Lab(lab.folder, 1, SIZES, "second")
    later.module()
    assert later.used == {"first"}
    path.unlink()  # as if the first had been interrupted
    later = replace(later, used=set())
    later.module()
    assert later.used == {"first", "second"}
    assert read_json(path.parent / stages.RECORD)["commits"] == ["first", "second"]
