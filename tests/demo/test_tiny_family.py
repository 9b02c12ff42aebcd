"""The tiny family goes through ComfyUI's ordinary loader, complete, and leaves the real SD1.5 alone."""

import logging

import comfy.model_detection
import comfy.sample
import comfy.sd
import comfy.supported_models
import pytest
import torch
from animatediff_flipbook.demo.tiny_family import build, model
from safetensors import safe_open


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "random.safetensors"
    build.write_random_checkpoint(path, seed=3)
    return path


@pytest.fixture(scope="module")
def loaded(checkpoint):
    return comfy.sd.load_checkpoint_guess_config(str(checkpoint))


def test_every_tensor_of_the_file_is_loaded(checkpoint, caplog):
    with caplog.at_level(logging.DEBUG):
        patcher, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(checkpoint))
    words = ("missing", "unexpected", "leftover", "left over keys: dict_keys(['")
    assert not [r.getMessage() for r in caplog.records if any(w in r.getMessage().lower() for w in words)]
    networks = build.build_networks(seed=3)
    for mine, theirs in (
        (networks.unet, patcher.model.diffusion_model),
        (networks.text, clip.cond_stage_model.clip_l),
        (networks.vae, vae.first_stage_model),
    ):
        theirs = theirs.state_dict()
        assert set(mine.state_dict()) == set(theirs)
        for key, value in mine.state_dict().items():
            assert torch.equal(value.half(), theirs[key].half()), key


def test_file_is_small_and_shaped_like_sd15(checkpoint, loaded):
    assert checkpoint.stat().st_size <= 13_000_000
    with safe_open(checkpoint, "pt") as file:
        values = sum(
            file.get_slice(k).get_shape() and torch.tensor(file.get_slice(k).get_shape()).prod().item() or 1
            for k in file.keys()  # noqa: SIM118  # a safetensors file is no mapping
            if k.startswith("model.diffusion_model.")
        )
    assert 3_000_000 <= values <= 4_000_000
    assert isinstance(loaded[0].model.model_config, comfy.supported_models.SD15)


def test_registering_twice_adds_one_entry():
    model.register()
    model.register()
    names = [config.__name__ for config in comfy.supported_models.models]
    assert names.count("TinyAD") == 1


def test_real_sd15_is_still_detected():
    config = {
        "context_dim": 768,
        "model_channels": 320,
        "use_linear_in_transformer": False,
        "in_channels": 4,
    }
    config |= {"adm_in_channels": None, "use_temporal_attention": False}
    found = comfy.model_detection.model_config_from_unet_config(config, {})
    assert type(found) is comfy.supported_models.SD15


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("", []),
        ("a red circle, moving left!", ["a", "red", "circle", "moving", "left"]),
        ("Masterpiece RED", ["<unknown>", "red"]),
        ("a (red:1.2) circle", ["a", "red", "circle"]),
    ],
)
def test_prompts_become_words(loaded, prompt, words):
    (chunk,) = loaded[1].tokenize(prompt)["l"]
    assert len(chunk) == 32
    inverse = loaded[1].tokenizer.clip_l.inv_vocab
    expected = ["<start>", *words] + ["<end>"] * (31 - len(words))
    assert [inverse[token] for token, _ in chunk] == expected


def test_weights_and_long_prompts_reach_the_conditioning(loaded):
    clip = loaded[1]
    plain, weighted, long = (
        clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0]
        for text in ("a red circle", "a (red:1.4) circle", "a red circle, " * 30)
    )
    assert plain.shape == (1, 32, 64)
    assert not torch.equal(plain, weighted)
    assert long.shape == (1, 96, 64)


def test_samples_and_decodes(loaded):
    patcher, clip, vae, _ = loaded
    cond = clip.encode_from_tokens_scheduled(clip.tokenize("a red circle"))
    empty = clip.encode_from_tokens_scheduled(clip.tokenize(""))
    latent = torch.zeros(2, 4, 8, 8)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
    out = comfy.sample.sample(patcher, noise, 2, 5.0, "euler", "normal", cond, empty, latent, seed=0)
    pictures = vae.decode(out)
    assert pictures.shape == (2, 64, 64, 3)
    assert torch.isfinite(pictures).all()
    assert vae.encode(pictures).shape == (2, 4, 8, 8)


def test_text_forward_for_training_is_comfyuis_and_differentiable():
    text = build.build_networks(seed=5).text
    tokens = torch.randint(3, 40, (2, 32), generator=torch.Generator().manual_seed(1))
    expected = text.encode(tokens.tolist())[0]
    text.requires_grad_(True)
    made = text.encode_for_training(tokens)
    assert torch.allclose(made, expected, atol=1e-5)
    made.square().sum().backward()
    assert text.transformer.text_model.embeddings.token_embedding.weight.grad.abs().sum() > 0
