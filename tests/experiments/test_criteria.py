"""Criteria against made results: samples as they should be pass, and each known way to cheat fails."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from animatediff_flipbook.experiments import catalogue, measures, probes, world
from animatediff_flipbook.experiments.results import Result, Table

SEEDS = (1, 2)
CONFIGS = {one.name[:3]: one for one in catalogue.experiments() if one.name != "e01b_necessity"}
CONFIGS["e1b"] = next(one for one in catalogue.experiments() if one.name == "e01b_necessity")


def scenes(seed, motion="", count=8):
    turns = [motion] if motion else world.MOTIONS[:4]
    return [world.scene(seed, 9_000 + n, turns[n % len(turns)]) for n in range(count)]


def arm(make=world.render, motion="", also=None, **values):
    """An arm's (samples, values) for each seed: `make` draws the sample of a scene, `also` measures more."""
    found = {}
    for seed in SEEDS:
        asked = scenes(seed, motion)
        clips = np.stack([make(scene) for scene in asked])
        samples = looked(clips, asked, getattr(make, "camera", None))
        if also:
            samples |= also(clips, asked, samples)
        found[seed] = (samples, {name: float(value) for name, value in values.items()})
    return found


def looked(clips, asked, camera=None):
    """Measures of clips; the camera's, which take the longest and have their own tests, are what was drawn,
    a little scattered."""
    random, camera = np.random.default_rng(0), camera or world.Camera()
    with pytest.MonkeyPatch.context() as patch:
        scatter = lambda rate: rate and rate * (1 + random.normal(0, 0.05))  # noqa: E731
        patch.setattr(
            probes, "camera", lambda frames: world.Camera(scatter(camera.zoom), scatter(camera.pan))
        )
        return measures.look_all(clips, asked)


def holds(name, **arms):
    """Whether each criterion holds, in the order of the script."""
    found = [
        Result(name, one.replace("_minus", "_-").replace("_plus", "_+"), seed, "", "", 0.0, *told)
        for one, seeds in arms.items()
        for seed, told in seeds.items()
    ]
    verdicts = CONFIGS[name].script.judge(Table(found), CONFIGS[name].config)
    assert all(verdict.figure for verdict in verdicts)
    return [verdict.holds for verdict in verdicts]


def frozen(scene, **more):
    return world.render(scene, **more)[:1].repeat(world.FRAMES, 0)


def jumping(scene):
    """As frame by frame: each frame is a clip of its own."""
    random = np.random.default_rng(int(1e6 * scene.radius))
    return np.stack(
        [world.render(world.scene(77, int(random.integers(1000))))[t] for t in range(world.FRAMES)]
    )


def noisy(scene):
    random = np.random.default_rng(int(1e6 * scene.radius))
    return np.clip(world.render(scene) + random.normal(0, 0.1, (8, 8, 8, 3)), 0, 1).astype(np.float32)


def zooming(zoom=0.04, pan=0.0):
    """Draws with this camera."""
    make = partial(world.render, camera=world.Camera(zoom, pan))
    make.camera = world.Camera(zoom, pan)
    return make


def inked(scene, alpha):
    clean = world.render(scene)
    return (1 - alpha) * clean + alpha * world.as_video(clean)


def still_too(key, measure, make=world.render):
    """Measure of still captions' clips beside those of moving ones."""

    def more(clips, asked, samples):
        rest = [replace(scene, motion="still") for scene in asked]
        return {key: looked(np.stack([make(s) for s in rest]), rest)[measure]}

    return more


# --- E0 to E4 ---


def test_e0_needs_a_module_that_is_seen():
    same = {"differing_clip": 0.0, "differing_frame": 0.0, "differing_weights": 0.0}

    def fresh(**values):
        return {1: ({}, same | values)}

    assert holds("e00", fresh=fresh(differing_control=9.0)) == [True, True]
    assert holds("e00", fresh=fresh(differing_control=0.0)) == [True, False]
    assert holds("e00", fresh=fresh(differing_control=9.0, differing_frame=1.0)) == [False, True]


def alphas(ink=lambda alpha: 0.8 * alpha, make=inked):
    return {
        f"alpha_{alpha:g}": arm(lambda scene, a=alpha: make(scene, ink(a)))
        for alpha in CONFIGS["e01"].config["alphas"]
    }


def test_e1_wants_a_watermark_that_was_learnt_and_sharpness_that_is_no_noise():
    assert holds("e01", **alphas()) == [True] * 4
    assert holds("e01", **alphas(lambda alpha: 0.2 * alpha))[1] is False
    negative = alphas(lambda alpha: -0.3 * alpha)
    assert holds("e01", **negative)[1] is False
    assert holds("e01", **alphas() | {"alpha_0": arm(noisy)})[2] is False
    assert holds("e01", **alphas() | {"alpha_0": arm(jumping)})[3] is False


def test_e1b_wants_a_watermark_to_avoid():
    def both(with_it, without):
        marks = {"with_adapter": with_it, "without_adapter": without}
        return {
            name: arm(lambda scene, a=ink: inked(scene, a), held_out_loss=0.1) for name, ink in marks.items()
        }

    assert holds("e1b", **both(0.1, 0.6)) == [True, True]
    assert holds("e1b", **both(0.5, 0.6))[0] is False
    assert holds("e1b", **both(0.0, 0.1))[0] is False


def test_e2_sees_frozen_clips_and_those_that_are_no_better_than_frame_by_frame():
    steady = still_too("still_steadiness", "steadiness")
    base = {name: arm(jumping, also=steady) for name in ("per_frame", "shared_noise", "cross_frame")}
    assert holds("e02", motion_module=arm(also=steady), **base) == [True] * 6
    right, best, moves, alike, smooth, still = holds("e02", motion_module=arm(frozen, also=steady), **base)
    assert not right and not moves and alike and smooth and still
    same = holds(
        "e02", motion_module=arm(jumping, also=still_too("still_steadiness", "steadiness", jumping)), **base
    )
    assert same == [False, False, True, False, False, False]


def test_e3_needs_a_training_that_worked():
    def both(with_it, without):
        return {
            "with_positions": arm(with_it, order_matters=0.1),
            "without_positions": arm(without, order_matters=1e-6),
        }

    def shuffled(scene):
        return world.render(scene)[[3, 0, 6, 1, 7, 2, 5, 4]]

    assert holds("e03", **both(world.render, shuffled)) == [True, True]
    assert holds("e03", **both(shuffled, shuffled)) == [False, True]
    assert holds("e03", **both(world.render, world.render)) == [False, True]


def test_e4_reads_differences_by_their_interval():
    def both(other):
        return {"transformer": arm(values=100), "convolution": arm(other, values=101)}

    assert holds("e04", **both(frozen)) == [True, True, True, True]
    assert holds("e04", **both(world.render)) == [True, False, False, False]


# --- MotionLoRAs ---


def test_e5_wants_sign_and_rate_at_every_rank_and_none_without():
    def with_loss(zoom, loss):
        def more(clips, asked, samples):
            return {"camera_loss": list(loss + 0.01 * np.arange(len(clips)))}

        return arm(zooming(zoom), "still", more)

    clips = {"clips": arm(zooming(), "still")}
    good = clips | {f"rank_{rank}": with_loss(0.04, 0.05) for rank in (1, 2, 16)}
    without = {"without": with_loss(-0.01, 0.06)}
    assert holds("e05", **good | without) == [True] * 5
    same = holds("e05", **good | {"without": with_loss(0.04, 0.05)})
    assert same == [False, False, True, True, True]
    weak = with_loss(0.01, 0.055)
    assert holds("e05", **good | without | {"rank_1": weak}) == [True, True, True, False, True]
    assert holds("e05", **good | without | {"rank_16": weak})[2] is False


def test_e6_reads_what_the_lora_adds_to_likeness():
    def leaky(part, zoom=0.04):
        """A part of the clips are copies of one of the five references."""

        def more(clips, asked, samples):
            seed = asked[0].waves  # only to tell the seeds apart
            references = [
                zooming(zoom)(world.scene(500 + int(10 * seed[0][2]), n, "still")) for n in range(5)
            ]
            shown = [references[n % 5] if n % 4 < 4 * part else clip for n, clip in enumerate(clips)]
            return {"leak": [probes.likeness(clip, references) for clip in shown]}

        return arm(zooming(zoom), "still", more)

    found = holds("e06", without=leaky(0), clips_5=leaky(0.5), clips_50=leaky(0))
    assert found == [True, True]
    assert holds("e06", without=leaky(0), clips_5=leaky(0), clips_50=leaky(0)) == [True, False]
    assert holds("e06", without=leaky(0), clips_5=leaky(0.5), clips_50=leaky(0.5)) == [True, False]


def strengths(make):
    def more(clips, asked, samples):
        return {"zooms_and_pans": [z * p for z, p in zip(samples["zooms_in"], samples["pans"], strict=True)]}

    made = {"_minus1": -1.0, "_plus0": 0.0, "_plus0.5": 0.5, "_plus1": 1.0, "_plus1.5": 1.5}
    found = {f"zoom{name}": arm(make(0.03 * s, 0.0), "still", more) for name, s in made.items()}
    return found | {"zoom_and_pan": arm(make(0.03, 0.25), "still", more)}


def test_e7_wants_the_other_way_at_minus_one():
    good = strengths(zooming)
    assert holds("e07", **good) == [True, True, True]
    rest = arm(frozen, "still", lambda clips, asked, samples: {"zooms_and_pans": [0.0] * len(clips)})
    assert holds("e07", **good | {"zoom_minus1": rest})[2] is False
    little = strengths(lambda zoom, pan: zooming(max(zoom, -0.003), pan))
    assert holds("e07", **little)[2] is False


def test_e9_needs_a_zoom_that_was_learnt_and_a_difference_that_is_sure():
    def both(zoom, leaks):
        random = np.random.default_rng(0)
        return {
            name: arm(
                zooming(zoom),
                "still",
                lambda clips, asked, samples, m=mean: {"leak": list(random.normal(m, 0.2, len(clips)))},
            )
            for name, mean in zip(("plain", "debiased"), leaks, strict=True)
        }

    assert holds("e09", **both(0.04, (0.8, 0.4))) == [True, True, True]
    assert holds("e09", **both(0.0, (0.8, 0.4)))[1] is False
    assert holds("e09", **both(0.04, (0.5, 0.49)))[0] is False


# --- others ---


def test_e8_sees_the_videos_look_on_the_second_base():
    def drawn(scene):
        return world.render(scene, "style")

    pictures = arm(drawn)
    assert holds("e08", pictures=pictures, animated=arm(drawn)) == [True] * 4
    video = arm(lambda scene: world.as_video(drawn(scene)))
    assert holds("e08", pictures=pictures, animated=video) == [False, False, False, True]
    grey = arm(lambda scene: np.full((8, 8, 8, 3), 0.5, np.float32))
    assert holds("e08", pictures=grey, animated=grey)[0] is False


def test_e10_is_not_won_by_washing_out():
    def clips(noise, contrast=1.0):
        def make(scene):
            random = np.random.default_rng(int(1e6 * scene.radius))
            clip = world.render(scene) + random.normal(0, noise, (8, 8, 8, 3))
            return 0.5 + contrast * (clip - 0.5)

        def more(found, asked, samples):
            off = [
                abs(probes.saturation(c) - probes.saturation(world.render(s)))
                for c, s in zip(found, asked, strict=True)
            ]
            return still_too("still_flicker", "flicker", make)(found, asked, samples) | {
                "saturation_off": off
            }

        return arm(make, also=more)

    good = {"noisy_noisy": clips(0.05), "mild_mild": clips(0.05)}
    assert holds("e10", **good, noisy_mild=clips(0.1, 0.5), mild_noisy=clips(0.1, 0.5)) == [True] * 4
    pale = holds("e10", **good, noisy_mild=clips(0.05, 0.5), mild_noisy=clips(0.05, 0.5))
    assert pale == [False, True, False, True]
    washed = {"noisy_noisy": clips(0.05, 0.5), "mild_mild": clips(0.05, 0.5)}
    assert not any(holds("e10", **washed, noisy_mild=clips(0.05), mild_noisy=clips(0.05)))


def test_e11_is_not_passed_by_following_the_caption():
    from animatediff_flipbook.experiments.e11_control import AGAINST

    def led(scene):
        return replace(scene, motion=f"moving {AGAINST[scene.motion.split()[-1]]}")

    def far(clips, asked, samples):
        pairs = zip(clips, map(led, asked), strict=True)
        return {
            "distance": [
                float(np.hypot(*(probes.track(clip) - probes.track(world.render(one))).T).mean())
                for clip, one in pairs
            ]
        }

    others = {"without_control": arm(also=far), "per_frame_with_control": arm(jumping, also=far)}
    obeying = arm(lambda scene: world.render(led(scene)), also=far)
    assert holds("e11", with_control=obeying, **others) == [True] * 4
    assert holds("e11", with_control=arm(also=far), **others)[0] is False
    assert holds("e11", with_control=others["per_frame_with_control"], **others)[:3] == [False, False, True]


def test_e12_names_ties_and_leaves_out_what_does_not_move():
    def drawn(scene):
        return world.render(scene, "style")

    def pale_jumping(scene):
        return world.as_style(jumping(scene))

    def table(ours, cross, one, frames=pale_jumping):
        made = {"animatediff": ours, "cross_frame": cross, "one_clip_tuning": one, "per_frame": frames}
        found = [
            Result("e12", name, seed, "", "", 0.0, *told)
            for name, make in made.items()
            for seed, told in arm(make).items()
        ]
        return CONFIGS["e12"].script.judge(Table(found), CONFIGS["e12"].config)

    def rough(scene):
        random = np.random.default_rng(int(1e6 * scene.radius))
        return drawn(scene) - 0.1 + random.normal(0, 0.03, (8, 8, 8, 3))

    assert [verdict.holds for verdict in table(drawn, rough, rough)][:2] == [True, True]
    domain, smooth, follows = table(drawn, drawn, lambda scene: drawn(scene)[:1].repeat(8, 0))
    assert not domain.holds and "not told apart" in domain.figure
    assert not smooth.holds and "one_clip_tuning moves 0.00" in smooth.figure
    assert not follows.gate
    nobody = table(drawn, *[lambda scene: drawn(scene)[:1].repeat(8, 0)] * 2)[1]
    assert not nobody.holds and not nobody.gate


def test_a_camera_at_rest_has_no_sign():
    scene = world.scene(1, 1, "still")
    found = measures.look(frozen(scene), scene)
    assert not any(found[name] for name in ("zooms_in", "zooms_out", "pans"))


@pytest.mark.parametrize("measure", ["sharpness", "step", "zoom"])
def test_drawn_clips_are_measured_once(measure):
    camera = {"zoom": 0.04} if measure == "zoom" else {}
    first = measures.drawn(measure, "still" if camera else "", **camera)
    assert first == measures.drawn(measure, "still" if camera else "", **camera) > 0
