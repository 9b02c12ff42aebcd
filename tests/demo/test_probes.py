"""The probes against clips whose truth is known: what they say of generated clips is worth no more than this."""

import numpy as np
import pytest
from animatediff_flipbook.demo import probes, world

COUNT = 40  # clips a test; 39 of 40 is 97.5 %
SEED = 900
LEAST = 0.97


@pytest.fixture(scope="module", params=world.DOMAINS)
def clips(request):
    """(scene, frames) of one domain, motions in turn."""
    motions = [world.MOTIONS[i % len(world.MOTIONS)] for i in range(COUNT)]
    scenes = [world.scene(SEED, i, motion) for i, motion in enumerate(motions)]
    frames = [world.clip(SEED, i, request.param, motion)[0] for i, motion in enumerate(motions)]
    return list(zip(scenes, frames, strict=True))


def test_direction(clips):
    moving = [(s, f) for s, f in clips if s.motion.startswith("moving")]
    assert np.mean([probes.direction(f) == s.motion.split()[-1] for s, f in moving]) >= LEAST


def test_motion_words(clips):
    assert np.mean([probes.motion(f) == s.motion for s, f in clips]) >= LEAST


def test_colour(clips):
    assert np.mean([probes.colour(f) == s.colour for s, f in clips]) >= LEAST


def test_shape(clips):
    assert np.mean([probes.shape(f[8]) == s.shape for s, f in clips]) >= 0.9


def test_still_camera(clips):
    found = [probes.camera(f[::3]) for _, f in clips[:12]]
    assert max(abs(c.zoom) for c in found) < 0.004
    assert max(abs(c.pan_x) for c in found) < 0.4


@pytest.mark.parametrize("domain", world.DOMAINS)
@pytest.mark.parametrize(
    "truth",
    [
        world.Camera(zoom=0.025),
        world.Camera(zoom=-0.025),
        world.Camera(pan_x=-2.0),
        world.Camera(pan_x=2.0),
    ],
)
def test_camera_signs(domain, truth):
    names = ("zoom", "pan_x")
    right = []
    for index in range(12):
        found = probes.camera(world.clip(SEED + 1, index, domain, camera=truth)[0][:6])
        name = max(names, key=lambda name: abs(getattr(truth, name)))
        right.append(np.sign(getattr(found, name)) == np.sign(getattr(truth, name)))
    assert np.mean(right) >= LEAST


def test_camera_rates_are_about_right_in_crisp_clips():
    truth = world.Camera(zoom=0.02, pan_x=1.5, pan_y=-1.0)
    ratios = []
    for index in range(6):
        if world.scene(SEED + 2, index).texture == "striped":
            continue  # along stripes nothing can be seen
        found = probes.camera(world.clip(SEED + 2, index, camera=truth)[0][:6])
        ratios.append((found.zoom / truth.zoom, found.pan_x / truth.pan_x, found.pan_y / truth.pan_y))
    assert np.abs(np.median(ratios, axis=0) - 1).max() < 0.3


def test_watermark_is_seen_in_the_video_domain_only():
    for index in range(8):
        image, video = (probes.watermark(world.clip(SEED, index, d)[0]) for d in world.DOMAINS)
        assert video > 0.6
        assert abs(image) < 0.35


def test_video_domain_is_less_sharp():
    for index in range(4):
        image, video = (probes.sharpness(world.clip(SEED, index, d)[0]) for d in world.DOMAINS)
        assert video < image


def test_steadiness_of_a_still_clip_is_one():
    frames, _ = world.clip(SEED, 0, motion="still")
    assert probes.steadiness(frames) == 1.0
    assert probes.steadiness(frames * np.linspace(0.5, 1, 16)[:, None, None, None]) < 1.0


def test_nothing_coloured_is_reported_as_such():
    grey = np.full((4, 128, 128, 3), 0.5)
    assert probes.colour(grey) is None
    assert probes.shape(grey[0]) is None
    assert not probes.track(grey).travel.any()
