"""The nodes around context windows: prompt and number schedules, noise, FreeInit, the preview."""

import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.utils
import pytest
import torch
from animatediff_flipbook.motion_core.clips.frame_noise import NOISE_KINDS
from animatediff_flipbook.motion_core.clips.free_init import (
    LowPass,
    diffuse,
    low_pass_filter,
    mix_frequencies,
)
from animatediff_flipbook.nodes.context.context import ContextSampler, ContextWindows
from animatediff_flipbook.nodes.context.context_preview import STRAIGHT, WRAPPED, ContextPreview
from animatediff_flipbook.nodes.noise.frame_noise import FrameNoiseNode, read_seeds
from animatediff_flipbook.nodes.noise.free_init import FreeInitSampler
from animatediff_flipbook.nodes.schedule.prompt_schedule import FloatSchedule, PromptSchedule
from comfy.patcher_extension import WrappersMP
from comfy_execution.graph_utils import ExecutionBlocker

import nodes as comfy_nodes


@pytest.fixture(scope="module")
def base(tiny_checkpoint):
    """``(model, clip)`` of the tiny family with random weights."""
    return comfy.sd.load_checkpoint_guess_config(str(tiny_checkpoint), output_vae=False)[:2]


def encode(clip, text):
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))[0]


def latent(frames=8, size=4):
    return {"samples": torch.zeros(frames, 4, size, size)}


# -- prompts --


def test_prompt_schedule_blends_the_prompts_of_the_table(base):
    _, clip = base
    ((frames, extra),) = PromptSchedule.execute(clip, "0: a red circle / 4: a blue square", 6).args[0]
    (first, first_extra), (second, second_extra) = (
        encode(clip, text) for text in ("a red circle", "a blue square")
    )
    assert frames.shape == (6, *first.shape[1:])
    for frame, weight in enumerate((0.0, 0.25, 0.5, 0.75, 1.0, 1.0)):
        torch.testing.assert_close(frames[frame], torch.lerp(first, second, weight)[0])
        torch.testing.assert_close(
            extra["pooled_output"][frame],
            torch.lerp(first_extra["pooled_output"], second_extra["pooled_output"], weight)[0],
        )


def test_prompt_schedule_encodes_each_prompt_once_with_its_surroundings(base):
    _, clip = base
    seen = []

    class Clip:
        def tokenize(self, text):
            seen.append(text)
            return clip.tokenize(text)

        def encode_from_tokens_scheduled(self, tokens):
            return clip.encode_from_tokens_scheduled(tokens)

    PromptSchedule.execute(
        Clip(), "0: a circle / 4: a square / 8: a circle", 9, prepend="red", append="moving left"
    )
    assert seen == ["red, a circle, moving left", "red, a square, moving left"]


def test_prompts_of_different_length_fit_together(base):
    _, clip = base
    ((frames, _),) = PromptSchedule.execute(
        clip, f"0: a red circle / 4: {'a blue square, ' * 20}", 5, interpolation="spherical"
    ).args[0]
    assert frames.shape[1] == 64
    assert torch.isfinite(frames).all()


def test_a_key_frame_among_longer_prompts_looks_as_its_prompt_alone(base):
    model, clip = base
    text = f"0:: a red circle / 4: {'a blue square, ' * 20}"
    ((frames, extra),) = PromptSchedule.execute(clip, text, 4).args[0]

    def sampled(conds):
        noise = comfy.sample.prepare_noise(latent(4)["samples"], 1)
        empty = [encode(clip, "")]
        with torch.inference_mode():
            return comfy.sample.sample(
                model, noise, 2, 3.0, "euler", "normal", conds, empty, latent(4)["samples"], seed=1
            )

    alone = sampled([encode(clip, "a red circle")])
    torch.testing.assert_close(sampled([[frames, extra]]), alone, rtol=0, atol=1e-4)


def test_the_length_can_come_from_a_latent(base):
    _, clip = base
    ((frames, _),) = PromptSchedule.execute(clip, "0: a circle / 1.0: a square", 16, latent(5)).args[0]
    assert len(frames) == 5
    assert len(FloatSchedule.execute("0: 0 / 1.0: 1", 16, latent(5)).args[0]) == 5


def test_float_schedule_gives_numbers_and_masks():
    floats, each, mask = FloatSchedule.execute("0: -1 / 4: 3", 5).args
    assert floats == each == pytest.approx([-1, 0, 1, 2, 3])
    assert mask.shape == (5, 64, 64)
    assert mask[:, 3, 7].tolist() == [0, 0, 1, 1, 1]


def test_a_scheduled_mask_sets_how_strong_a_prompt_is_in_each_frame(base):
    """Through ComfyUI's own conditioning: at 0 and 1 a frame shows one prompt as if it were the only one."""
    model, clip = base
    mask = FloatSchedule.execute("0:: 0 / 2: 1", 4).args[2]
    (one, extra), (other, _) = encode(clip, "a red circle"), encode(clip, "a blue square")
    empty = [encode(clip, "")]

    def sampled(conds):
        noise = comfy.sample.prepare_noise(latent(4)["samples"], 1)
        with torch.inference_mode():
            return comfy.sample.sample(
                model, noise, 2, 3.0, "euler", "normal", conds, empty, latent(4)["samples"], seed=1
            )

    mixed = sampled([[one, {**extra, "mask": mask}], [other, {**extra, "mask": 1.0 - mask}]])
    alone, other_alone = sampled([[one, extra]]), sampled([[other, extra]])
    # ComfyUI batches three texts and two in different ways, and fp32 rounds accordingly.
    close = {"rtol": 1e-3, "atol": 1e-3 * float((alone - other_alone).abs().mean())}
    torch.testing.assert_close(mixed[2:], alone[2:], **close)
    torch.testing.assert_close(mixed[:2], other_alone[:2], **close)


# -- noise --


def test_noise_goes_through_comfyuis_custom_sampler(base):
    from comfy_extras.nodes_custom_sampler import BasicGuider, SamplerCustomAdvanced

    model, clip = base
    noise = FrameNoiseNode.execute("constant", 4).args[0]
    guider = BasicGuider.execute(model, [encode(clip, "a red circle")]).args[0]
    sampler = comfy.samplers.sampler_object("euler")
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 2)
    with torch.inference_mode():
        out = SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent()).args[0]["samples"]
    torch.testing.assert_close(out[1], out[0])  # no motion module: frames of one noise are one picture
    assert noise.seed == 4


def test_noise_as_a_latent_is_the_same_noise():
    source, as_latent = FrameNoiseNode.execute("freenoise", 9, length=4, overlap=2, latent=latent(12)).args
    assert torch.equal(as_latent["samples"], source.generate_noise(latent(12)))
    assert torch.equal(as_latent["samples"][:4], source.generate_noise(latent(12))[:4])


def test_without_a_latent_only_the_noise_latent_is_blocked():
    source, blocked = FrameNoiseNode.execute("independent", 9).args
    assert isinstance(blocked, ExecutionBlocker)
    assert "connect a latent" in blocked.message
    assert source.generate_noise(latent()).shape == (8, 4, 4, 4)


def test_frames_cut_from_a_batch_keep_their_noise():
    source = FrameNoiseNode.execute("independent", 9).args[0]
    whole = source.generate_noise(latent(8))
    part = source.generate_noise({**latent(3), "batch_index": [2, 5, 7]})
    assert torch.equal(part, whole[[2, 5, 7]])


@pytest.mark.parametrize("places", [None, [2, 5, 7], [0, 0, 9]])
@pytest.mark.parametrize("size", [3, 4, 5, 8])
def test_independent_noise_is_ksamplers_at_every_size(size, places):
    """Also of frames cut out of a batch, which ComfyUI draws one by one."""
    source = FrameNoiseNode.execute("independent", 9).args[0]
    cut = latent(3, size) if places is None else {**latent(3, size), "batch_index": places}
    assert torch.equal(source.generate_noise(cut), comfy.sample.prepare_noise(cut["samples"], 9, places))


def test_context_sampler_takes_noise(base):
    model, clip = base
    source = FrameNoiseNode.execute("constant", 4).args[0]
    conds = [encode(clip, "a red circle")], [encode(clip, "")]

    def run(seed, sampler="euler", **more):
        with torch.inference_mode():
            return ContextSampler.execute(
                model, seed, 2, 1.0, sampler, "normal", *conds, latent(), length=4, overlap=1, **more
            ).args[0]["samples"]

    out = run(9, noise=source)
    torch.testing.assert_close(out[1], out[0])  # frames of one noise, no motion module: one picture
    # The seed is the noise's, for samplers that draw more on the way too.
    assert torch.equal(run(9, "euler_ancestral", noise=source), run(8, "euler_ancestral", noise=source))
    assert torch.equal(run(9, noise=FrameNoiseNode.execute("independent", 5).args[0]), run(5))


@pytest.mark.parametrize("kind", NOISE_KINDS)
def test_noise_leaves_torchs_generator_seeded(kind):
    """As ComfyUI's does: what draws from it during sampling draws the same in every run."""

    def drawn():
        torch.seed()
        FrameNoiseNode.execute(kind, 9).args[0].generate_noise(latent(8))
        return torch.rand(3)

    assert torch.equal(drawn(), drawn())


def test_seeds_of_frames():
    assert read_seeds(" 5, 5\n9 ") == (5, 5, 9)
    assert read_seeds(" ") is None
    with pytest.raises(ValueError, match="'five'; expected whole numbers"):
        read_seeds("5, five")
    source = FrameNoiseNode.execute("independent", 9, frame_seeds="5, 5").args[0]
    frames = source.generate_noise(latent(3))
    assert torch.equal(frames[0], frames[1])
    with pytest.raises(ValueError, match="smaller than the length"):
        FrameNoiseNode.execute("freenoise", 9, length=8, overlap=8)


# -- FreeInit --


def free_init(base, **options):
    model, clip = base
    with torch.inference_mode():
        return FreeInitSampler.execute(
            *(model, 7, 2, 1.0, "euler", "normal", [encode(clip, "a red circle")], [encode(clip, "")]),
            options.pop("latent_image", latent()),
            **options,
        ).args[0]["samples"]


def plain(base, noise, seed=7):
    model, clip = base
    with torch.inference_mode():
        return comfy.sample.sample(
            *(model, noise, 2, 1.0, "euler", "normal", [encode(clip, "a red circle")], [encode(clip, "")]),
            latent()["samples"],
            seed=seed,
        )


@pytest.mark.parametrize("ratio", [8, 16])
def test_an_empty_latent_s_word_about_its_size_is_treated_as_ksampler_does(base, ratio):
    """Newer empty latents say how much smaller than the picture they are; KSampler heeds and removes it."""
    model, clip = base
    prompt = [list(encode(clip, "a red circle"))]
    given = {**latent(4), "downscale_ratio_spacial": ratio}
    arguments = (7, 1, 1.0, "euler", "normal", prompt, prompt, given)
    (wanted,) = comfy_nodes.KSampler().sample(model, *arguments)
    wanted.pop("downscale_ratio_spacial", None)  # 0.3.75 knows nothing of it
    for node in (ContextSampler, FreeInitSampler):
        got = node.execute(model, *arguments).args[0]
        assert set(got) == set(wanted)
        assert got["samples"].shape == wanted["samples"].shape


def test_free_init_has_one_progress_bar(base, progress):
    free_init(base, iterations=3)
    assert progress == [(number, 6) for number in range(1, 7)]


def test_one_iteration_is_plain_sampling(base):
    noise = comfy.sample.prepare_noise(latent()["samples"], 7)
    assert torch.equal(free_init(base, iterations=1), plain(base, noise))


def test_second_iteration_starts_from_the_mixed_noise(base):
    model, _ = base
    first = comfy.sample.prepare_noise(latent()["samples"], 7)
    clean = model.model.process_latent_in(plain(base, first))
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 2)
    noisy = diffuse(clean, first, float(sigmas[0]))
    keep = low_pass_filter(LowPass("butterworth", 0.5, 0.25, 2), 8, 4, 4)
    mixed = mix_frequencies(noisy, comfy.sample.prepare_noise(latent()["samples"], 8), keep)
    got = free_init(base, iterations=2, filter="butterworth", spatial_cutoff=0.5, order=2)
    assert torch.equal(got, plain(base, mixed))
    assert torch.equal(got, free_init(base, iterations=2, filter="butterworth", spatial_cutoff=0.5, order=2))
    assert not torch.equal(got, plain(base, first))


@pytest.mark.parametrize("steps", [2, 5])
@pytest.mark.parametrize("scheduler", comfy.samplers.SCHEDULER_NAMES)
def test_second_iteration_starts_at_the_schedules_first_noise_level(base, scheduler, steps):
    """With everything kept it is the first clip plus the first noise at that level, whatever the level."""
    model, clip = base
    calls = []

    def record(executor, x, t, *args, **kwargs):
        calls.append((x.clone(), float(t[0])))
        return executor(x, t, *args, **kwargs)

    recorded = model.clone()
    recorded.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "record", record)
    conds = [encode(clip, "a red circle")], [encode(clip, "")]

    def run(model, iterations):
        everything = {"filter": "box", "spatial_cutoff": 2.0, "temporal_cutoff": 2.0}
        arguments = (model, 7, steps, 1.0, "euler", scheduler, *conds, latent())
        with torch.inference_mode():
            return FreeInitSampler.execute(*arguments, iterations=iterations, **everything).args[0]["samples"]

    run(recorded, 2)
    clean = model.model.process_latent_in(run(model, 1))
    start, sigma = calls[len(calls) // 2]
    assert sigma == calls[0][1]
    expected = clean + sigma * comfy.sample.prepare_noise(latent()["samples"], 7)
    assert (start - expected).norm() < 1e-4 * expected.norm()


def test_free_init_counts_seeds_on_from_the_last_one(base):
    model, clip = base
    conds = [encode(clip, "a red circle")], [encode(clip, "")]
    with torch.inference_mode():
        arguments = (model, 2**64 - 1, 2, 1.0, "euler", "normal", *conds, latent())
        out = FreeInitSampler.execute(*arguments, iterations=2).args[0]["samples"]
    assert torch.isfinite(out).all()


def test_free_init_respects_a_noise_mask(base):
    mask = torch.zeros(8, 4, 4)
    mask[:, :, 2:] = 1.0
    out = free_init(base, iterations=2, latent_image={**latent(), "noise_mask": mask})
    assert out[..., :2].abs().max() < 1e-4  # as empty as the latent
    assert out[..., 2:].abs().max() > 0.1


def test_free_init_takes_noise(base):
    source = FrameNoiseNode.execute("mixed", 3).args[0]
    first = source.generate_noise(latent())
    assert torch.equal(free_init(base, iterations=1, noise=source), plain(base, first, seed=3))
    assert not torch.equal(free_init(base, iterations=2, noise=source), plain(base, first, seed=3))


def test_free_init_refuses_a_latent_with_pictures(base):
    with pytest.raises(ValueError, match="starts from noise alone"):
        free_init(base, latent_image={"samples": torch.ones(8, 4, 4, 4)})


# -- preview --


def test_preview_draws_every_window(base, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_temp_directory", lambda: str(tmp_path))
    model, _ = base
    model = ContextWindows.execute(
        model, length=8, overlap=2, schedule="looped_uniform", closed_loop=True, start_percent=0.5
    ).args[0]
    image = ContextPreview.execute(model, 20, 3).args[0]
    assert image.shape[0] == 1 and image.shape[3] == 3
    colours = set(map(tuple, image[0].mul(255).round().int().reshape(-1, 3).tolist()))
    assert STRAIGHT in colours and WRAPPED in colours


def test_preview_wants_context_windows(base):
    with pytest.raises(ValueError, match="Put Context Windows in front"):
        ContextPreview.execute(base[0])


def test_preview_draws_the_steps_of_a_run(base, tmp_path, monkeypatch):
    """Band for band the windows that a sampler with as many steps is given."""
    import folder_paths
    from animatediff_flipbook.nodes.context import context_preview
    from animatediff_flipbook.nodes.context.context_run import ContextRun

    monkeypatch.setattr(folder_paths, "get_temp_directory", lambda: str(tmp_path))
    model, clip = base
    model = ContextWindows.execute(
        model, length=4, overlap=1, schedule="looped_uniform", start_percent=0.3
    ).args[0]
    drawn, planned = [], []
    band, plan = context_preview._band, ContextRun.plan

    def recorded_band(*arguments):
        title, rows = band(*arguments)
        if title[-1] != "whole clip":
            drawn.append([window.indices for window, _ in rows])
        return title, rows

    def recorded_plan(self, *arguments):
        planned.append(list(plan(self, *arguments).windows))
        return plan(self, *arguments)

    monkeypatch.setattr(context_preview, "_band", recorded_band)
    monkeypatch.setattr(ContextRun, "plan", recorded_plan)
    ContextPreview.execute(model, 10, 6)
    conds = [encode(clip, "a red circle")], [encode(clip, "")]
    noise = comfy.sample.prepare_noise(latent(10)["samples"], 1)
    with torch.inference_mode():
        comfy.sample.sample(model, noise, 6, 1.0, "euler", "normal", *conds, latent(10)["samples"], seed=1)
    assert 1 < len(planned) < 6
    assert drawn == planned


def test_prompts_too_different_to_be_repeated_are_said(base, caplog):
    _, clip = base
    one, five, six = (", ".join(["a blue square"] * count) for count in (1, 45, 55))
    PromptSchedule.execute(clip, f"0: {one} / 4: {five}", 5)
    assert not caplog.records
    sizes = sorted(encode(clip, text)[0].shape[1] for text in (five, six))
    PromptSchedule.execute(clip, f"0: {five} / 4: {six}", 5)
    assert [record.getMessage() for record in caplog.records] == [
        f"Prompts of {sizes[0]} and {sizes[1]} tokens have no common length worth its cost: shorter ones are "
        "filled with zeros and look a little different than alone. Make them about equally long."
    ]
