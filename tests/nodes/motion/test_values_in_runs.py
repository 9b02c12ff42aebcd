"""Values in whole runs: every call of the UNet is compared, video by video, with one made by hand from the
values of that video's frames, whatever the sampler puts together."""

import comfy.model_management
import comfy.samplers
import pytest
import torch
from animatediff_flipbook.motion_core.clips.context import ContextOptions
from animatediff_flipbook.motion_core.clips.views import views_of
from animatediff_flipbook.motion_core.files.lora import lora_targets
from animatediff_flipbook.motion_core.module.call import BlockValues, MotionCall
from animatediff_flipbook.motion_core.module.injection import inserted
from animatediff_flipbook.motion_core.module.low_rank import LowRank
from animatediff_flipbook.nodes.context.context import ContextWindows
from animatediff_flipbook.nodes.motion.load import LoadMotionLora
from animatediff_flipbook.nodes.motion.motion_keyframe import MotionKeyframe
from animatediff_flipbook.nodes.motion.motion_settings import MotionSettingsNode
from animatediff_flipbook.nodes.motion.motion_value import MotionValueNode
from animatediff_flipbook.tests.nodes.motion.test_apply import apply, cond, sample
from animatediff_flipbook.tests.nodes.motion.test_lora import factors, load
from animatediff_flipbook.tests.support import assert_untouched, snapshot

FRAMES = 7
WINDOW = {"length": 4, "overlap": 2}
AREAS = [(8, 4, 0, 0), (8, 4, 0, 4), (4, 6, 4, 2)]
"""Height, width, top, left: two of one size, which run in one call, and one of another."""


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def scale(module, folders):
    masks = rand(FRAMES, 5, 7)
    value = MotionValueNode.execute(value=1.6, lowest=0.4, mask=masks)[0]
    return {"scale_values": value}, lambda rows: MotionCall(len(rows), scale=0.4 + 1.2 * masks[rows])


def effect(module, folders):
    numbers = torch.linspace(0.1, 1.1, FRAMES)
    return {"effect": 0.5, "effect_values": numbers.tolist()}, lambda rows: MotionCall(
        len(rows), effect=0.5 * numbers[rows]
    )


def lora(module, folders):
    layers = {name: (0.2 * down, 0.2 * up) for name, (down, up) in factors(module).items()}
    load(folders, "frames.safetensors", layers, 1.0)
    masks = rand(FRAMES, 8, 8, seed=1)
    chosen = LoadMotionLora.execute("frames.safetensors", 0.8, strength_values=masks)[0]
    motion, beside = module.patcher.model, {}
    targets = lora_targets(motion)
    for name, (down, up) in layers.items():
        layer = motion.get_submodule(targets[name].key.removesuffix(".weight"))
        beside[layer] = (*beside.get(layer, ()), LowRank(0, down, up, targets[name].rows))
    return {"motion_lora": chosen}, lambda rows: MotionCall(
        len(rows), loras=beside, lora_strengths=(0.8 * masks[rows],)
    )


def keyframes(module, folders):
    numbers = torch.linspace(0.2, 2.0, FRAMES)
    frame = MotionKeyframe.execute(start_percent=0.0, scale=numbers.tolist(), effect=0.7)[0]
    return {"scale": 0.9, "motion_keyframes": frame}, lambda rows: MotionCall(
        len(rows), scale=0.9 * numbers[rows], effect=0.7
    )


def blocks(module, folders):
    settings = MotionSettingsNode.execute(blocks="up_blocks.0: scale 1.3/0.6\ndown_blocks: effect 0.5")[0]
    blocks = (BlockValues("up_blocks.0", scales=(1.3, 0.6)), BlockValues("down_blocks", effect=0.5))
    return {"motion_settings": settings}, lambda rows: MotionCall(len(rows), blocks=blocks)


def stretch(module, folders):
    settings = MotionSettingsNode.execute(stretch_rows=4, stretch_by=4)[0]
    places = tuple(min(max(0.5 * (frame + 0.5) - 0.5, 0.0), 3.0) for frame in range(8))
    return {"motion_settings": settings}, lambda rows: MotionCall(len(rows), positions=places[: len(rows)])


def views(module, folders):
    cut = ContextOptions(3, 1)
    return {}, lambda rows: MotionCall(len(rows), views=views_of(cut, len(rows)))


KINDS = {f.__name__: f for f in (scale, effect, lora, keyframes, blocks, stretch, views)}


class Case:
    """A kind of value on a model, every call of which is also made by hand."""

    def __init__(self, kind, base, module, folders):
        self.base, self.module = base, module
        self.given, self.call_for = KINDS[kind](module, folders)
        self.view = {"view_length": 3, "view_overlap": 1} if kind == "views" else {}
        self.videos = []

    def model(self, **windows):
        """Windows inside attention need Context Windows, also where the clip is one window."""
        model = apply(self.base, self.module, beta_schedule="keep", **self.given)
        if windows or self.view:
            model = ContextWindows.execute(model, **{"length": 16, **windows, **self.view})[0]
        model.set_model_unet_function_wrapper(self._both)
        return model

    def _both(self, apply_model, args):
        x, t, c = args["input"], args["timestep"], args["c"]
        got = apply_model(x, t, **c)
        options = c["transformer_options"]
        window = options.get("context_window")
        rows = list(window.index_list) if window else list(range(FRAMES))
        of_one = window.frames if window else FRAMES
        self.videos.append(x.shape[0] // of_one)
        bare = {key: value for key, value in options.items() if key != "wrappers"}
        for number in range(x.shape[0] // of_one):
            part = slice(number * of_one, (number + 1) * of_one)
            own = rows[number * of_one % len(rows) :][:of_one]
            with inserted(self.base.model.diffusion_model, [(self.module.patcher.model, self.call_for(own))]):
                wanted = self.base.model._apply_model(
                    x[part], t[part], c_crossattn=c["c_crossattn"][part], transformer_options=bare
                )
            assert torch.allclose(got[part], wanted, atol=2e-4), number
        return got

    _both.__module__ = "comfy.samplers"  # a patch of unknown origin would be shown windows one by one


def run(model, **options):
    return sample(model, frames=FRAMES, steps=1, **options)


def with_areas(first):
    """A prompt for each area, behind one for all."""
    prompts = cond(first)
    for number, area in enumerate(AREAS):
        prompts += cond(first + 2 + number, area=area)
    return {"positive": prompts, "negative": cond(2)}


def one_by_one(args):
    options = {k: v for k, v in args["model_options"].items() if k != "sampler_calc_cond_batch_function"}
    return [
        comfy.samplers.calc_cond_batch(args["model"], [c], args["input"], args["sigma"], options)[0]
        for c in args["conds"]
    ]


@pytest.fixture(params=KINDS)
def case(request, tiny_model, motion_module, model_folders):
    return Case(request.param, tiny_model, motion_module(), model_folders)


some_kinds = pytest.mark.parametrize("case", ["scale", "lora"], indirect=True)


@pytest.mark.slow
def test_prompts_in_one_call_change_something(case):
    got = run(case.model())
    assert case.videos == [2]
    assert not torch.allclose(got, run(apply(case.base, case.module, beta_schedule="keep")), atol=1e-3)


@some_kinds
def test_several_windows_in_a_call_with_areas_of_two_sizes(case):
    assert_several_windows_with_areas(case)


@pytest.mark.slow
def test_several_windows_with_areas_of_every_kind(case):
    assert_several_windows_with_areas(case)


def assert_several_windows_with_areas(case):
    run(case.model(**WINDOW, windows_per_batch=2), **with_areas(1))
    assert max(case.videos) > 4, "two windows of two areas of one size, and both prompts"


@pytest.mark.slow
def test_a_cancelled_run_leaves_the_base_and_the_next_run_whole(case):
    before = snapshot(case.base.model.diffusion_model)
    model = case.model(**WINDOW)
    whole = run(model)

    def stop(*_):
        raise comfy.model_management.InterruptProcessingException

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(model, callback=stop)
    assert_untouched(case.base.model.diffusion_model, before)
    assert torch.equal(run(model), whole)


@pytest.mark.slow
def test_prompts_one_by_one(case):
    model = case.model()
    model.model_options["sampler_calc_cond_batch_function"] = one_by_one
    run(model)
    assert case.videos == [1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("together", [1, 3])
@pytest.mark.parametrize("schedule", ["standard_static", "standard_uniform", "looped_uniform"])
def test_windows(case, together, schedule):
    run(case.model(**WINDOW, schedule=schedule, windows_per_batch=together))
    assert max(case.videos) <= 2 * together


@pytest.mark.slow
def test_areas(case):
    run(case.model(), **with_areas(1))
    assert max(case.videos) > 2, "two areas of one size run together"
