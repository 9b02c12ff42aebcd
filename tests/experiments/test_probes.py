"""The probes against clips whose truth is known."""

from dataclasses import replace

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
    assert probes.step(frozen) < 1e-6 < 0.4 < probes.step(clip) < 0.7 < probes.step(mixed)


def test_jumping_to_and_fro_is_motion_but_no_net_motion():
    there, back = (world.render(world.scene(7, 0, f"moving {way}")) for way in ("left", "right"))
    jumping = np.concatenate([[a, b] for a, b in zip(there[:4], back[:4], strict=True)])
    assert np.hypot(*probes.speed(jumping)) < 0.5 * np.hypot(*probes.speed(there))
    assert probes.step(jumping) > 2 * probes.step(there)


def test_look_is_graded_and_sees_each_way_out_of_the_style():
    scenes = [world.scene(7, number, "moving up") for number in range(30)]
    # the same captions' scenes with other waves, sizes and places: what a sample is compared with
    others = [replace(scene, waves=world.scene(8, n).waves, radius=1.5) for n, scene in enumerate(scenes)]

    def mean(change):
        pairs = zip(scenes, others, strict=True)
        return np.mean(
            [probes.style(change(world.render(s, "style")), world.render(o, "style")) for s, o in pairs]
        )

    alike = mean(lambda clip: clip)
    assert alike > 0.85
    for change in (
        world.as_video,
        lambda clip: np.full_like(clip, 0.5),
        np.ones_like,
        lambda clip: (clip - 0.45) / 0.55,  # the first base's colours
        lambda clip: clip + np.random.default_rng(0).normal(0, 0.15, clip.shape),
    ):
        assert mean(change) < alike - 0.25
    half = mean(lambda clip: clip / 2 + world.as_video(clip) / 2)
    assert mean(world.as_video) + 0.1 < half < alike - 0.1


def test_washed_out_clips_flicker_as_much_and_are_less_saturated():
    random = np.random.default_rng(0)
    clip = np.stack([world.render(world.scene(7, 0, "still"))[0]] * 8) + random.normal(0, 0.05, (8, 8, 8, 3))
    pale = 0.5 + 0.4 * (clip - 0.5)
    assert probes.steadiness(pale) > probes.steadiness(clip)
    assert probes.flicker(pale) == pytest.approx(probes.flicker(clip))
    assert probes.saturation(pale) == pytest.approx(0.4 * probes.saturation(clip))


def test_a_copied_ground_is_more_like_its_reference_than_grounds_that_were_drawn():
    clips = [world.render(world.scene(9, n, "still"), camera=world.Camera(0.04)) for n in range(12)]
    assert probes.likeness(clips[0], clips[:5]) == pytest.approx(1)
    assert np.mean([probes.likeness(clip, clips[:5]) for clip in clips[5:]]) < 0.8
