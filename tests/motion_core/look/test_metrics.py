"""Clips whose motion is known: a smooth texture sampled where the formula says."""

import math

import pytest
import torch
import torch.nn.functional as F
from animatediff_flipbook.motion_core.look.metrics import measure

SIZE = 96


def textured(x, y, seed=0, period=None):
    """Brightness at any place, of waves 8 to 40 pixels long; with ``period`` it repeats along x."""
    generator = torch.Generator().manual_seed(seed)
    value = torch.zeros_like(x)
    for _ in range(24):
        length = 8 + 32 * float(torch.rand(1, generator=generator))
        angle, phase = (2 * math.pi * float(torch.rand(1, generator=generator)) for _ in range(2))
        fx, fy = math.cos(angle) / length, math.sin(angle) / length
        if period:
            fx = round(fx * period) / period
        value = value + torch.sin(2 * math.pi * (fx * x + fy * y) + phase)
    return 0.5 + 0.06 * value


def clip(frames=6, pan=(0.0, 0.0), zoom=0.0, turn=0.0, size=(SIZE, SIZE), **more):
    """Content that moves by ``pan`` pixels (right, down), grows by ``zoom``, turns by degrees per frame."""
    height, width = size
    y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    y, x = y - (height - 1) / 2, x - (width - 1) / 2
    result = []
    for n in range(frames):
        grown, angle = (1 + zoom) ** n, math.radians(turn) * n
        px, py = x - pan[0] * n, y - pan[1] * n
        # Against the turn, in a picture whose y goes down: anticlockwise.
        qx = (px * math.cos(angle) - py * math.sin(angle)) / grown
        qy = (px * math.sin(angle) + py * math.cos(angle)) / grown
        result.append(textured(qx, qy, **more))
    return torch.stack(result).float().clamp(0, 1).unsqueeze(-1).expand(-1, -1, -1, 3)


@pytest.mark.parametrize(
    ("pan", "direction"),
    [((2, 0), 0), ((0, -3), 90), ((-1.5, 0), 180), ((0, 1), 270), ((0.25, -0.25), 45), ((5, 5), 315)],
)
def test_a_pan_of_any_direction_and_speed(pan, direction):
    found = measure(clip(pan=pan))
    wanted = 100 * math.hypot(*pan) / SIZE
    assert found.motion == pytest.approx(wanted, rel=0.08)
    assert found.pan == pytest.approx(wanted, rel=0.05)
    assert abs((found.direction - direction + 180) % 360 - 180) < 2
    assert abs(found.zoom) < 0.15
    assert found.flicker < 0.6
    assert found.smoothness > 0.9


@pytest.mark.parametrize("zoom", [0.02, -0.02, 0.005])
def test_zoom(zoom):
    found = measure(clip(zoom=zoom))
    assert found.zoom == pytest.approx(100 * zoom, rel=0.1)
    assert found.pan < 0.1 and found.flicker < 0.4


def test_zoom_and_pan_at_once_in_a_wide_picture():
    found = measure(clip(zoom=0.01, pan=(2, 0), size=(72, 128)))
    assert found.zoom == pytest.approx(1.0, rel=0.15)
    assert found.direction < 3 or found.direction > 357


@pytest.mark.parametrize("turn", [1.0, -2.0])
def test_turn(turn):
    steps = measure(clip(turn=turn)).steps
    assert sum(step.turn for step in steps) / len(steps) == pytest.approx(turn, rel=0.1)


def test_a_still_clip():
    found = measure(clip())
    assert (found.motion, found.zoom, found.flicker) == pytest.approx((0, 0, 0), abs=1e-3)
    assert (found.smoothness, found.loop_seam, found.direction) == (1.0, 1.0, 0.0)
    assert not found.has_direction


@pytest.mark.parametrize("pan", [(0, 0), (2, 0)])
@pytest.mark.parametrize("jump", [0.01, 0.05])
def test_brightness_that_alternates_reads_as_what_it_jumps_by(jump, pan):
    frames = clip(frames=7, pan=pan)
    signs = torch.tensor([1.0, -1.0] * 4)[:7].view(-1, 1, 1, 1)
    found = measure(frames + signs * jump / 2)
    assert found.flicker == pytest.approx(100 * jump, rel=0.15, abs=0.2)
    assert found.pan == pytest.approx(100 * pan[0] / SIZE, abs=0.15)


def test_a_steady_fade_is_no_flicker():
    frames = 0.5 * clip(frames=6) + torch.linspace(0, 0.4, 6).view(-1, 1, 1, 1)
    assert measure(frames).flicker < 0.1


def test_noise_of_its_own_in_every_frame_is_flicker():
    frames = clip(frames=6)
    noise = 0.02 * torch.randn(frames.shape[:3], generator=torch.Generator().manual_seed(0))
    wanted = 100 * 0.02 * math.sqrt(1.5) * math.sqrt(2 / math.pi)
    assert measure(frames + noise.unsqueeze(-1)).flicker == pytest.approx(wanted, rel=0.25)


def test_back_and_forth_is_not_smooth():
    forth = clip(frames=2, pan=(2, 0))
    assert measure(forth[[0, 1, 0, 1, 0, 1]]).smoothness < 0.1
    assert measure(clip(pan=(2, 0))).smoothness > 0.95


@pytest.mark.parametrize(("missing", "seam"), [(0, 1.0), (1, 2.0), (2, 3.0)])
def test_the_seam_of_a_loop(missing, seam):
    """The picture repeats after 96 pixels: 48 frames of 2 pixels close, without the last there is a jump."""
    frames = torch.cat([clip(frames=1, period=SIZE).roll(2 * n, dims=2) for n in range(SIZE // 2)])
    frames = F.avg_pool2d(frames.movedim(-1, 1), 5, 1, 2).movedim(1, -1)
    found = measure(frames[: len(frames) - missing])
    assert found.loop_seam == pytest.approx(seam, rel=0.15)


def test_large_pictures_are_measured_alike():
    small = clip(frames=3, pan=(2, 0))
    large = F.interpolate(small.movedim(-1, 1), scale_factor=6, mode="bicubic").movedim(1, -1)
    assert measure(large).motion == pytest.approx(measure(small).motion, rel=0.08)


@pytest.mark.parametrize("size", [(48, 160), (160, 48), (20, 200)])
def test_a_pan_in_a_picture_of_any_shape_is_of_its_longer_side(size):
    found = measure(clip(pan=(2, 1), size=size))
    assert found.pan == pytest.approx(100 * math.hypot(2, 1) / max(size), rel=0.06)
    assert found.direction == pytest.approx(360 - math.degrees(math.atan2(1, 2)), abs=2)


def test_a_narrow_picture_is_made_smaller_alike_on_both_sides():
    """A strip of 1280 x 32, of which flow looks at 640 x 16."""
    found = measure(clip(frames=3, pan=(4, 2), size=(32, 1280)))
    assert found.direction == pytest.approx(360 - math.degrees(math.atan2(2, 4)), abs=6)
    assert found.pan == pytest.approx(100 * math.hypot(4, 2) / 1280, rel=0.15)


def test_alpha_and_grey_are_read_as_what_they_are():
    wanted = measure(clip(frames=4, pan=(2, 0)))
    colours = clip(frames=4, pan=(2, 0))
    alpha = torch.rand(*colours.shape[:3], 1, generator=torch.Generator().manual_seed(0))
    assert measure(torch.cat([colours, alpha], dim=-1)) == wanted
    for grey in (colours[..., :1], torch.cat([colours[..., :1], alpha], dim=-1)):
        assert measure(grey).pan == pytest.approx(wanted.pan, rel=1e-4)


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_black_and_white_clips_are_still(level):
    found = measure(torch.full((5, 40, 24, 3), level))
    numbers = (found.motion, found.pan, found.zoom, found.flicker, found.direction)
    assert numbers == pytest.approx((0, 0, 0, 0, 0), abs=1e-4)
    assert (found.smoothness, found.loop_seam) == (1.0, 1.0)


def test_a_cut_to_black_is_a_jump_and_no_motion_of_the_whole():
    frames = clip(frames=6)
    frames = torch.cat([frames[:3], torch.zeros_like(frames[:3])])
    found = measure(frames)
    assert found.flicker > 5 and found.pan < 1
    assert all(math.isfinite(value) for value in (found.zoom, found.smoothness, found.loop_seam))


def test_values_that_are_no_numbers_are_refused():
    frames = clip(frames=3)
    frames = frames.clone()
    frames[1, 5, 5] = float("nan")
    with pytest.raises(ValueError, match="no numbers"):
        measure(frames)


@pytest.mark.slow
def test_a_long_clip_takes_no_more_memory_than_its_small_pictures():
    """500 frames of a pan; flows are not kept. Ten seconds and more."""
    frames = torch.cat([clip(frames=1, period=SIZE).roll(2 * n, dims=2)[:, :48] for n in range(500)])
    found = measure(frames)
    assert len(found.steps) == 499 and len(found.jumps) == 498
    assert found.pan == pytest.approx(100 * 2 / SIZE, rel=0.05) and found.smoothness > 0.9


def test_frames_and_steps_between_them_are_told():
    told = []
    measure(clip(frames=3), lambda done, total: told.append((done, total)))
    assert told == [(number, 5) for number in range(1, 6)]


def test_two_frames_are_enough_and_plain_ones_say_nothing():
    assert measure(clip(frames=2, pan=(2, 0))).flicker == 0.0
    plain = measure(torch.full((4, 32, 48, 3), 0.3))
    assert (plain.motion, plain.flicker, plain.smoothness) == pytest.approx((0, 0, 1), abs=1e-4)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="at least two"):
        measure(torch.zeros(1, 32, 32, 3))
    with pytest.raises(ValueError, match="16 x 16"):
        measure(torch.zeros(3, 8, 32, 3))
