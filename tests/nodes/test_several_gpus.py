"""ComfyUI's split of the work among several GPUs: every copy of the model is the model.

Two names of the CPU stand for two GPUs; all else is ComfyUI's own code. Versions without the split skip.
"""

import inspect
import threading

import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.sd
import pytest
import torch
from animatediff_flipbook.motion_core.files.lora import lora_targets, save_motion_lora
from animatediff_flipbook.nodes.context.context import ContextWindows
from animatediff_flipbook.nodes.control.sparse import LoadSparseControl
from animatediff_flipbook.nodes.motion.apply import KEY, ApplyMotionModule
from animatediff_flipbook.nodes.motion.load import LoadMotionLora
from animatediff_flipbook.nodes.motion.motion_keyframe import MotionKeyframe
from animatediff_flipbook.nodes.types import LoadedMotionModule
from animatediff_flipbook.tests.nodes.context.test_controls import controlnet, t2i_adapter
from animatediff_flipbook.tests.support_sparse import write_encoder
from comfy.patcher_extension import WrappersMP

multigpu = pytest.importorskip("comfy.multigpu", reason="this ComfyUI does not split work among GPUs")

FIRST, SECOND = torch.device("cpu"), torch.device("cpu", 0)
FRAMES = 6
CLOSE = {"atol": 1e-3, "rtol": 1e-3}
"""Conds that run apart round otherwise than together; patches that are missing are 0.1 and more off."""


@pytest.fixture
def base(tiny_checkpoint, monkeypatch):
    """A MODEL of its own, and a machine with two devices."""
    monkeypatch.setattr(comfy.model_management, "get_all_torch_devices", lambda **_: [FIRST, SECOND])
    return comfy.sd.load_checkpoint_guess_config(str(tiny_checkpoint), output_vae=False, output_clip=False)[0]


def split(model):
    """What the node MultiGPU CFG Split does."""
    return multigpu.create_multigpu_deepclones(model, 2)


def cond(seed, **extra):
    return [[torch.randn(1, 6, 64, generator=torch.Generator().manual_seed(seed)), extra]]


def sample(model, positive=None, negative=None, frames=FRAMES):
    latent = torch.zeros(frames, 4, 8, 8)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        return comfy.sample.sample(
            *(model, noise, 2, 5.0, "euler", "normal", positive or cond(1), negative or cond(2), latent),
            seed=3, disable_pbar=True,
        )  # fmt: skip


@pytest.fixture
def lora(model_folders, motion_module):
    """``lora(seed, strength)``: a MotionLoRA for the module, through its node."""

    def load(seed, strength):
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return 0.2 * torch.randn(shape, generator=generator)

        layers = {
            name: (draw(2, target.shape[1]), draw(target.shape[0], 2))
            for name, target in lora_targets(motion_module().patcher.model).items()
            if ".to_" in name
        }
        name = f"{seed}.safetensors"
        save_motion_lora(model_folders["animatediff_motion_lora"] / name, layers)
        return LoadMotionLora.execute(name, strength)[0]

    return load


def apply(model, module, lora=None, **options):
    return ApplyMotionModule.execute(model, module, lora, **options)[0]


def test_the_split_changes_nothing(base, motion_module):
    module = motion_module()
    wanted = sample(apply(base, module))
    assert not torch.allclose(wanted, sample(base), atol=1e-2)
    for model in (split(apply(base, module)), apply(split(base), module)):
        torch.testing.assert_close(sample(model), wanted, **CLOSE)


def test_both_devices_work(base, motion_module):
    """Guards the tests of this file: ComfyUI really sends conds to the second device."""
    model = ContextWindows.execute(split(apply(base, motion_module())), length=4, overlap=1)[0]
    threads = set()

    def look(executor, *args, **kwargs):
        threads.add(threading.current_thread())
        return executor(*args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test", look)
    sample(model, frames=10)
    assert len(threads) == 2, "one thread for each device"


def test_a_motion_lora_that_comes_later_is_on_every_copy(base, motion_module, lora):
    module = motion_module()
    model = split(apply(base, module))
    sample(model)  # the copies have been used
    for seed, strength in ((1, 1.0), (2, -0.5)):
        chosen = lora(seed, strength)
        again = split(apply(base, module, chosen))
        wanted = sample(apply(base, module, chosen))
        torch.testing.assert_close(sample(again), wanted, **CLOSE)
        later = apply(split(base), module, chosen)
        torch.testing.assert_close(sample(later), wanted, **CLOSE)
        (copy,) = later.get_additional_models_with_key("multigpu")
        copies = [one.patches_uuid for one in copy.get_additional_models_with_key(KEY)]
        assert copies == [one.patches_uuid for one in later.get_additional_models_with_key(KEY)]


def test_patches_change_between_runs_of_one_split_model(base, motion_module, lora):
    """The model that was split keeps its copies; the MotionLoRA of a later run must reach them."""
    module = motion_module()
    model = split(apply(base, module))
    sample(model)
    model = model.clone()
    chosen = lora(1, 1.0)
    patched = apply(base, module, chosen).get_additional_models_with_key(KEY)
    model.set_additional_models(KEY, patched)
    torch.testing.assert_close(sample(model), sample(apply(base, module, chosen)), **CLOSE)


def test_one_module_with_other_loras_in_two_branches(base, motion_module, lora):
    module = motion_module()
    chosen = lora(1, 1.0), lora(2, 1.0)
    wanted = [sample(apply(base, module, one)) for one in chosen]
    assert not torch.allclose(*wanted, atol=1e-2)
    models = [split(apply(base, module, one)) for one in chosen]
    for _ in range(2):  # in turns, so that each takes the weights over from the other
        for model, expected in zip(models, wanted, strict=True):
            torch.testing.assert_close(sample(model), expected, **CLOSE)
    torch.testing.assert_close(sample(apply(split(base), module)), sample(apply(base, module)), **CLOSE)


def test_one_module_twice_on_a_model(base, motion_module, lora):
    module, chosen = motion_module(), lora(1, 1.0)

    def twice(model):
        return apply(apply(model, module, chosen), module, effect=0.5)

    wanted = sample(twice(base))
    for model in (split(twice(base)), twice(split(base))):
        torch.testing.assert_close(sample(model), wanted, **CLOSE)


@pytest.mark.parametrize("order", [("v3", "v2"), ("v2", "v3")])
def test_several_modules_keep_their_order(base, motion_module, order):
    first, second = (motion_module(generation) for generation in order)
    wanted = sample(apply(apply(base, first, effect=0.7), second))
    model = apply(split(apply(base, first, effect=0.7)), second)
    torch.testing.assert_close(sample(model), wanted, **CLOSE)
    # The other way round the copies already hold the module that is now second.
    turned = split(apply(base, second))
    other = apply(apply(base, first, effect=0.7), second)
    turned.set_additional_models(KEY, other.get_additional_models_with_key(KEY))
    turned.set_attachments(KEY, other.get_attachment(KEY))
    torch.testing.assert_close(sample(turned), wanted, **CLOSE)


def test_windows_are_split_too(base, motion_module):
    module = motion_module()
    windowed = ContextWindows.execute(apply(base, module), length=4, overlap=1)[0]
    wanted = sample(windowed, frames=10)
    torch.testing.assert_close(sample(split(windowed), frames=10), wanted, **CLOSE)


@pytest.mark.parametrize("kind", [controlnet, t2i_adapter])
@pytest.mark.parametrize("chained", [False, True])
def test_every_copy_of_a_controlnet_sees_its_window_s_frames(base, motion_module, kind, chained):
    hint = 50 * torch.rand(10, 3, 64, 64, generator=torch.Generator().manual_seed(3))

    def conds():
        control = kind(base).set_cond_hint(hint if kind is controlnet else hint / 50, 0.8)
        if chained:
            control.set_previous_controlnet(controlnet(base).set_cond_hint(hint.flip(0), 0.5))
        return [cond(seed, control=control, control_apply_to_uncond=False) for seed in (1, 2)]

    windowed = ContextWindows.execute(apply(base, motion_module()), length=4, overlap=1)[0]
    wanted = sample(windowed, *conds(), frames=10)
    assert not torch.allclose(wanted, sample(windowed, frames=10), atol=1e-2)
    torch.testing.assert_close(sample(split(windowed), *conds(), frames=10), wanted, **CLOSE)


def test_every_copy_of_a_sparse_control_lays_out_its_window(base, motion_module, model_folders):
    write_encoder(
        model_folders["controlnet"] / "scribble.safetensors", base.model.diffusion_model, "scribble"
    )
    encoder = LoadSparseControl.execute("scribble.safetensors")[0]
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))

    def conds():
        control = encoder.copy().set_cond_hint(images, 0.8)
        control.set_previous_controlnet(encoder.copy().set_cond_hint(images[:1], 0.5))
        return [cond(seed, control=control, control_apply_to_uncond=False) for seed in (1, 2)]

    windowed = ContextWindows.execute(apply(base, motion_module()), length=4, overlap=1)[0]
    wanted = sample(windowed, *conds(), frames=10)
    assert not torch.allclose(wanted, sample(windowed, frames=10), atol=1e-2)
    torch.testing.assert_close(sample(split(windowed), *conds(), frames=10), wanted, **CLOSE)


def test_a_base_elsewhere_takes_the_module_with_it(base, motion_module):
    module = motion_module()
    wanted = sample(apply(base, module))
    elsewhere = base.clone()
    elsewhere.load_device = SECOND
    model = apply(elsewhere, module)
    (patcher,) = model.get_additional_models_with_key(KEY)
    assert patcher.load_device == SECOND
    assert patcher.model is not module.patcher.model  # the weights of the other branch stay where they are
    assert module.patcher.load_device == FIRST
    torch.testing.assert_close(sample(model), wanted, **CLOSE)


def test_a_base_that_moves_later_takes_its_modules_with_it(base, motion_module, lora):
    """What Select Model Device does after Apply Motion Module."""
    model = apply(apply(base, motion_module("v3"), lora(1, 1.0), effect=0.7), motion_module("v2"))
    model = ContextWindows.execute(model, length=4, overlap=1)[0]
    wanted = sample(model, frames=10)
    moved = model.clone().deepclone_multigpu(new_load_device=SECOND)
    assert [one.load_device for one in moved.get_additional_models_with_key(KEY)] == [SECOND, SECOND]
    torch.testing.assert_close(sample(moved, frames=10), wanted, **CLOSE)
    torch.testing.assert_close(sample(model, frames=10), wanted, **CLOSE)


@pytest.mark.skipif(
    "force_deepcopy" not in inspect.signature(comfy.model_patcher.ModelPatcher.clone).parameters,
    reason="this ComfyUI forces no deep copies",
)
def test_a_forced_deep_copy_has_weights_of_its_own(motion_module):
    patcher = motion_module().patcher
    copy = patcher.clone(force_deepcopy=True)
    assert copy.model is not patcher.model
    for name, value in patcher.model.state_dict().items():
        assert torch.equal(copy.model.state_dict()[name], value)


def test_comfyui_s_cache_may_ask_whether_weights_are_read_on_demand(motion_module):
    module = motion_module()
    assert module.is_dynamic() is module.patcher.is_dynamic()
    assert LoadedMotionModule("x", module.config, object(), None).is_dynamic() is False  # an older patcher


def test_a_strength_that_changes_does_so_on_every_copy(base, motion_module, lora):
    """MotionLoRAs beside the weights are models of their own; keyframes come as far on every copy."""
    module, chosen = motion_module(), lora(1, 1.0)
    later = MotionKeyframe.execute(0.4, lora_strength=[1.0, 0.2], effect=0.8)[0]
    wanted = sample(apply(base, module, chosen, motion_keyframes=later))
    assert not torch.allclose(wanted, sample(apply(base, module, chosen)), atol=1e-2)
    for model in (
        split(apply(base, module, chosen, motion_keyframes=later)),
        apply(split(base), module, chosen, motion_keyframes=later),
    ):
        torch.testing.assert_close(sample(model), wanted, **CLOSE)
