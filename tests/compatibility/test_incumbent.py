"""AnimateDiff-Evolved beside us: both packs in one process, in separate branches from one base model.

    FLIPBOOK_INCUMBENT=FOLDER python run.py test -m slow tests/compatibility/test_incumbent.py [--comfyui DIR]

FOLDER is a checkout of that pack. It expects the widths of SD1.5, so the models are of full size, with random
weights: about 10 GB of memory and two minutes.
"""

import asyncio
import os
from pathlib import Path

import comfy.model_management
import comfy.sample
import pytest
import torch
from animatediff_flipbook.motion_core.files.checkpoint import save_motion_module
from animatediff_flipbook.nodes.motion.apply import ApplyMotionModule
from animatediff_flipbook.nodes.motion.load import LoadMotionModule
from animatediff_flipbook.tests.support import as_patcher, relative_error
from animatediff_flipbook.tests.support_full_size import SD15, motion_model, sd15_unet

import nodes as comfy_nodes

FOLDER = os.environ.get("FLIPBOOK_INCUMBENT", "")
FRAMES, NAME = 4, "v3_sd15_mm.safetensors"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER, reason="FLIPBOOK_INCUMBENT names no folder of AnimateDiff-Evolved"),
]


@pytest.fixture(scope="module")
def incumbent():
    """Its node classes, loaded as ComfyUI loads a pack."""
    before = set(comfy_nodes.NODE_CLASS_MAPPINGS)
    assert asyncio.run(comfy_nodes.load_custom_node(str(Path(FOLDER).resolve())))
    return {k: v for k, v in comfy_nodes.NODE_CLASS_MAPPINGS.items() if k not in before}


@pytest.fixture(scope="module")
def base():
    unet = sd15_unet()
    weights = unet.state_dict()
    return as_patcher(SD15, weights)


@pytest.fixture
def module_file(base, model_folders):
    motion = motion_model(base.model.diffusion_model)
    save_motion_module(model_folders["animatediff_models"] / NAME, motion)


def sample(model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    cond = [[torch.randn(1, 77, 768, generator=generator), {}]]
    noise = torch.randn(FRAMES, 4, 8, 8, generator=generator)
    with torch.inference_mode():
        return comfy.sample.sample(
            *(model, noise, 1, 1.0, "euler", "normal", cond, cond, torch.zeros_like(noise)),
            seed=seed, disable_pbar=True,
        )  # fmt: skip


def call(node, **inputs):
    return getattr(node(), node.FUNCTION)(**inputs)[0]


def test_both_work_in_branches_of_their_own(incumbent, base, module_file):
    before = {name: value.clone() for name, value in base.model.diffusion_model.state_dict().items()}
    plain = sample(base)
    ours = ApplyMotionModule.execute(base, LoadMotionModule.execute(NAME)[0], beta_schedule="keep")[0]
    wanted = sample(ours)

    loaded = call(incumbent["ADE_LoadAnimateDiffModel"], model_name=NAME)
    group = call(incumbent["ADE_ApplyAnimateDiffModelSimple"], motion_model=loaded)
    theirs = call(
        incumbent["ADE_UseEvolvedSampling"], model=base, beta_schedule="use existing", m_models=group
    )
    other = sample(theirs)
    # The same weights, so nearly the same clip: proof that theirs runs, and a reference for ours.
    assert relative_error(other, wanted) < 1e-3
    assert relative_error(plain, wanted) > 1e-2

    # In turns, as a graph with both branches runs them.
    for _ in range(2):
        assert torch.equal(sample(ours), wanted)
        assert torch.equal(sample(theirs), other)
    assert torch.equal(sample(base), plain)

    for meet in (
        lambda: ApplyMotionModule.execute(theirs, LoadMotionModule.execute(NAME)[0]),
        lambda: sample(
            call(
                incumbent["ADE_UseEvolvedSampling"], model=ours, beta_schedule="use existing", m_models=group
            )
        ),
    ):
        with pytest.raises(ValueError, match="two packs cannot animate one model"):
            meet()
    assert torch.equal(sample(ours), wanted)

    comfy.model_management.unload_all_models()
    after = base.model.diffusion_model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
