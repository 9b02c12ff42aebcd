"""Motion Metrics and Compare Clips through the nodes."""

import comfy.model_management
import comfy.utils
import pytest
import torch
from animatediff_flipbook.motion_core.look.metrics import measure
from animatediff_flipbook.nodes.look.compare_clips import CompareClips
from animatediff_flipbook.nodes.look.motion_metrics import NUMBERS, MotionMetrics


@pytest.fixture
def rolling():
    """A blurred random picture that moves two pixels to the left in every frame."""
    noise = torch.rand(1, 1, 64, 96, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.avg_pool2d(noise, 7, 1, 3)
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    frames = [smooth[0, 0].roll(-2 * n, 1)[:, :64] for n in range(6)]
    return torch.stack(frames).unsqueeze(-1).repeat(1, 1, 1, 4)


def test_metrics_are_those_of_the_core_with_a_plot(rolling):
    *numbers, report, plot = MotionMetrics.execute(images=rolling).result
    found = measure(rolling)
    assert numbers == pytest.approx([getattr(found, name) for name, _ in NUMBERS])
    assert abs(numbers[3] - 180) < 3 and numbers[2] == pytest.approx(100 * 2 / 64, rel=0.1)
    assert "6 frames of 64 x 64" in report and "180 degrees" in report
    assert plot.shape[0] == 1 and plot.std() > 0.01


def test_two_frames_have_no_flicker_and_it_is_said(rolling):
    with pytest.raises(ValueError, match="at least two"):
        MotionMetrics.execute(images=rolling[:1])

    report = MotionMetrics.execute(images=rolling[:2]).result[6]
    assert report.count("needs three frames") == 3 and "closes" not in report


def test_on_a_device_that_cannot_sample_between_pixels_the_cpu_measures(rolling, monkeypatch):
    """Apple's, for one; torch without it refuses it as well."""
    wanted = MotionMetrics.execute(images=rolling).result[:6]
    monkeypatch.setattr(comfy.model_management, "get_torch_device", lambda: torch.device("mps"))
    assert MotionMetrics.execute(images=rolling).result[:6] == wanted


def test_the_first_the_second_and_their_difference(rolling):
    other = rolling.flip(2)[..., :3]
    drawn, error, report = CompareClips.execute(images=rolling, other_images=other, gain=2.0).result
    assert drawn.shape == (6, 64, 192, 3)
    assert torch.equal(drawn[:, :, :64], rolling[..., :3]) and torch.equal(drawn[:, :, 64:128], other)
    difference = (rolling[..., :3] - other).abs()
    assert torch.allclose(drawn[:, :, 128:], (2 * difference).clamp(max=1))
    assert error == pytest.approx(100 * float(difference.mean()))
    assert report.splitlines()[1:] == ["Alpha was not compared"]


def test_a_clip_and_itself(rolling):
    drawn, error, _ = CompareClips.execute(images=rolling, other_images=rolling, view="difference").result
    assert error == 0.0 and not drawn.any() and drawn.shape[2] == 64


@pytest.mark.parametrize(("length", "frames"), [("shorter", 4), ("longer", 6)])
def test_other_sizes_and_lengths_are_fitted_and_said(rolling, length, frames):
    other = torch.nn.functional.interpolate(rolling[:4, ..., :3].movedim(-1, 1), size=(32, 48)).movedim(1, -1)
    for pair in ((rolling, other), (other, rolling)):
        drawn, _, report = CompareClips.execute(
            images=pair[0], other_images=pair[1], view="both", length=length
        ).result
        assert drawn.shape == (frames, pair[0].shape[1], 2 * pair[0].shape[2], 3)
        assert "stretched" in report and "frames:" in report
    if length == "longer":
        assert torch.equal(drawn[5, :, :48], drawn[3, :, :48])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["images", "other_images"])
def test_values_that_are_no_numbers_are_not_compared(rolling, name, value):
    clips = {"images": rolling, "other_images": rolling}
    clips[name] = rolling.clone()
    clips[name][3, 0, 0, 1] = value
    with pytest.raises(ValueError, match=f"Frame 3 of {name} holds values that are no numbers"):
        CompareClips.execute(**clips)


@pytest.mark.parametrize("length", ["shorter", "longer"])
@pytest.mark.parametrize("name", ["images", "other_images"])
def test_a_clip_without_frames_is_refused(rolling, name, length):
    clips = {"images": rolling, "other_images": rolling, name: rolling[:0]}
    with pytest.raises(ValueError, match=f"^{name} holds no frame"):
        CompareClips.execute(**clips, length=length)


def test_grey_is_compared_as_grey_and_alpha_is_said_to_be_left_out(rolling):
    grey, colours = rolling[..., :1], rolling[..., :3].flip(1)
    for pair in ((grey, colours), (colours, grey)):
        drawn, error, report = CompareClips.execute(images=pair[0], other_images=pair[1], view="both").result
        assert torch.equal(drawn, torch.cat([one.expand(-1, -1, -1, 3) for one in pair], dim=2))
        assert error == pytest.approx(100 * float((grey - colours).abs().mean())) and "Alpha" not in report
    assert "Alpha was not compared" in CompareClips.execute(images=rolling, other_images=colours).result[2]


def test_comparing_moves_the_bar_and_stops_between_frames(rolling, monkeypatch):
    told = []

    def update(bar, done, total=None, preview=None):
        told.append((done, total or bar.total))
        if len(told) == 8:
            raise InterruptedError

    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", update)
    CompareClips.execute(images=rolling, other_images=rolling)
    assert told == [(number, 6) for number in range(1, 7)]
    with pytest.raises(InterruptedError):
        CompareClips.execute(images=rolling, other_images=rolling)
    assert len(told) == 8
