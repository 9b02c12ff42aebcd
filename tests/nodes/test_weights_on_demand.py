"""ComfyUI's weights on demand ("dynamic VRAM"), as far as a CPU can try them.

Layers that have no weight until a file gives it, and patches that are brought to a device bit by bit.
Versions without them skip.
"""

import comfy.lora
import comfy.model_patcher
import pytest
import torch
from animatediff_flipbook.motion_core.files.lora import lora_targets, save_motion_lora
from animatediff_flipbook.nodes.motion.apply import KEY, ApplyMotionModule
from animatediff_flipbook.nodes.motion.load import LoadMotionLora
from animatediff_flipbook.nodes.motion.motion_settings import MotionSettingsNode
from animatediff_flipbook.tests.support import bare, call_model, relative_error

memory_management = pytest.importorskip(
    "comfy.memory_management", reason="this ComfyUI has no weights on demand"
)


def output(model):
    x = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    context = torch.randn(1, 6, 64, generator=torch.Generator().manual_seed(2))
    return call_model(bare(model), x, 500.0, context)


@pytest.fixture
def lora(model_folders, motion_module):
    """A MotionLoRA for the v3 module, through its node."""
    random = torch.Generator().manual_seed(3)

    def draw(*shape):
        return 0.2 * torch.randn(shape, generator=random)

    targets = lora_targets(motion_module().patcher.model)
    layers = {n: (draw(2, t.shape[1]), draw(t.shape[0], 2)) for n, t in targets.items() if ".to_" in n}
    save_motion_lora(model_folders["animatediff_motion_lora"] / "lora.safetensors", layers)
    return LoadMotionLora.execute("lora.safetensors", 0.7)[0]


@pytest.mark.skipif(
    not hasattr(memory_management, "aimdo_enabled"),
    reason="this ComfyUI gives every layer its weight at once",
)
@pytest.mark.parametrize("generation", ["v1", "v2", "v3"])
def test_layers_without_weights_until_the_file_is_read(tiny_model, motion_module, monkeypatch, generation):
    at_once = motion_module(generation, name="at_once.safetensors")
    wanted = output(ApplyMotionModule.execute(tiny_model, at_once)[0])
    monkeypatch.setattr(memory_management, "aimdo_enabled", True)
    late = motion_module(generation, name="late.safetensors")
    layers = [layer for layer in late.patcher.model.modules() if hasattr(layer, "weight_comfy_model_dtype")]
    if not layers:
        pytest.skip("this ComfyUI gives every layer its weight at once")
    model = ApplyMotionModule.execute(tiny_model, late)[0]
    assert relative_error(output(model), wanted) < 1e-6


@pytest.mark.skipif(not hasattr(comfy.lora, "prefetch_prepared_value"), reason="patches are applied whole")
def test_patches_that_are_prepared_bit_by_bit_give_the_same(tiny_model, motion_module, lora):
    """MotionLoRAs, most of them for a part of a weight, and factors."""
    settings = MotionSettingsNode.execute(all_weights=1.1, q=0.9, feed_forward=0.8)[0]
    model = ApplyMotionModule.execute(tiny_model, motion_module(), lora, motion_settings=settings)[0]
    (patcher,) = model.get_additional_models_with_key(KEY)
    assert len(patcher.patches) > 10
    state = patcher.model.state_dict()
    for key, patches in patcher.patches.items():
        weight = state[key].float()
        assert tuple(comfy.lora.calculate_shape(patches, weight, key)) == tuple(weight.shape)
        patch = comfy.model_patcher.LowVramPatch(key, patcher.patches)
        wanted = patch(weight.clone())
        assert not torch.equal(wanted, weight)
        patch.prepare(torch.zeros(patch.memory_required(), dtype=torch.uint8), None)
        assert torch.equal(patch(weight.clone()), wanted), key
