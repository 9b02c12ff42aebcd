"""What other packs read of a call, and what of theirs sees windows one by one.

The doubles read what the packs read; ``test_advanced_controlnet.py`` drives the real one.
"""

import comfy.controlnet
import comfy.hooks
import pytest
import torch
from animatediff_flipbook.nodes.context.context import ContextWindows
from animatediff_flipbook.nodes.context.context_handler import WindowHandler
from animatediff_flipbook.nodes.context.other_packs import sees_single_windows
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
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_freelunch import FreeU_V2

__all__ = ["base"]  # a fixture
MIDDLE = 128
"""Channels in the middle of the small UNet."""


class CutsByItself(comfy.controlnet.ControlBase):
    """Reads of a call what Advanced-ControlNet reads, with its methods bound to itself as there; adds to the
    middle of the UNet what it has for each frame (``strengths``), looked up by the frame's number."""

    def __init__(self, strengths):
        super().__init__()
        self.sub_idxs, self.full_latent_length, self.context_length = None, 0, 0
        self.strengths = strengths
        self.calls = []
        self.steps = []
        self.get_control = self.look_up

    def look_up(self, x_noisy, t, cond, batched_number, transformer_options):
        previous = self.previous_controlnet
        if previous is not None:
            previous = previous.get_control(x_noisy, t, cond, batched_number, transformer_options)
        entry = transformer_options["ad_params"]
        self.sub_idxs = entry["sub_idxs"]
        self.full_latent_length, self.context_length = entry["full_length"], entry["context_length"]
        self.calls.append((self.sub_idxs, self.full_latent_length, self.context_length))
        if float(t[0]) not in self.steps:
            self.steps.append(float(t[0]))
        frames = x_noisy.shape[0] // batched_number
        # As there: a table from frame to place, in which a frame that stands twice has one place.
        places = {frame: place for place, frame in enumerate(self.sub_idxs or range(frames))}
        amounts = torch.zeros(frames)
        for frame, strength in self.strengths.items():
            if frame in places:
                amounts[places[frame]] = strength
        amounts = amounts.repeat(batched_number).view(-1, 1, 1, 1)
        pattern = torch.randn(1, MIDDLE, SIZE // 4, SIZE // 4, generator=torch.Generator().manual_seed(1))
        added = pattern * amounts
        return self.control_merge({"middle": [added]}, previous, None)

    def copy(self):
        raise AssertionError("a copy would have lost what the run has set")


def with_control(prompts, control):
    extra = {"control": control, "control_apply_to_uncond": True}
    return [[[text, {**values, **extra}] for text, values in prompt] for prompt in prompts]


STRENGTHS = {frame: 3.0 * (frame % 3) - 2.0 for frame in range(FRAMES)}


@pytest.mark.parametrize("together", [1, 3])
def test_a_control_that_looks_frames_up_is_the_same_in_windows(base, together, caplog):
    """Without motion a frame does not know its window: any windows give what none give."""
    model, prompts = base
    control = CutsByItself(STRENGTHS)
    conds = with_control(prompts, control)
    plain = sample(model_without_windows(model), conds)
    assert (plain - sample(model_without_windows(model), prompts)).abs().max() > 0.05, "it is seen"
    assert control.calls == [(None, FRAMES, FRAMES)] * 2
    control.calls.clear()
    caplog.clear()
    windows = ContextWindows.execute(model, length=4, overlap=2, windows_per_batch=together).args[0]
    assert torch.allclose(sample(windows, conds), plain, atol=1e-4)
    starts = (0, 2, 4, 6)
    assert control.calls == [(list(range(i, i + 4)), FRAMES, 4) for i in starts] * 2
    assert len(control.steps) == 2
    assert (control.sub_idxs, control.full_latent_length, control.context_length) == (None, FRAMES, FRAMES)
    said = [record.getMessage() for record in caplog.records if "one by one" in record.getMessage()]
    assert len(said) == (together > 1)


def model_without_windows(model):
    """Windows longer than the clip: the calls hold it whole."""
    return ContextWindows.execute(model, length=FRAMES + 1).args[0]


def test_frames_are_told_before_the_first_windows_and_without_any(base, motion_module):
    model, prompts = base
    animated = ApplyMotionModule.execute(model, motion_module("v3")).args[0]
    late = ContextWindows.execute(animated, length=4, overlap=1, start_percent=0.5).args[0]
    for each, whole in ((animated, 2), (model_without_windows(animated), 2), (late, 1)):
        control = CutsByItself(STRENGTHS)
        sample(each, with_control(prompts, control))
        assert control.calls[:whole] == [(None, FRAMES, FRAMES)] * whole
        assert all(call[2] == 4 and len(call[0]) == 4 for call in control.calls[whole:])
        assert "ad_params" not in each.model_options["transformer_options"]


@pytest.mark.parametrize("kind", [controlnet, t2i_adapter])
@pytest.mark.parametrize("stock_first", [True, False])
def test_stock_controls_chained_with_one_that_cuts_by_itself(base, kind, stock_first):
    model, prompts = base
    stock = kind(model).set_cond_hint(hints(), 0.8, (0.0, 1.0))
    own = CutsByItself(STRENGTHS)
    front, behind = (own, stock) if stock_first else (stock, own)
    front.set_previous_controlnet(behind)
    conds = with_control(prompts, front)
    plain = sample(model_without_windows(model), conds)
    windows = ContextWindows.execute(model, length=4, overlap=2).args[0]
    off = (sample(windows, conds) - plain).abs().max()
    assert off < 1e-4 * plain.abs().max()
    assert front.previous_controlnet is behind
    assert own.sub_idxs is None


def test_controls_are_as_they_were_after_an_error(base):
    model, prompts = base
    stock = controlnet(model).set_cond_hint(hints(), 0.8, (0.0, 1.0))

    class Fails(CutsByItself):
        def look_up(self, *arguments):
            raise RuntimeError("struck")

    own = Fails(STRENGTHS).set_previous_controlnet(stock)
    windows = ContextWindows.execute(model, length=4, overlap=2).args[0]
    with pytest.raises(RuntimeError, match="struck"):
        sample(windows, with_control(prompts, own))
    assert own.previous_controlnet is stock
    assert (own.sub_idxs, own.full_latent_length, own.context_length) == (None, 0, 0)


def adding(strengths):
    """A patch on the text attention that adds an amount per frame, looked up by number."""

    def patch(q, options):
        indices = options["ad_params"]["sub_idxs"]
        videos = len(options["cond_or_uncond"])
        frames = q.shape[0] // videos
        places = {frame: place for place, frame in enumerate(indices or range(frames))}
        amounts = q.new_zeros(frames)
        for frame, strength in strengths.items():
            if frame in places:
                amounts[places[frame]] = strength
        return q + amounts.repeat(videos).view(-1, 1, 1)

    return patch


def on_attention(model):
    model.set_model_attn2_output_patch(adding(STRENGTHS))


def on_attention_replaced(model):
    patch = adding(STRENGTHS)

    def replace(q, k, v, options):
        return patch(torch.nn.functional.scaled_dot_product_attention(q, k, v), options)

    for place in ("input", "output"):
        for block in range(12):
            model.set_model_attn2_replace(replace, place, block)


def around_the_unet(model):
    def wrapper(executor, x, *arguments, **kwargs):
        options = next(one for one in arguments if isinstance(one, dict) and "ad_params" in one)
        return executor(adding(STRENGTHS)(x.flatten(2), options).view_as(x), *arguments, **kwargs)

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "theirs", wrapper)


def around_the_model(model):
    def wrapper(apply_model, given):
        options = given["c"]["transformer_options"]
        x = given["input"]
        return apply_model(
            adding(STRENGTHS)(x.flatten(2), options).view_as(x), given["timestep"], **given["c"]
        )

    model.set_model_unet_function_wrapper(wrapper)


@pytest.mark.parametrize(
    "put_on",
    [on_attention, on_attention_replaced, around_the_unet, around_the_model],
    ids=lambda f: f.__name__,
)
def test_patches_that_look_frames_up_are_the_same_at_several_windows_per_call(base, motion_module, put_on):
    model, prompts = base
    animated = ApplyMotionModule.execute(model, motion_module("v3")).args[0]
    unpatched = sample(ContextWindows.execute(animated, length=4, overlap=2).args[0], prompts)
    put_on(animated)
    one, several = (
        sample(ContextWindows.execute(animated, length=4, overlap=2, windows_per_batch=n).args[0], prompts)
        for n in (1, 3)
    )
    assert (one - unpatched).abs().max() > 1e-3, "it is seen"
    assert torch.allclose(several, one, atol=1e-5 * float(one.abs().max()))


def test_what_is_comfyuis_or_ours_runs_windows_together(base, motion_module):
    model, prompts = base
    control = controlnet(model).set_cond_hint(hints(), 0.8, (0.0, 1.0))
    conds = [[{"control": control}], [{}], None]
    animated = ApplyMotionModule.execute(model, motion_module("v3")).args[0]
    (patched,) = FreeU_V2().patch(animated, 1.3, 1.4, 0.9, 0.2)
    assert sees_single_windows(model.model, conds, patched.model_options) is None
    for put_on in (on_attention, on_attention_replaced, around_the_model):
        theirs = patched.clone()
        put_on(theirs)
        assert sees_single_windows(model.model, conds, theirs.model_options) == "A patch of another pack"
    own = CutsByItself({}).set_previous_controlnet(None)
    control.set_previous_controlnet(own)
    assert "Advanced-ControlNet" in sees_single_windows(model.model, conds, patched.model_options)


def test_the_handler_leaves_nothing_on_controls_when_asked_for_conds(base):
    """By ComfyUI's own method, without a model call."""
    model, _ = base
    handler = ContextWindows.execute(model, length=4, overlap=1).args[0].model_options["context_handler"]
    assert isinstance(handler, WindowHandler)
    own = CutsByItself({})
    x = torch.zeros(FRAMES, 4, SIZE, SIZE)
    window = handler.for_run(
        model.get_model_object("model_sampling"), torch.tensor([14.0, 0.0]), 1
    ).run.window([(0, 1, 2, 3)], FRAMES)
    (cond,) = handler.get_resized_cond([{"control": own}], x, window)
    assert cond["control"] is own
    assert own.sub_idxs is None
