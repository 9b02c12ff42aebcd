"""The real Advanced-ControlNet in context windows, where its folder is given:
``ADVANCED_CONTROLNET_PATH=/.../ComfyUI-Advanced-ControlNet``. Nothing of it is part of this project.

Without motion a frame does not know its window: every control must give in windows what it gives without.
"""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch
from animatediff_flipbook.nodes.context.context import ContextWindows
from animatediff_flipbook.nodes.motion.apply import ApplyMotionModule
from animatediff_flipbook.tests.nodes.context.test_controls import (
    FRAMES,
    SIZE,
    base,
    controlnet,
    hints,
    sample,
    t2i_adapter,
)
from animatediff_flipbook.tests.support import as_patcher, golden_config, small_unet

__all__ = ["base"]  # a fixture
FOLDER = os.environ.get("ADVANCED_CONTROLNET_PATH")
pytestmark = pytest.mark.skipif(
    not FOLDER, reason="ADVANCED_CONTROLNET_PATH names no copy of ComfyUI-Advanced-ControlNet"
)


@pytest.fixture(scope="module")
def pack():
    """The pack, loaded by path as ComfyUI does."""
    name = "advanced_controlnet_under_test"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, Path(FOLDER) / "__init__.py", submodule_search_locations=[FOLDER]
        )
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return lambda module: importlib.import_module(f"{name}.adv_control.{module}")


def masks(count=FRAMES, seed=5):
    return torch.rand(count, 8 * SIZE, 8 * SIZE, generator=torch.Generator().manual_seed(seed))


def latent_keyframes(utils, frames):
    group = utils.LatentKeyframeGroup()
    for frame, strength in frames.items():
        group.add(utils.LatentKeyframe(frame, strength))
    return group


def timestep_keyframes(utils):
    """Another strength, mask and frames in the second half of the run."""
    group = utils.TimestepKeyframeGroup()
    group.add(utils.TimestepKeyframe(0.0, strength=0.6, mask_hint_orig=masks(seed=6)))
    group.add(
        utils.TimestepKeyframe(
            0.4,
            strength=1.2,
            mask_hint_orig=masks(seed=7),  # left out, the pack keeps the mask that it cut for the call before
            latent_keyframes=latent_keyframes(utils, {1: 0.2, 5: 1.0, -1: 0.5}),
            null_latent_kf_strength=0.3,
        )
    )
    return group


def few_hints(utils):
    return {"image": hints()[:3].movedim(1, -1)}


def one_hint(utils):
    return {"image": hints()[:1].movedim(1, -1)}


CASES = {
    "hints": lambda utils: {},
    "few hints": few_hints,
    "one hint": one_hint,
    "masks": lambda utils: {"mask_optional": masks()},
    "few masks": lambda utils: {"mask_optional": masks(4)},
    "latent keyframes": lambda utils: {
        "latent_kf_override": latent_keyframes(utils, {0: 1.0, 3: 0.2, 4: 0.7, -2: 1.3})
    },
    "timestep keyframes": lambda utils: {"timestep_kf": timestep_keyframes(utils)},
    "weights": lambda utils: {"weights_override": utils.ControlWeights.universal(0.7, uncond_multiplier=0.4)},
    "weight mask": lambda utils: {"weights_override": utils.ControlWeights.universal_mask(masks())},
}


def controlled(pack, prompts, control, **options):
    """Through the pack's own node, as a graph has it."""
    apply = pack("nodes_main").AdvancedControlNetApply
    given = {"image": hints().movedim(1, -1), "strength": 0.8, "start_percent": 0.0, "end_percent": 1.0}
    out = apply.execute(*prompts, control, **{**given, **options})
    return list(out.args)


def windowed(model, together, length=4, overlap=2):
    return ContextWindows.execute(model, length=length, overlap=overlap, windows_per_batch=together).args[0]


@pytest.mark.parametrize("kind", [controlnet, t2i_adapter])
@pytest.mark.parametrize("case", CASES)
def test_controls_are_the_same_in_windows(base, pack, kind, case):
    model, prompts = base
    options = CASES[case](pack("utils"))
    if kind is t2i_adapter and "weight" in case:
        pytest.skip("the pack's weights for T2I-Adapters are made for adapters of full size")
    if kind is t2i_adapter and case == "few hints":
        pytest.skip("of an adapter's hints, the pack repeats the last in windows and ComfyUI all without")
    conds = controlled(pack, prompts, kind(model), **options)
    plain = sample(model, conds)
    size = float(plain.abs().max())
    assert (plain - sample(model, prompts)).abs().max() > 1e-3 * size, "it is seen"
    for together in (1, 3):
        got = sample(windowed(model, together), conds)
        assert (got - plain).abs().max() < 1e-4 * size, together
    assert torch.equal(sample(model, conds), plain), "nothing of the windows stays on the control"


@pytest.mark.parametrize("advanced_first", [True, False])
def test_a_stock_control_in_the_same_chain(base, pack, advanced_first):
    from nodes import ControlNetApplyAdvanced

    model, conds = base

    def stock(conds):
        apply = ControlNetApplyAdvanced().apply_controlnet
        return list(apply(*conds, controlnet(model), 1 - hints().movedim(1, -1), 0.5, 0.0, 1.0))

    def advanced(conds):
        return controlled(pack, conds, controlnet(model), mask_optional=masks())

    for put_on in (advanced, stock) if advanced_first else (stock, advanced):
        conds = put_on(conds)
    plain = sample(model, conds)
    for together in (1, 3):
        got = sample(windowed(model, together), conds)
        assert (got - plain).abs().max() < 1e-4 * plain.abs().max()


@pytest.mark.parametrize("together", [1, 3])
def test_with_motion_and_without_windows(base, pack, motion_module, together):
    """One window over the whole clip, or none: the same; several windows: they run, and are the same at any
    number per call."""
    model, prompts = base
    animated = ApplyMotionModule.execute(model, motion_module("v3")).args[0]
    conds = controlled(pack, prompts, controlnet(model), **CASES["timestep keyframes"](pack("utils")))
    whole = sample(animated, conds)
    assert torch.equal(sample(windowed(animated, together, FRAMES), conds), whole)
    late = ContextWindows.execute(animated, length=4, overlap=2, start_percent=0.5).args[0]
    assert torch.isfinite(sample(late, conds)).all()
    one = sample(windowed(animated, 1), conds)
    assert (sample(windowed(animated, together), conds) - one).abs().max() < 1e-4 * one.abs().max()


@pytest.fixture(scope="module")
def full_shape():
    """``(model, prompts)``: a UNet with SD1.5's blocks, which reference counts, and few channels."""
    shape = {
        "channel_mult": [1, 2, 2, 2],
        "num_res_blocks": [2, 2, 2, 2],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    }
    model = as_patcher({**golden_config(), **shape}, small_unet(**shape).state_dict())
    width = golden_config()["context_dim"]
    texts = [torch.randn(1, 7, width, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    return model, [[[text, {}]] for text in texts]


@pytest.mark.parametrize("kind", ["reference_attn", "reference_adain", "reference_attn+adain"])
@pytest.mark.parametrize("together", [1, 3])
def test_reference_is_the_same_in_windows(full_shape, pack, kind, together, monkeypatch):
    """Its picture, which it noises anew in every call, is given the same noise every time. It leaves the UNet
    as it was."""
    model, prompts = full_shape
    before = {key: value.clone() for key, value in model.model.diffusion_model.state_dict().items()}
    reference = pack("control_reference")
    picture, noise = torch.randn(2, 1, 4, SIZE, SIZE, generator=torch.Generator().manual_seed(9))
    noised = reference.ref_noise_latents
    monkeypatch.setattr(
        reference,
        "ref_noise_latents",
        lambda latents, sigma, noise=None, same=noise: noised(latents, sigma, same.expand_as(latents)),
    )
    control = pack("nodes_reference").ReferenceControlNetNode.execute(kind, 0.5, 1.0).args[0]

    class Image:
        """What the pack's preprocessor makes in place of an image; its node for IMAGEs moves its axes."""

        def movedim(self, *_):
            return reference.ReferencePreprocWrapper(condhint=picture)

    conds = controlled(pack, prompts, control, image=Image(), strength=1.0)
    plain = sample(model, conds)
    size = float(plain.abs().max())
    assert (plain - sample(model, prompts)).abs().max() > 1e-3 * size, "it is seen"
    assert (sample(windowed(model, together), conds) - plain).abs().max() < 1e-4 * size
    after = model.model.diffusion_model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
