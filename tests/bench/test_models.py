"""diffusers' model on the very weights of ours: the comparison is of like with like."""

import pytest
import torch
from animatediff_flipbook.bench.models import (
    FAMILIES,
    base_model,
    diffusers_inputs,
    diffusers_twin,
    inputs,
    motion_model,
)
from animatediff_flipbook.motion_core.module.call import MotionCall
from animatediff_flipbook.motion_core.module.injection import inserted

CPU, FRAMES = torch.device("cpu"), 3


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@torch.inference_mode()
def test_diffusers_says_the_same_and_shares_every_weight(name):
    pytest.importorskip("diffusers")
    family = FAMILIES[name](64)
    unet = base_model(family, torch.float32, CPU).diffusion_model
    # diffusers takes the statistics of a module's own norm over all frames.
    motion = motion_model(unet, family, torch.float32, CPU, module_groupnorm="joint")
    twin = diffusers_twin(family, unet, motion)
    given = inputs(family, FRAMES, 16, torch.float32, CPU)
    theirs = diffusers_inputs(given, family.vector)
    if family.vector:
        added = theirs["added_cond_kwargs"]
        sizes = twin.add_time_proj(added["time_ids"].flatten()).reshape(1, -1)
        given["y"] = torch.cat([added["text_embeds"], sizes], dim=1).expand(FRAMES, -1)
    with inserted(unet, [(motion, MotionCall(frames=FRAMES))]):
        ours = unet(**given)
    plain = unet(**given)
    found = twin(**theirs)[0][0].transpose(0, 1)
    assert (ours - plain).abs().max() > 0.1
    torch.testing.assert_close(found, ours, atol=2e-5, rtol=1e-4)
    held = {tensor.untyped_storage().data_ptr() for tensor in (*unet.parameters(), *motion.parameters())}
    tables = {name for name, _ in twin.named_buffers()}
    shared = {
        name for name, tensor in twin.state_dict().items() if tensor.untyped_storage().data_ptr() in held
    }
    assert set(twin.state_dict()) - shared <= tables
