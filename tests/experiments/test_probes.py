"""The probes against clips whose truth is known."""

import numpy as np
import pytest
from animatediff_flipbook.experiments import probes, world

SCENES = [world.scene(7, number) for number in range(60)]


@pytest.mark.parametrize("domain", world.DOMAINS)
def test_what_was_drawn_is_what_is_seen(domain):
    clips = [world.render(scene, domain) for scene in SCENES]
    pairs = list(zip(clips, SCENES, strict=True))
    assert all(probes.direction(clip) == scene.motion.split()[-1] for clip, scene in pairs)
    assert all(probes.colour(clip) == scene.colour for clip, scene in pairs)
    if domain != "video":
        pale = domain == "style"
        assert np.mean([probes.ground(clip, pale) == scene.ground for clip, scene in pairs]) > 0.95
    assert all(probes.style(clip) == (domain == "style") for clip in clips)


def test_watermark_is_a_part_of_that_of_the_video_domain():
    marks = {d: np.mean([probes.watermark(world.render(s, d)) for s in SCENES]) for d in world.DOMAINS}
    assert marks["video"] == pytest.approx(1, abs=0.02)
    assert abs(marks["image"]) < 0.05 and abs(marks["style"]) < 0.05


@pytest.mark.parametrize("camera", [world.Camera(0.04), world.Camera(-0.04), world.Camera(0.0, 0.3)])
def test_camera_rates_come_back(camera):
    found = [probes.camera(world.render(world.scene(8, n, "still"), camera=camera)) for n in range(20)]
    assert np.mean([one.zoom for one in found]) == pytest.approx(camera.zoom, abs=0.008)
    assert np.mean([one.pan for one in found]) == pytest.approx(camera.pan, abs=0.02)


def test_frames_in_another_order_are_rougher_and_not_smoother():
    clip = world.render(world.scene(7, 0, "moving left"))
    mixed = clip[[3, 0, 6, 1, 7, 2, 5, 4]]
    assert probes.roughness(mixed) > 4 * probes.roughness(clip)
    assert probes.smoothness(mixed) < probes.smoothness(clip) < 1
    frozen = clip[:1].repeat(8, 0)
    assert probes.smoothness(frozen) == pytest.approx(1) and probes.steadiness(frozen) == 1
    assert np.hypot(*probes.speed(frozen)) < 1e-6
