"""Motion Metrics and Compare Clips through the nodes."""

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
    assert "needs three frames" in MotionMetrics.execute(images=rolling[:2]).result[6]
    with pytest.raises(ValueError, match="at least two"):
        MotionMetrics.execute(images=rolling[:1])


def test_the_first_the_second_and_their_difference(rolling):
    other = rolling.flip(2)[..., :3]
    drawn, error, report = CompareClips.execute(images=rolling, other_images=other, gain=2.0).result
    assert drawn.shape == (6, 64, 192, 3)
    assert torch.equal(drawn[:, :, :64], rolling[..., :3]) and torch.equal(drawn[:, :, 64:128], other)
    difference = (rolling[..., :3] - other).abs()
    assert torch.allclose(drawn[:, :, 128:], (2 * difference).clamp(max=1))
    assert error == pytest.approx(100 * float(difference.mean()))
    assert report.count("\n") == 0


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
