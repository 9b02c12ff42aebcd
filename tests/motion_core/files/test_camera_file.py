"""CameraCtrl files: whichever way the parts are put together, the same model; other files get a sentence."""

import pytest
import torch
from animatediff_flipbook.motion_core.files.camera_file import load_camera_model, open_camera_file
from animatediff_flipbook.motion_core.files.checkpoint import open_motion_module
from animatediff_flipbook.tests.support_families import golden_file, tensors
from safetensors.torch import save_file

FLAT = golden_file("cameractrl/cameractrl.safetensors")


@pytest.fixture(scope="module")
def state():
    return tensors("cameractrl/cameractrl.safetensors")


def parts(state, start=""):
    merges = {f"{start}{key}": value for key, value in state.items() if "qkv_merge" in key}
    encoder = {f"{start}{key}": value for key, value in state.items() if "qkv_merge" not in key}
    return encoder, merges


@pytest.mark.parametrize("start", ["", "module."])
def test_the_authors_checkpoint(start, state, tmp_path):
    encoder, merges = parts(state, start)
    path = tmp_path / "CameraCtrl.ckpt"
    content = {"epoch": 3, "global_step": 50000}
    torch.save(
        {**content, "pose_encoder_state_dict": encoder, "attention_processor_state_dict": merges}, path
    )
    model = load_camera_model(open_camera_file(path), dtype=torch.float32)
    wanted = load_camera_model(open_camera_file(FLAT), dtype=torch.float32)
    assert model.widths == wanted.widths
    assert len(model.widths) == len(merges) // 2
    got, wanted = model.state_dict(), wanted.state_dict()
    assert list(got) == list(wanted)
    assert all(torch.equal(got[key], value) for key, value in wanted.items())


def test_half_a_file_is_refused(state, tmp_path):
    encoder, merges = parts(state)
    for name, half, words in (
        ("encoder", encoder, "encoder.safetensors cannot be used.*no qkv_merge"),
        ("merges", merges, "merges.safetensors cannot be used.*incomplete"),
    ):
        path = tmp_path / f"{name}.safetensors"
        save_file(half, path)
        with pytest.raises(ValueError, match=words):
            load_camera_model(open_camera_file(path))


def test_values_that_are_no_weights_are_refused(state, tmp_path):
    path = tmp_path / "broken.safetensors"
    key = next(key for key in state if "qkv_merge.bias" in key)
    save_file({**state, key: torch.full_like(state[key], torch.inf)}, path)
    with pytest.raises(ValueError, match="not finite"):
        load_camera_model(open_camera_file(path))


def test_a_file_in_the_wrong_node_names_the_right_one():
    with pytest.raises(ValueError, match="not a motion module.*Load Camera Control"):
        open_motion_module(FLAT)
    with pytest.raises(ValueError, match="not a CameraCtrl model.*Load Motion Module"):
        open_camera_file(golden_file("sd/v3_motion_module.safetensors"))


def test_fancyvideo_is_refused_by_its_keys(tmp_path):
    path = tmp_path / "fancy.safetensors"
    state = tensors("sd/v3_motion_module.safetensors") | {"fps_embedding.weight": torch.ones(2, 2)}
    save_file(state, path)
    with pytest.raises(ValueError, match="FancyVideo"):
        open_motion_module(path)
