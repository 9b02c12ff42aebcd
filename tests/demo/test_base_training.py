"""The stages of the tiny family's base: the loop and its states, and networks set into wider ones."""

import math
import time

import numpy as np
import pytest
import torch
import torch.distributed as distributed
from animatediff_flipbook.demo import world
from animatediff_flipbook.demo.base_training import autoencoder, loop, narrow_vae, text_to_image
from animatediff_flipbook.demo.base_training.settings import Settings
from comfy.taesd.taesd import TAESD


@pytest.fixture
def start(tmp_path, monkeypatch):
    """A run of a small network whose states lie in the test's folder; the only worker."""
    monkeypatch.setattr(loop, "STATE", tmp_path / "states")
    meeting = (tmp_path / "meeting").as_uri()
    distributed.init_process_group("gloo", init_method=meeting, rank=0, world_size=1)
    torch.manual_seed(0)
    yield lambda: loop.Run("small", torch.nn.Linear(3, 2), minutes=1.0, rate=1e-2, ema=0.9)
    distributed.destroy_process_group()


def steps(run, count):
    """Losses of so many steps, the last of which uses up the time."""

    def loss_of_step(step):
        if step == count - 1:
            run.seconds = run.seconds_allowed
        return run.network(torch.ones(1, 3) * step).square().mean()

    return loss_of_step


def test_a_run_goes_on_from_its_state(start):
    first = start()
    first.train(steps(first, 3))
    again = start()
    assert again.step == 3 and again.done
    assert again.seconds == first.seconds
    for key, value in first.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[key], value)
        assert torch.equal(again.average[key], first.average[key])
    for old, new in zip(first.network.parameters(), again.network.parameters(), strict=True):
        for key, value in first.optimizer.state[old].items():
            assert torch.equal(again.optimizer.state[new][key], value), key


def test_time_is_what_was_computed_and_no_pause(start):
    run = start()

    def loss_of_step(step):
        run.seconds = run.seconds_allowed
        time.sleep(0.3)
        return run.network(torch.ones(1, 3)).square().mean()

    run.train(loss_of_step)
    assert 0 < run.seconds - run.seconds_allowed < 0.2


def test_a_loss_that_is_no_number_is_told(start):
    run = start()
    with pytest.raises(ValueError, match="small: the loss is nan at step 0. Lower the rate"):
        run.train(lambda step: run.network(torch.full((1, 3), math.nan)).mean())


def test_the_narrow_autoencoder_is_the_same_function_in_the_wide_one():
    torch.manual_seed(0)
    narrow, wide = narrow_vae.NarrowVae((8, 8, 16, 16)), TAESD(latent_channels=4)
    pictures = torch.rand(2, 3, 32, 32)
    wide.load_state_dict(narrow_vae.widen(narrow.state_dict(), wide.state_dict()))
    with torch.no_grad():
        latents = narrow.taesd_encoder(pictures)
        torch.testing.assert_close(wide.taesd_encoder(pictures), latents)
        torch.testing.assert_close(wide.taesd_decoder(latents), narrow.taesd_decoder(latents))
    back = narrow_vae.narrowed(wide.state_dict(), narrow.state_dict())
    assert all(torch.equal(back[key], value) for key, value in narrow.state_dict().items())


def test_a_grown_autoencoder_begins_as_the_one_it_grew_from():
    torch.manual_seed(0)
    old, fresh = narrow_vae.NarrowVae((8, 8, 16, 16)), narrow_vae.NarrowVae((8, 16, 16, 24))
    fresh.load_state_dict(narrow_vae.grown(old.state_dict(), fresh.state_dict()))
    pictures = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        latents = old.taesd_encoder(pictures)
        torch.testing.assert_close(fresh.taesd_encoder(pictures), latents)
        torch.testing.assert_close(fresh.taesd_decoder(latents), old.taesd_decoder(latents))


def test_pictures_of_a_scene_differ_in_the_shape_alone():
    settings = Settings()
    views = [autoencoder.picture(settings, number) for number in range(8)]
    assert [view[0].shape for view in views] == [*world.SHAPES, *world.SHAPES]
    for group in (views[:4], views[4:]):
        captions = {view[0].caption.replace(view[0].shape, "thing") for view in group}
        assert len(captions) == 1 and len({view[1:] for view in group}) == 1
    assert views[0] != views[4]
    first, second = (world.render(view[0], np.array([view[1]]), view[2])[0] for view in views[:2])
    assert 0.005 < (abs(first - second).max(-1) > 0.02).mean() < 0.5


def test_what_a_group_gets_wrong_alike_has_no_more_weight():
    errors = torch.randn(5, 4, 3, 2, generator=torch.Generator().manual_seed(0))
    alike = errors[:, :1].expand(-1, 4, -1, -1)
    assert text_to_image.weighted_error(alike, 16.0) == pytest.approx(float(alike.square().mean()), rel=1e-5)
    assert text_to_image.weighted_error(errors, 1.0) == pytest.approx(float(errors.square().mean()), rel=1e-5)
    differing = errors - errors.mean(1, keepdim=True)
    expected = float(alike.square().mean() + 16 * differing.square().mean())
    assert text_to_image.weighted_error(alike + differing, 16.0) == pytest.approx(expected, rel=1e-5)
