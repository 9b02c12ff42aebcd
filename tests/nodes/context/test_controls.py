"""Stock ControlNets and T2I-Adapters, with random weights, together with motion modules and windows."""

import comfy.cldm.cldm
import comfy.controlnet
import comfy.ops
import comfy.sample
import comfy.sd
import pytest
import torch
from animatediff_flipbook.nodes.context.context import ContextWindows
from animatediff_flipbook.nodes.motion.apply import ApplyMotionModule

FRAMES, SIZE = 10, 8


@pytest.fixture(scope="module")
def base(tiny_checkpoint):
    """``(model, prompts)``."""
    model, clip, _, _ = comfy.sd.load_checkpoint_guess_config(str(tiny_checkpoint), output_vae=False)
    texts = ("a red circle moving left", "")
    return model, [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in texts]


def controlnet(model):
    """The UNet's own architecture as a ControlNet, as ComfyUI's loader builds one from a file."""
    config = {**model.model.model_config.unet_config, "hint_channels": 3, "dtype": torch.float32}
    config.pop("out_channels", None)
    torch.manual_seed(1)
    net = comfy.cldm.cldm.ControlNet(**config, operations=comfy.ops.manual_cast, device="cpu")
    random_weights(net)
    return comfy.controlnet.ControlNet(net, load_device=torch.device("cpu"))


class Features(torch.nn.Module):
    """A T2I-Adapter's network for the small UNet: ComfyUI's own fits only those with two blocks a level."""

    unshuffle_amount = 8

    def __init__(self, width):
        super().__init__()
        self.unshuffle = torch.nn.PixelUnshuffle(8)
        self.conv = torch.nn.Conv2d(192, width, 3, padding=1)

    def forward(self, image):
        # taken from the end: nothing for the first block, the features for the second one
        return {"input": [self.conv(self.unshuffle(image)), None]}


def t2i_adapter(model):
    torch.manual_seed(2)
    net = Features(model.model.model_config.unet_config["model_channels"])
    random_weights(net)
    return comfy.controlnet.T2IAdapter(net, 3, 8, "nearest-exact", device=torch.device("cpu"))


def random_weights(net):
    """Also where a fresh net has zeros, and of a size that shows."""
    with torch.no_grad():
        for weight in net.parameters():
            weight.normal_(0.0, 0.1 if weight.ndim == 1 else 0.7 * weight[0].numel() ** -0.5)
    net.eval().requires_grad_(False)


def hints():
    return torch.rand(FRAMES, 3, 8 * SIZE, 8 * SIZE, generator=torch.Generator().manual_seed(3))


def sample(model, prompts, control=None, hint=None):
    conds = prompts
    if control is not None:
        control = control.copy().set_cond_hint(hint, 0.8, (0.0, 1.0))
        extra = {"control": control, "control_apply_to_uncond": True}
        conds = [[[text, {**values, **extra}] for text, values in prompt] for prompt in prompts]
    latent = torch.zeros(FRAMES, 4, SIZE, SIZE)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        return comfy.sample.sample(
            model, noise, 2, 3.0, "euler", "normal", *conds, latent, seed=1, disable_pbar=True
        )


@pytest.mark.parametrize("kind", [controlnet, t2i_adapter])
@pytest.mark.parametrize("generation", ["v1", "v2", "v3"])
def test_hints_of_single_frames_with_a_motion_module(base, motion_module, kind, generation):
    model, prompts = base
    control = kind(model)
    animated = ApplyMotionModule.execute(model=model, motion_module=motion_module(generation))[0]
    hint = hints()
    other = hint.clone()
    other[FRAMES - 1] = 1 - other[FRAMES - 1]
    before = {key: value.clone() for key, value in model.model.diffusion_model.state_dict().items()}

    alone, alone_other = (sample(model, prompts, control, each) for each in (hint, other))
    moved = (alone - alone_other).abs().flatten(1).amax(1)
    assert moved[-1] > 1e-4, "the hint is seen"
    assert moved[:-1].max() < 1e-5, "by its frame alone"

    together, together_other = (sample(animated, prompts, control, each) for each in (hint, other))
    assert torch.isfinite(together).all()
    assert (together - sample(animated, prompts)).abs().max() > 1e-3, "control is seen beside motion"
    assert (together - alone).abs().max() > 1e-3, "motion is seen beside control"
    assert (together - together_other).abs().flatten(1).amax(1).min() > 1e-7, "frames tell each other"

    still = ApplyMotionModule.execute(model=model, motion_module=motion_module(generation), effect=0.0)[0]
    if generation != "v1":  # whose joint norms belong to the UNet, whatever the effect
        assert torch.allclose(sample(still, prompts, control, hint), alone, atol=1e-5)
    after = model.model.diffusion_model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


@pytest.mark.parametrize("kind", [controlnet, t2i_adapter])
def test_hints_in_windows(base, motion_module, kind):
    model, prompts = base
    control, hint = kind(model), hints()
    animated = ApplyMotionModule.execute(model=model, motion_module=motion_module("v3"))[0]
    whole = sample(animated, prompts, control, hint)
    one = ContextWindows.execute(model=animated, length=FRAMES, overlap=2)[0]
    assert torch.equal(sample(one, prompts, control, hint), whole)

    # Without motion a frame does not know its window: any windows give what none give.
    windows = ContextWindows.execute(model=model, length=4, overlap=2)[0]
    plain = sample(model, prompts, control, hint)
    assert torch.allclose(sample(windows, prompts, control, hint), plain, atol=1e-4)


def test_hints_of_an_area_that_hangs_over_the_edge(base):
    """ComfyUI cuts such an area, so that two areas of one nominal size have hints of two sizes."""
    model, (positive, negative) = base
    control, hint = t2i_adapter(model), hints()
    parts = [
        [text, {**values, "area": (SIZE, SIZE - 2, 0, x)}]
        for x in (0, SIZE // 2)
        for text, values in positive
    ]
    windows = ContextWindows.execute(model=model, length=4, overlap=2)[0]
    plain = sample(model, (parts, negative), control, hint)
    assert (plain - sample(model, (parts, negative))).abs().max() > 0.1, "the adapter is seen"
    assert torch.allclose(sample(windows, (parts, negative), control, hint), plain, atol=1e-3)


@pytest.mark.parametrize("images", [FRAMES, 3, 1])
@pytest.mark.parametrize("together", [1, 2])
def test_an_adapters_features_are_computed_once_per_frame(base, images, together):
    model, prompts = base
    control, hint = t2i_adapter(model), hints()[:images]
    plain = sample(model, prompts, control, hint)
    frames = []
    control.t2i_model.register_forward_pre_hook(lambda net, args: frames.append(args[0].shape[0]))
    windows = ContextWindows.execute(model=model, length=4, overlap=2, windows_per_batch=together)[0]
    assert torch.allclose(sample(windows, prompts, control, hint), plain, atol=1e-4)
    assert sum(frames) == (FRAMES if images > 1 else 1)
    sample(windows, prompts, control, 1 - hint)
    assert sum(frames) == 2 * (FRAMES if images > 1 else 1)  # nothing of a run stays behind
