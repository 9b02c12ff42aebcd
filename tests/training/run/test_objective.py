"""Noising, targets, weights and losses against closed forms."""

import pytest
import torch
from animatediff_flipbook.motion_core.schedule.beta_schedules import LINEAR, SQRT_LINEAR, alphas_cumprod
from animatediff_flipbook.training import randomness
from animatediff_flipbook.training.config import ObjectiveConfig
from animatediff_flipbook.training.run.objective import Objective, bin_of, bin_range

KEYS = [(7, 0, slot) for slot in range(3)]
LATENTS = randomness.gaussian((3, 5, 4, 8, 8), "latents")


def objective(prediction: str = "eps", schedule=SQRT_LINEAR, **settings) -> Objective:
    return Objective(ObjectiveConfig(**settings), schedule, prediction)


@pytest.mark.parametrize("schedule", [SQRT_LINEAR, LINEAR])
def test_forward_diffusion(schedule):
    noised = objective(schedule=schedule).noised(LATENTS, KEYS)
    alpha = alphas_cumprod(schedule)[noised.timesteps][:, None, None, None, None]
    expected = alpha.sqrt() * LATENTS.double() + (1 - alpha).sqrt() * noised.target.double()
    assert (noised.latents.double() - expected).abs().max() < 1e-6


def test_one_timestep_per_clip_and_independent_noise_per_frame():
    noised = objective().noised(LATENTS, KEYS)
    assert noised.timesteps.shape == (3,)
    frames = noised.target.flatten(2)  # (B, F, values)
    for clip in frames:
        correlation = torch.corrcoef(clip)
        assert (correlation - torch.eye(5)).abs().max() < 0.3
        assert abs(float(clip.std()) - 1) < 0.1


def test_v_target():
    noised = objective("v").noised(LATENTS, KEYS, [100, 500, 900])
    noise = objective("eps").noised(LATENTS, KEYS, [100, 500, 900]).target
    alpha = alphas_cumprod(SQRT_LINEAR)[noised.timesteps].float()[:, None, None, None, None]
    # From v and the noisy latents, both the clean latents and the noise come back.
    signal, spread = alpha.sqrt(), (1 - alpha).sqrt()
    assert torch.allclose(signal * noised.latents - spread * noised.target, LATENTS, atol=1e-5)
    assert torch.allclose(spread * noised.latents + signal * noised.target, noise, atol=1e-5)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_min_snr_weights(prediction):
    times = [10, 400, 990]
    alpha = alphas_cumprod(SQRT_LINEAR)[times]
    snr = alpha / (1 - alpha)
    expected = torch.minimum(snr, torch.tensor(5.0)) / (snr if prediction == "eps" else snr + 1)
    found = objective(prediction, min_snr_gamma=5.0).noised(LATENTS, KEYS, times).weights
    assert torch.allclose(found, expected.float())
    assert torch.equal(objective(prediction).noised(LATENTS, KEYS, times).weights, torch.ones(3))


def test_offset_noise_is_shared_by_the_frames_of_a_clip():
    plain = objective().noised(LATENTS, KEYS).target
    added = objective(offset_noise=0.1).noised(LATENTS, KEYS).target - plain
    assert torch.allclose(added, added[:, :1, :, :1, :1].expand_as(added), atol=1e-6)
    assert added[:, 0, :, 0, 0].unique().numel() == 12  # one per clip and channel


def test_samples_draw_from_their_own_keys_only():
    together = objective().noised(LATENTS, KEYS)
    alone = objective().noised(LATENTS[1:2], KEYS[1:2])
    assert torch.equal(together.latents[1], alone.latents[0])
    assert together.timesteps[1] == alone.timesteps[0]
    other = objective().noised(LATENTS[1:2], [(7, 1, 1)])
    assert not torch.equal(alone.target, other.target)


def test_timesteps_cover_their_range():
    draws = [objective(min_timestep=200, max_timestep=203).draw_timestep((0, 0, n)) for n in range(200)]
    assert set(draws) == {200, 201, 202, 203}
    draws = [objective().draw_timestep((0, 0, n)) for n in range(4000)]
    assert min(draws) < 10
    assert max(draws) > 990
    assert abs(sum(draws) / len(draws) - 499.5) < 15


def test_shifted_timesteps_are_noisier():
    settings = {"min_timestep": 100, "max_timestep": 900}
    even = [objective(**settings).draw_timestep((0, 0, n)) for n in range(2000)]
    shifted = [objective(timestep_shift=3.0, **settings).draw_timestep((0, 0, n)) for n in range(2000)]
    assert all(100 <= a <= b <= 900 for a, b in zip(even, shifted, strict=True))
    # the median of an even draw, 1/2, goes to 3/2 / (1 + 2/2) = 3/4 of the range
    assert abs(sorted(shifted)[1000] - 700) < 25
    assert objective(timestep_shift=3.0, min_timestep=5, max_timestep=5).draw_timestep((0, 0, 0)) == 5


def test_held_frames_do_not_count():
    noised = objective().noised(LATENTS, KEYS)
    mask = torch.ones(3, 5)
    mask[1, 3:] = 0
    prediction = noised.target.clone()
    prediction[1, 3:] += 100
    assert torch.equal(objective().losses(prediction, noised, mask), torch.zeros(3))
    prediction[1, 0] += 1
    assert objective().losses(prediction, noised, mask)[1] == pytest.approx(1 / 3)


def test_losses_are_mean_squares_times_weights():
    loss = objective(min_snr_gamma=5.0)
    noised = loss.noised(LATENTS, KEYS, [10, 400, 990])
    prediction = randomness.gaussian(tuple(LATENTS.shape), "prediction")
    expected = (prediction - noised.target).square().flatten(1).mean(1) * noised.weights
    assert torch.allclose(loss.losses(prediction, noised), expected)


def test_debiased_loss_weakens_what_frames_share():
    loss = objective(debiased=1.0)
    noised = loss.noised(LATENTS, KEYS)
    shared = noised.target + 1.0  # the same error in every frame
    expected = torch.full((3,), (2**0.5 - 1) ** 2)
    assert torch.allclose(loss.losses(shared, noised, None, KEYS), expected, atol=1e-4)
    assert torch.allclose(objective().losses(shared, noised, None, KEYS), torch.ones(3), atol=1e-4)


def test_the_debiased_loss_has_its_anchor_among_real_frames():
    loss = objective(debiased=1.0)
    noised = loss.noised(LATENTS[:1], KEYS[:1])
    mask = torch.tensor([[1.0, 1.0, 0.0, 0.0, 0.0]])
    prediction = noised.target.clone()
    prediction[:, 2:] += 100
    for slot in range(20):
        assert float(loss.losses(prediction, noised, mask, [(7, 0, slot)])) == 0


@pytest.mark.parametrize("bins", [1, 3, 4, 7, 16, 1000])
def test_bins(bins):
    ranges = [bin_range(number, bins) for number in range(bins)]
    assert [t for low, high in ranges for t in range(low, high + 1)] == list(range(1000))
    assert all(bin_of(t, bins) == n for n, (low, high) in enumerate(ranges) for t in (low, high))


def test_four_bins_are_quarters():
    assert [bin_range(number, 4) for number in range(4)] == [(0, 249), (250, 499), (500, 749), (750, 999)]
