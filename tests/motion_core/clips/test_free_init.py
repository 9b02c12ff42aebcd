"""FreeInit: the filters against their formulas, the mixing against its definition and its statistics."""

import math

import pytest
import torch
from animatediff_flipbook.motion_core.clips.free_init import (
    FILTERS,
    LowPass,
    coarse_to_fine,
    diffuse,
    low_pass_filter,
    mix_frequencies,
    start_scale,
)

SIZE = (16, 32, 24)  # F, H, W


def noise(seed, shape=(16, 4, 32, 24)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def formula(low_pass: LowPass, t: float, h: float, w: float) -> float:
    """The published definition for one frequency, in plain Python."""
    if low_pass.kind == "box":
        return float(
            abs(t) <= low_pass.temporal and abs(h) <= low_pass.spatial and abs(w) <= low_pass.spatial
        )
    d2 = ((low_pass.spatial / low_pass.temporal) * t) ** 2 + h**2 + w**2
    if low_pass.kind == "ideal":
        return float(math.sqrt(d2) <= low_pass.spatial)
    if low_pass.kind == "butterworth":
        return 1 / (1 + (d2 / low_pass.spatial**2) ** low_pass.order)
    return math.exp(-d2 / (2 * low_pass.spatial**2))


@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize("cut_offs", [(0.25, 0.25), (0.5, 0.2)])
@pytest.mark.parametrize("size", [(8, 6, 10), (5, 7, 3)])
def test_filter_is_the_formula(kind, cut_offs, size):
    low_pass = LowPass(kind, *cut_offs)
    centred = torch.fft.fftshift(low_pass_filter(low_pass, *size))
    for t in range(size[0]):
        for h in range(size[1]):
            for w in range(size[2]):
                frequency = [2 * (i - n // 2) / n for i, n in zip((t, h, w), size, strict=True)]
                assert centred[t, h, w].item() == pytest.approx(formula(low_pass, *frequency), abs=1e-6)


@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize("size", [SIZE, (17, 9, 11), (1, 8, 8)])
def test_filter_is_even_bounded_and_keeps_the_mean(kind, size):
    keep = low_pass_filter(LowPass(kind), *size)
    assert keep.shape == size
    assert keep[0, 0, 0] == 1.0
    assert keep.min() >= 0.0
    assert keep.max() <= 1.0
    mirrored = keep.flip(0, 1, 2).roll((1, 1, 1), (0, 1, 2))  # H(-f)
    assert torch.equal(mirrored, keep)


def test_keeping_all_or_nothing_returns_one_of_the_clips():
    noisy, fresh = noise(1), noise(2)
    torch.testing.assert_close(mix_frequencies(noisy, fresh, torch.ones(SIZE)), noisy, rtol=0, atol=1e-5)
    torch.testing.assert_close(mix_frequencies(noisy, fresh, torch.zeros(SIZE)), fresh, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", FILTERS)
def test_mixing_is_its_definition(kind):
    noisy, fresh = noise(3), noise(4)
    keep = low_pass_filter(LowPass(kind, 0.4, 0.3), *SIZE)
    centred = torch.fft.fftshift(keep).unsqueeze(1)

    def spectrum(clip):
        return torch.fft.fftshift(torch.fft.fftn(clip, dim=(0, 2, 3)), dim=(0, 2, 3))

    joined = spectrum(noisy) * centred + spectrum(fresh) * (1 - centred)
    expected = torch.fft.ifftn(torch.fft.ifftshift(joined, dim=(0, 2, 3)), dim=(0, 2, 3))
    assert expected.imag.abs().max() < 1e-5
    torch.testing.assert_close(mix_frequencies(noisy, fresh, keep), expected.real, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", FILTERS)
def test_variance_of_mixed_white_noise(kind):
    keep = low_pass_filter(LowPass(kind, 0.5, 0.5), 32, 32, 32)
    mixed = mix_frequencies(noise(5, (32, 4, 32, 32)), noise(6, (32, 4, 32, 32)), keep)
    expected = (keep**2 + (1 - keep) ** 2).mean().item()
    assert mixed.var().item() == pytest.approx(expected, rel=0.02)  # 131,072 values


def test_a_slow_clip_survives_and_a_fast_one_does_not():
    frames = torch.arange(16.0)
    slow = torch.cos(2 * math.pi * frames / 16).view(16, 1, 1, 1).expand(16, 4, 32, 24)
    fast = torch.cos(math.pi * frames).view(16, 1, 1, 1).expand(16, 4, 32, 24)
    keep = low_pass_filter(LowPass("butterworth"), *SIZE)
    none = torch.zeros(16, 4, 32, 24)
    assert mix_frequencies(slow, none, keep).std() > 0.99 * slow.std()
    assert mix_frequencies(fast, none, keep).std() < 0.01 * fast.std()


def test_diffuse_scales_by_the_noise_level():
    clean, start = torch.full((2, 4, 4, 4), 3.0), noise(7, (2, 4, 4, 4))
    torch.testing.assert_close(diffuse(clean, start, 0.0), clean)
    torch.testing.assert_close(diffuse(clean, start, 1.0), (clean + start) / math.sqrt(2))
    # What a sampler makes of it at its highest level: start * sqrt(1 + s^2) is the clean clip plus s * noise.
    sigma = 14.6
    torch.testing.assert_close(
        diffuse(clean, start, sigma) * math.sqrt(1 + sigma**2), clean + sigma * start, rtol=1e-5, atol=1e-4
    )


def test_start_scale_makes_up_for_what_comfyui_multiplies_by():
    assert start_scale(14.6, 14.6) == start_scale(14.6 * (1 + 1e-6), 14.6) == start_scale(20.0, 14.6) == 1.0
    assert start_scale(10.0, 14.6) * 10.0 == pytest.approx(math.sqrt(101.0))


def test_coarse_to_fine_ends_with_all_steps():
    assert [coarse_to_fine(20, i, 3) for i in (1, 2, 3)] == [6, 13, 20]
    assert [coarse_to_fine(4, i, 3) for i in (1, 2, 3)] == [2, 2, 4], "a single step is NaN for kl_optimal"
    assert coarse_to_fine(1, 1, 5) == 1


def test_bad_input_is_refused_with_a_sentence():
    with pytest.raises(ValueError, match="gaussian"):
        LowPass("sinc")
    with pytest.raises(ValueError, match="temporal cut-off"):
        LowPass(temporal=0.0)
    with pytest.raises(ValueError, match="at least 1"):
        LowPass(order=0)
    with pytest.raises(ValueError, match=r"\(F, H, W\)"):
        mix_frequencies(noise(1), noise(2), torch.ones(16, 32, 32))
