"""Next to what ComfyUI does with models: weights left in system memory (low VRAM), torch.compile."""

import comfy.model_management
import pytest
import torch
from animatediff_flipbook.motion_core.files.lora import lora_targets, save_motion_lora
from animatediff_flipbook.nodes.motion.apply import KEY, ApplyMotionModule
from animatediff_flipbook.nodes.motion.load import LoadMotionLora
from animatediff_flipbook.tests.support import assert_untouched, bare, call_model, snapshot
from comfy_api.torch_helpers.torch_compile import set_torch_compile_wrapper

FRAMES = 4


@pytest.fixture
def motion_lora(model_folders):
    """A MotionLoRA on every attention layer of a motion module."""

    def make(module, strength=0.8):
        generator = torch.Generator().manual_seed(3)
        layers = {
            name: tuple(
                0.2 * torch.randn(*shape, generator=generator) for shape in ((3, t.shape[1]), (t.shape[0], 3))
            )
            for name, t in lora_targets(module.patcher.model).items()
            if ".to_" in name
        }
        save_motion_lora(model_folders["animatediff_motion_lora"] / "pan.safetensors", layers)
        return LoadMotionLora.execute(motion_lora="pan.safetensors", strength=strength)[0]

    return make


def inputs():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(FRAMES, 4, 8, 8, generator=generator)
    return x, 400.0, torch.randn(1, 6, 64, generator=generator)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_low_vram_gives_the_same_numbers(tiny_model, motion_module, motion_lora, share):
    """Layers patched on the fly, from system memory, with a MotionLoRA on them."""
    module = motion_module()
    model = bare(tiny_model)
    model = ApplyMotionModule.execute(
        model=model, motion_module=module, motion_lora=motion_lora(module), beta_schedule="keep"
    )[0]
    without = ApplyMotionModule.execute(model=bare(tiny_model), motion_module=module, beta_schedule="keep")[0]
    plain = call_model(without, *inputs())
    wanted = call_model(model, *inputs())
    assert not torch.allclose(plain, wanted, atol=1e-3), "the MotionLoRA does something"
    comfy.model_management.unload_all_models()
    counters = []

    def partly(models):
        for patcher in models:
            memory = max(1, int(share * patcher.model_size()))
            patcher.patch_model(patcher.load_device, lowvram_model_memory=memory)
            counters.append((patcher.model.model_lowvram, patcher.model.lowvram_patch_counter))

    got = call_model(model, *inputs(), load=partly)
    for patcher in [model, *model.get_additional_models_with_key(KEY)]:
        patcher.unpatch_model(patcher.offload_device)
    assert counters[1][0] and counters[1][1] > 0, "nothing was left in system memory"
    assert torch.allclose(got, wanted, atol=1e-4)
    comfy.model_management.unload_all_models()
    assert torch.allclose(call_model(without, *inputs()), plain, atol=1e-6), "the MotionLoRA stayed behind"


@pytest.mark.parametrize("generation", [pytest.param("v1", marks=pytest.mark.slow), "v3"])
def test_torch_compile(tiny_model, motion_module, generation):
    """Core's compile node: equal output, and graphs that are made once, not at every step."""
    import torch._dynamo

    before = snapshot(tiny_model.model.diffusion_model)
    model = ApplyMotionModule.execute(
        model=bare(tiny_model), motion_module=motion_module(generation), beta_schedule="keep"
    )[0]
    x, _, context = inputs()
    wanted = [call_model(model, x, t, context) for t in (900.0, 600.0, 300.0, 100.0)]
    torch._dynamo.reset()
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = model.clone()
    set_torch_compile_wrapper(compiled, backend=count)
    made = []
    for t, plain in zip((900.0, 600.0, 300.0, 100.0), wanted, strict=True):
        assert torch.allclose(call_model(compiled, x, t, context), plain, atol=1e-4)
        made.append(len(graphs))
    print(f"graphs after each step: {made}")
    assert_untouched(tiny_model.model.diffusion_model, before)
    assert made[0] > 0
    assert made[-1] == made[1], f"compiled anew at every step: {made}"
