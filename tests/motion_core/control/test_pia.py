"""PIA: the original's numbers and tables."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from animatediff_flipbook.motion_core.control.pia import (
    SETTINGS,
    frame_values,
    input_channels,
    input_layer,
    with_reference,
)
from animatediff_flipbook.motion_core.files.checkpoint import load_motion_module, open_motion_module
from animatediff_flipbook.motion_core.module.call import MotionCall
from animatediff_flipbook.motion_core.module.injection import inserted
from animatediff_flipbook.tests.support import assert_untouched, fold, relative_error, snapshot, unfold
from animatediff_flipbook.tests.support_families import (
    FP32,
    base_unet,
    golden_file,
    meta,
    run_frames,
    tensors,
)

META = meta("pia")
FILE = golden_file("pia/pia.safetensors")


def setting_of(name):
    return name.replace("_", " ")


@pytest.fixture(scope="module")
def unet():
    return base_unet("pia")


@pytest.mark.parametrize("name", [*META["cases"], "spatial"])
def test_golden(name, unet):
    io = tensors("pia/io.safetensors")
    if name == "spatial":
        channels = input_channels(fold(io["spatial.mask"])[:, 0], fold(io["spatial.references"]))
    else:
        case = META["cases"][name]
        values = frame_values(setting_of(case["setting"]), META["frames"], case["cond_frame"])
        assert values.tolist() == pytest.approx(case["mask"])
        channels = input_channels(values, io["reference"])
    file = open_motion_module(FILE)
    assert file.config.generation == "pia"
    motion = load_motion_module(file, dtype=torch.float32)
    before = snapshot(unet)
    layer = input_layer(tensors("pia/pia.safetensors")["conv_in.weight"], dtype=torch.float32)
    with with_reference(unet, layer, channels):
        call = MotionCall(META["frames"])
        y = run_frames(unet, fold(io["x"]), io["timestep"], io["context"], [(motion, call)])
    assert relative_error(unfold(y, 1), io[f"{name}.y_motion"]) <= FP32
    assert_untouched(unet, before)


@pytest.mark.parametrize("name", META["mask_examples"])
def test_published_tables(name):
    for clip, wanted in META["mask_examples"][name].items():
        frames, reference = (int(word) for word in clip.replace(",", "").split() if word.isdigit())
        if name.startswith("loop") and frames != 16:
            continue  # the original's lists are cut or stand still there, ours are loops
        assert frame_values(setting_of(name), frames, reference).tolist() == pytest.approx(wanted)


@pytest.mark.parametrize("name", [name for name in SETTINGS if name.startswith("loop")])
@pytest.mark.parametrize("frames", [1, 2, 3, 8, 9, 15, 16, 17, 24, 33])
def test_loops_of_any_length_close(name, frames):
    values = frame_values(name, frames).tolist()
    assert len(values) == frames
    assert values[0] == values[-1]
    if frames != 16:
        assert values == values[::-1]


def test_a_reference_anywhere_in_the_clip():
    assert frame_values([1.0, 0.5], 4, -1).tolist() == [0.5, 0.5, 0.5, 1.0]
    with pytest.raises(ValueError, match="frame 4 of a clip of 4"):
        frame_values([1.0], 4, 4)
    with pytest.raises(ValueError, match="at least one"):
        frame_values([], 4)
    with pytest.raises(ValueError, match="Unknown motion setting"):
        frame_values("huge", 4)


def test_the_base_is_whole_after_an_error_and_other_bases_are_refused(unet):
    weight = tensors("pia/pia.safetensors")["conv_in.weight"]
    channels = input_channels(torch.ones(2), torch.zeros(1, 4, 8, 8))
    before = snapshot(unet)
    with pytest.raises(RuntimeError), with_reference(unet, input_layer(weight), channels), inserted(unet, []):
        raise RuntimeError
    assert_untouched(unet, before)
    with (
        pytest.raises(ValueError, match="PIA's input convolution makes 16"),
        with_reference(unet, input_layer(weight[:16]), channels),
    ):
        pass
    with pytest.raises(ValueError, match="9, 3, 3"):
        input_layer(weight[:, :8])


def test_nobody_sees_a_reference_that_is_not_of_this_call(unet):
    """Another thread's call runs through the layer unchanged, and so does one after the end."""
    io = tensors("pia/io.safetensors")
    weight = tensors("pia/pia.safetensors")["conv_in.weight"]
    x = fold(io["x"])
    plain = run_frames(unet, x, io["timestep"], io["context"])
    channels = input_channels(torch.ones(x.shape[0]), io["reference"])
    with torch.no_grad(), with_reference(unet, input_layer(weight), channels), ThreadPoolExecutor(1) as pool:
        other = pool.submit(run_frames, unet, x, io["timestep"], io["context"]).result()
    assert torch.equal(other, plain)
