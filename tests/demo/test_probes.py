"""The probes against clips whose truth is known: of generated clips they cannot know more than this."""

import numpy as np
import pytest
from animatediff_flipbook.demo import probes, world

COUNT = 40  # clips a test; 39 of 40 is 97.5 %
SEED = 900
LEAST = 0.97


WHOLE = np.linspace(0, 1, 6)  # six frames over the clip, to save time
START = np.arange(6) / 15  # the first six of sixteen: what a camera's rates are measured on


def draw(scene, domain, times=WHOLE, camera=None):
    frames = world.render(scene, times, camera)
    return world.as_video(frames) if domain == "video" else frames


@pytest.fixture(scope="module", params=world.DOMAINS)
def clips(request):
    """(scene, frames) of one domain, motions in turn."""
    scenes = [world.scene(SEED, i, world.MOTIONS[i % len(world.MOTIONS)]) for i in range(COUNT)]
    return [(scene, draw(scene, request.param)) for scene in scenes]


def test_direction(clips):
    moving = [(s, f) for s, f in clips if s.motion.startswith("moving")]
    assert np.mean([probes.direction(f) == s.motion.split()[-1] for s, f in moving]) >= LEAST


def test_motion_words(clips):
    assert np.mean([probes.motion(f) == s.motion for s, f in clips]) >= LEAST


def test_colour(clips):
    assert np.mean([probes.colour(f) == s.colour for s, f in clips]) >= LEAST


def test_shape(clips):
    assert np.mean([probes.shape(f[3]) == s.shape for s, f in clips]) >= 0.9


def test_shape_of_a_clip_and_that_it_is_one_object(clips):
    resting = [(s, f) for s, f in clips if s.motion != "shrinking"]
    assert np.mean([probes.shape_of_clip(f) == s.shape for s, f in resting]) >= LEAST
    assert np.mean([probes.objects(frame) == 1 for _, f in clips for frame in f]) >= LEAST


def test_two_objects_are_counted_and_crumbs_are_not():
    red = np.array(world.COLOURS["red"])
    frame = np.full((128, 128, 3), 0.5)
    assert probes.objects(frame) == 0
    frame[20:50, 20:50] = red
    frame[100:103, 100:103] = red
    assert probes.objects(frame) == 1
    frame[70:90, 70:90] = red
    assert probes.objects(frame) == 2


@pytest.mark.parametrize("domain", world.DOMAINS)
def test_still_camera(domain):
    # but of a shrinking shape: its shadow does as a zoom does
    motions = [words for words in world.MOTIONS if words != "shrinking"]
    scenes = [world.scene(SEED, index, motions[index % len(motions)]) for index in range(8)]
    found = [probes.camera(draw(scene, domain, START[:4])) for scene in scenes]
    assert max(abs(c.zoom) for c in found) < 0.004
    assert max(abs(c.pan_x) for c in found) < 0.4
    assert max(abs(c.roll) for c in found) < 0.3


@pytest.mark.parametrize("domain", world.DOMAINS)
@pytest.mark.parametrize(
    "truth",
    [
        world.Camera(zoom=0.025),
        world.Camera(zoom=-0.025),
        world.Camera(pan_x=-2.0),
        world.Camera(pan_x=2.0),
        world.Camera(roll=1.5),
        world.Camera(roll=-1.5),
    ],
)
def test_camera_signs(domain, truth):
    names = ("zoom", "pan_x", "roll")
    right = []
    for index in range(12):
        found = probes.camera(draw(world.scene(SEED + 1, index), domain, START, truth))
        name = max(names, key=lambda name: abs(getattr(truth, name)))
        right.append(np.sign(getattr(found, name)) == np.sign(getattr(truth, name)))
    assert np.mean(right) >= LEAST


def test_camera_rates_are_about_right_in_crisp_clips():
    truth = world.Camera(zoom=0.02, pan_x=1.5, pan_y=-1.0, roll=1.0)
    ratios = []
    for index in range(6):
        if world.scene(SEED + 2, index).texture == "striped":
            continue  # along stripes nothing can be seen
        found = probes.camera(draw(world.scene(SEED + 2, index), "image", START, truth))
        pans = (found.pan_x / truth.pan_x, found.pan_y / truth.pan_y)
        ratios.append((found.zoom / truth.zoom, found.roll / truth.roll, *pans))
    assert np.abs(np.median(ratios, axis=0) - 1).max() < 0.3


def test_watermark_is_seen_in_the_video_domain_only():
    for index in range(8):
        image, video = (probes.watermark(draw(world.scene(SEED, index), d)) for d in world.DOMAINS)
        assert video > 0.6
        assert abs(image) < 0.35


def test_video_domain_is_less_sharp():
    for index in range(6):
        image, video = (probes.sharpness(draw(world.scene(SEED, index), d)) for d in world.DOMAINS)
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


def test_closure_of_a_loop_is_a_step_and_of_a_way_its_length():
    content = world.scene(SEED, 0, "moving right")
    there = world.render(content)
    there_and_back = np.concatenate([there, there[::-1][1:-1]])
    assert probes.closure(there_and_back) == pytest.approx(1.0, abs=0.35)
    assert probes.closure(there) > 3
