"""What a run with our nodes looks at before it samples: the latent, the conditioning, the noise schedule."""

import comfy.sample
import comfy.samplers
import pytest
import torch
from animatediff_flipbook.nodes.context.context import ContextWindows
from animatediff_flipbook.nodes.motion.apply import ApplyMotionModule
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

FRAMES = 6


def cond(entries=1, **extra):
    return [[torch.randn(entries, 6, 64, generator=torch.Generator().manual_seed(1)), extra]]


def sample(model, positive=None, latent=None):
    latent = torch.zeros(FRAMES, 4, 8, 8) if latent is None else latent
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        return comfy.sample.sample(
            *(model, noise, 1, 3.0, "euler", "normal", positive or cond(), cond(), latent),
            seed=1, disable_pbar=True,
        )  # fmt: skip


@pytest.fixture(params=["motion", "windows", "both"])
def model(request, tiny_model, motion_module):
    model = tiny_model
    if request.param != "windows":
        model = ApplyMotionModule.execute(model, motion_module())[0]
    if request.param != "motion":
        model = ContextWindows.execute(model, length=4, overlap=1)[0]
    return model


@pytest.mark.parametrize("frames", [FRAMES, 4])
def test_conditioning_without_an_entry_is_named(model, frames):
    with pytest.raises(
        ValueError, match=f"positive conditioning holds prompts with no entry .*the {frames} frames"
    ):
        sample(model, cond(0), torch.zeros(frames, 4, 8, 8))
    with pytest.raises(ValueError, match="positive conditioning holds masks with no entry"):
        sample(model, cond(1, mask=torch.zeros(0, 64, 64)), torch.zeros(frames, 4, 8, 8))


@pytest.mark.parametrize("shape", [(FRAMES, 4, 2, 8, 8), (4, 8, 8)])
def test_a_latent_that_is_no_batch_of_pictures_is_named(model, shape):
    with pytest.raises(ValueError, match=r"frames as a batch of pictures, .*the latent has the shape"):
        sample(model, latent=torch.zeros(shape))


@pytest.mark.parametrize("what", ["prompts", "masks"])
def test_what_ends_before_the_clip_is_said_once_with_and_without_windows(model, caplog, what):
    extra = {"mask": torch.ones(3, 64, 64)} if what == "masks" else {}
    sample(model, cond(3 if what == "prompts" else 1, **extra))
    assert caplog.text.count(f"The positive {what} are for 3 frames and the clip has {FRAMES}") == 1


class TestReplacedSchedule:
    def test_is_said_once_and_the_run_goes_on(self, tiny_model, motion_module, caplog):
        model = ApplyMotionModule.execute(tiny_model, motion_module())[0]
        behind = ModelSamplingDiscrete().patch(model, "eps", False)[0]
        results = [sample(behind) for _ in range(2)]
        assert torch.equal(*results) and torch.isfinite(results[0]).all()
        assert caplog.text.count("has replaced the noise schedule: sqrt_linear") == 1
        assert "Put that node in front of Apply Motion Module" in caplog.text

    @pytest.mark.parametrize("where", ["in front", "keep", "same levels"])
    def test_is_not_said_where_nothing_is_lost(self, tiny_model, motion_module, caplog, where):
        module = motion_module()
        if where == "in front":
            model = ApplyMotionModule.execute(
                ModelSamplingDiscrete().patch(tiny_model, "eps", False)[0], module
            )[0]
        elif where == "keep":
            model = ApplyMotionModule.execute(tiny_model, module, beta_schedule="keep")[0]
            model = ModelSamplingDiscrete().patch(model, "eps", False)[0]
        else:
            model = ApplyMotionModule.execute(tiny_model, module)[0]
            sampling = model.get_model_object("model_sampling")
            model = model.clone()
            model.add_object_patch("model_sampling", type(sampling)(None))
            model.get_model_object("model_sampling").set_sigmas(sampling.sigmas)
        sample(model)
        assert "has replaced" not in caplog.text
