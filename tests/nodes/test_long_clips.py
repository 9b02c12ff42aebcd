"""The nodes around context windows: prompt and number schedules, noise, FreeInit, the preview."""

import comfy.sample
import comfy.samplers
import comfy.sd
import pytest
import torch
from animatediff_flipbook.motion_core.free_init import (
    LowPass,
    diffuse,
    low_pass_filter,
    mix_frequencies,
)
from animatediff_flipbook.nodes.context import ContextWindows
from animatediff_flipbook.nodes.context_preview import STRAIGHT, WRAPPED, ContextPreview
from animatediff_flipbook.nodes.frame_noise import FrameNoiseNode, read_seeds
from animatediff_flipbook.nodes.free_init import FreeInitSampler
from animatediff_flipbook.nodes.prompt_schedule import FloatSchedule, PromptSchedule
from comfy_execution.graph_utils import ExecutionBlocker


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


def plain(base, noise):
    model, clip = base
    with torch.inference_mode():
        return comfy.sample.sample(
            *(model, noise, 2, 1.0, "euler", "normal", [encode(clip, "a red circle")], [encode(clip, "")]),
            latent()["samples"],
            seed=7,
        )


def test_one_iteration_is_plain_sampling(base):
    noise = comfy.sample.prepare_noise(latent()["samples"], 7)
    assert torch.equal(free_init(base, iterations=1), plain(base, noise))


def test_second_iteration_starts_from_the_mixed_noise(base):
    model, _ = base
    first = comfy.sample.prepare_noise(latent()["samples"], 7)
    clean = model.model.process_latent_in(plain(base, first))
    noisy = diffuse(clean, first, float(model.get_model_object("model_sampling").sigma_max))
    keep = low_pass_filter(LowPass("butterworth", 0.5, 0.25, 2), 8, 4, 4)
    mixed = mix_frequencies(noisy, comfy.sample.prepare_noise(latent()["samples"], 8), keep)
    got = free_init(base, iterations=2, filter="butterworth", spatial_cutoff=0.5, order=2)
    assert torch.equal(got, plain(base, mixed))
    assert torch.equal(got, free_init(base, iterations=2, filter="butterworth", spatial_cutoff=0.5, order=2))
    assert not torch.equal(got, plain(base, first))


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
