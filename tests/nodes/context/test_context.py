"""Context windows on a real, small ComfyUI model: every sampler, every per-frame input, one result."""

import inspect

import comfy.context_windows
import comfy.controlnet
import comfy.model_management
import comfy.ops
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.utils
import pytest
import torch
from animatediff_flipbook.motion_core.clips.context import ContextOptions, context_windows
from animatediff_flipbook.nodes.compat import new_patcher
from animatediff_flipbook.nodes.context.context import ContextSampler, ContextWindows
from animatediff_flipbook.nodes.context.context_handler import WindowHandler
from animatediff_flipbook.nodes.context.context_run import first_step
from animatediff_flipbook.nodes.motion.apply import KEY, ApplyMotionModule
from animatediff_flipbook.nodes.types import LoadedMotionModule
from animatediff_flipbook.tests.support import motion_for
from comfy.context_windows import IndexListContextHandler
from comfy.patcher_extension import WrappersMP, add_callback_with_key
from comfy_extras.nodes_tomesd import TomePatchModel

FRAMES = 24


@pytest.fixture(scope="module")
def base(tiny_checkpoint):
    """``(model, clip)`` of the tiny family with random weights."""
    return comfy.sd.load_checkpoint_guess_config(str(tiny_checkpoint), output_vae=False)[:2]


def animate(model, generation="v3"):
    """``(model, motion module)`` with random weights everywhere, so that windows matter."""
    motion = motion_for(model.model.diffusion_model, generation)

    def patcher():
        return new_patcher(motion, patcher)

    loaded = LoadedMotionModule("random", motion.config, patcher(), patcher)
    return ApplyMotionModule.execute(model, loaded).args[0], loaded


@pytest.fixture(scope="module")
def animated(base):
    return animate(base[0])


@pytest.fixture(scope="module")
def prompts(base):
    """``(positive, negative)``."""
    _, clip = base
    return tuple(
        clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a red circle moving left", "")
    )


def windowed(model, **options):
    return ContextWindows.execute(model, **options).args[0]


def sample(model, prompts, *, frames=FRAMES, steps=3, cfg=3.0, sampler="euler", size=4, seed=5, **more):
    latent = torch.zeros(frames, 4, size, size)
    noise = comfy.sample.prepare_noise(latent, seed)
    with torch.inference_mode():
        return comfy.sample.sample(
            *(model, noise, steps, cfg, sampler, "normal", *prompts, more.pop("latent", latent)),
            seed=seed,
            **more,
        )


def per_frame(shape, frames=FRAMES):
    """Entry ``i`` is full of the number ``i``."""
    return torch.arange(frames, dtype=torch.float32).view(-1, *(1,) * (len(shape) - 1)).expand(shape).clone()


class Recorder:
    """Stands around the model call and writes down which frames it was given."""

    def __init__(self, model):
        self.calls = []
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "recorder", self)

    def __call__(self, executor, x, t, c_concat=None, c_crossattn=None, control=None, options=None, **kwargs):
        self.calls.append((t, c_crossattn.clone(), options))
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)


def test_one_window_over_the_whole_clip_changes_nothing(animated, prompts):
    model, _ = animated
    plain = sample(model, prompts, frames=16)
    assert torch.equal(sample(windowed(model, length=16), prompts, frames=16), plain)
    # The handler itself, made to run although one window holds the clip.
    eager = windowed(model, length=16)
    eager.model_options["context_handler"] = AlwaysWindows(eager.model_options["context_handler"].settings)
    assert torch.equal(sample(eager, prompts, frames=16), plain)


class AlwaysWindows(WindowHandler):
    def for_run(self, *args):
        handler = AlwaysWindows(self.settings, super().for_run(*args).run)
        handler.callbacks = self.callbacks
        return handler

    def should_use_context(self, *args):
        return True


def test_without_motion_flat_windows_change_nothing(base, animated, prompts):
    model, _ = base
    _, motion = animated
    still = ApplyMotionModule.execute(model, motion, effect=0.0).args[0]
    plain = sample(still, prompts)
    fused = sample(windowed(still, length=16, fuse="flat"), prompts)
    assert (fused - plain).abs().max() <= 1e-6 * plain.abs().max()


def test_windows_matter_when_there_is_motion(animated, prompts):
    """Guards the tests above: with a module that does something, windows are not the whole clip."""
    model, _ = animated
    assert (sample(windowed(model, length=16), prompts) - sample(model, prompts)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("generation", "schedule", "together"),
    [("v3", "standard_static", 4), ("v3", "looped_uniform", 2), ("v1", "looped_uniform", 4)],
)
def test_windows_together_in_one_call_give_the_same(base, prompts, generation, schedule, together):
    """v1 normalises a video's frames jointly: windows in one call must stay videos of their own."""
    model, _ = animate(base[0], generation)
    options = {"length": 8, "overlap": 3, "schedule": schedule, "closed_loop": schedule == "looped_uniform"}
    single, several = (windowed(model, **options, windows_per_batch=number) for number in (1, together))
    recorded_single, recorded_several = Recorder(single), Recorder(several)
    expected = sample(single, prompts, steps=2)
    got = sample(several, prompts, steps=2)
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert len(recorded_several.calls) <= len(recorded_single.calls) / together + 3


def base_weights(model):
    return {key: value.clone() for key, value in model.model.diffusion_model.state_dict().items()}


@pytest.mark.parametrize("sampler", comfy.samplers.SAMPLER_NAMES)
def test_every_sampler_runs_and_repeats(animated, prompts, sampler):
    model, _ = animated
    model = windowed(model, length=16)
    before = base_weights(model)
    first = sample(model, prompts, steps=2, cfg=1.0, sampler=sampler)
    assert torch.isfinite(first).all()
    if any(word in sampler for word in ("ancestral", "sde", "seeds", "ddpm", "lcm", "res_")):
        assert torch.equal(sample(model, prompts, steps=2, cfg=1.0, sampler=sampler), first)
    after = model.model.diffusion_model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], value) for key, value in before.items())


class RecordingNet(torch.nn.Module):
    """A ControlNet's network: writes down the hints and prompts it is given, adds nothing."""

    dtype = torch.float32

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x, hint, timesteps, context, **_):
        self.seen.append((hint[:, 0, 0, 0].clone(), context[:, 0, 0].clone()))
        return {"input": [], "middle": [], "output": []}


def recording_control(prepared, hint, previous=None):
    control = comfy.controlnet.ControlNet(
        RecordingNet(),
        load_device=torch.device("cpu"),
        preprocess_image=lambda image: prepared(image) or image,
    )
    control.set_cond_hint(hint, 1.0, (0.0, 1.0))
    return control.set_previous_controlnet(previous)


@pytest.mark.parametrize(
    "options",
    [
        {"length": 8, "overlap": 2},
        {"length": 8, "overlap": 3, "schedule": "standard_uniform"},
        {"length": 8, "overlap": 3, "schedule": "looped_uniform", "closed_loop": True, "stride": 2},
        {"length": 10, "schedule": "batched"},
        {"length": 8, "overlap": 2, "windows_per_batch": 3},
    ],
)
def test_prompts_and_hints_reach_their_frames(animated, prompts, options):
    """Chained stock ControlNets and a prompt per frame, in every window of every step."""
    model, _ = animated
    model = windowed(model, **options)
    images = []
    hints = per_frame((FRAMES, 3, 32, 32))
    first = recording_control(lambda image: images.append(image.shape[0]), hints)
    second = recording_control(lambda image: None, hints + 100.0, previous=first)
    positive = [[per_frame((FRAMES, 32, 64)), {"control": second, "control_apply_to_uncond": True}]]
    negative = [[-per_frame((FRAMES, 32, 64)), {}]]
    steps = 3
    sample(model, (positive, negative), steps=steps)

    chosen = ContextOptions(**{key: value for key, value in options.items() if key != "windows_per_batch"})
    expected = []
    for step in range(steps):
        indices = [list(window.indices) for window in context_windows(chosen, FRAMES, step)]
        together = options.get("windows_per_batch", 1)
        while indices:
            expected.append(sum(indices[:together], []))
            indices = indices[together:]
    for net, offset in ((first, 0.0), (second, 100.0)):
        seen = net.control_model.seen
        assert len(seen) == len(expected)
        for (hint, context), frames in zip(seen, expected, strict=True):
            assert hint.tolist() == [frame + offset for frame in frames] * 2
            # Both prompts ran in one call: the copies of the ControlNet were shared.
            assert sorted(context.tolist()) == sorted([*frames, *(-frame for frame in frames)])
    # Hints are prepared when first needed and then kept: for static windows once per window.
    most = (
        sum(map(len, expected)) / steps if chosen.schedule in ("standard_static", "batched") else 3 * FRAMES
    )
    assert sum(images) <= most
    assert second.cond_hint is None  # the user's objects are as they were
    assert torch.equal(second.cond_hint_original, hints + 100.0)


def test_a_single_hint_serves_every_window(animated, prompts):
    model, _ = animated
    model = windowed(model, length=8, overlap=2)
    images = []
    control = recording_control(lambda image: images.append(image.shape[0]), torch.full((1, 3, 32, 32), 7.0))
    positive = [[prompts[0][0][0], {**prompts[0][0][1], "control": control, "control_apply_to_uncond": True}]]
    sample(model, (positive, prompts[1]))
    assert images == [1]
    assert all(hint.eq(7.0).all() for hint, _ in control.control_model.seen)


def test_controls_that_cut_by_themselves_are_told_the_frames(animated, prompts):
    """Advanced-ControlNet's interface: indices, clip length and window length; the hint stays whole."""
    model, _ = animated
    model = windowed(model, length=8, overlap=2)
    seen = []

    class Own(comfy.controlnet.ControlBase):
        sub_idxs = None

        def get_control(self, x_noisy, *_):
            seen.append(
                (self.sub_idxs, self.full_latent_length, self.context_length, len(self.cond_hint_original))
            )

    control = Own().set_cond_hint(per_frame((FRAMES, 3, 8, 8)))
    positive = [[prompts[0][0][0], {**prompts[0][0][1], "control": control, "control_apply_to_uncond": True}]]
    sample(model, (positive, prompts[1]), steps=1)
    windows = context_windows(ContextOptions(8, 2), FRAMES)
    assert seen == [(list(window.indices), FRAMES, 8, FRAMES) for window in windows]
    assert control.sub_idxs is None


def test_fewer_prompts_than_frames_repeat_as_without_windows(base, prompts):
    model, _ = base
    positive = [[torch.cat([prompts[0][0][0], prompts[1][0][0], prompts[0][0][0]]), {}]]
    plain = sample(model, (positive, prompts[1]))
    fused = sample(windowed(model, length=16, fuse="flat"), (positive, prompts[1]))
    assert (fused - plain).abs().max() <= 1e-6 * plain.abs().max()


@pytest.mark.parametrize("case", ["masks", "area", "noise mask", "denoise", "both conds"])
def test_per_frame_conditioning_without_motion_equals_the_whole_clip(base, prompts, case):
    """Whatever belongs to a frame: with flat windows and no motion, cutting it must not change its frame."""
    model, _ = base
    (positive, extra), negative = prompts[0][0], prompts[1]
    other = negative[0][0]
    generator = torch.Generator().manual_seed(4)
    masks = torch.rand(FRAMES, 4, 4, generator=generator)
    more, conds = {}, [[positive, extra]]
    if case == "masks":
        conds = [[positive, {**extra, "mask": masks}], [other, {**extra, "mask": 1.1 - masks}]]
    if case == "area":
        conds.append([other, {**extra, "area": (2, 2, 1, 1), "strength": 2.0}])
    if case == "noise mask":
        more = {
            "noise_mask": (masks > 0.5).float(),
            "latent": torch.randn(FRAMES, 4, 4, 4, generator=generator),
        }
    if case == "denoise":
        more = {"denoise": 0.5, "latent": torch.randn(FRAMES, 4, 4, 4, generator=generator)}
    if case == "both conds":
        travel = torch.cat([torch.lerp(positive, other, i / FRAMES) for i in range(FRAMES)])
        conds, negative = [[travel, extra]], [[travel.flip(0), {}]]
    plain = sample(model, (conds, negative), **more)
    fused = sample(windowed(model, length=10, overlap=3, fuse="flat"), (conds, negative), **more)
    assert (fused - plain).abs().max() <= 2e-6 * plain.abs().max()


def test_others_find_the_frames_in_the_options(animated, prompts):
    model, _ = animated
    model = windowed(model, length=8, overlap=2)
    recorder = Recorder(model)
    sample(model, prompts, steps=1)
    for (_, _, options), window in zip(
        recorder.calls, context_windows(ContextOptions(8, 2), FRAMES), strict=True
    ):
        assert options["ad_params"] == {
            "sub_idxs": list(window.indices),
            "full_length": FRAMES,
            "context_length": 8,
        }
        assert isinstance(options["context_window"], comfy.context_windows.IndexListContextWindow)
        assert options["context_window"].index_list == list(window.indices)
    assert "ad_params" not in model.model_options["transformer_options"]


def test_a_split_run_continues_the_windows(animated, prompts):
    """KSamplerAdvanced: two halves of a schedule move their windows as one uninterrupted run does."""
    model, _ = animated
    model = windowed(model, length=8, overlap=3, schedule="looped_uniform")
    whole = sample(model, prompts, steps=4, cfg=1.0)
    half = sample(model, prompts, steps=4, cfg=1.0, last_step=2)
    latent = torch.zeros_like(half)
    with torch.inference_mode():
        rest = comfy.sample.sample(
            *(model, latent, 4, 1.0, "euler", "normal", *prompts, half),
            start_step=2,
            seed=5,
            disable_noise=True,
        )
    assert (rest - whole).abs().max() <= 1e-4 * whole.abs().max()


@pytest.mark.parametrize("scheduler", comfy.samplers.SCHEDULER_NAMES)
def test_first_step_of_partial_runs(base, scheduler):
    sampling = base[0].get_model_object("model_sampling")
    whole = comfy.samplers.calculate_sigmas(sampling, scheduler, 20).tolist()
    assert first_step(sampling, whole) == 0
    assert first_step(sampling, whole[8:]) == 8
    assert first_step(sampling, whole[5:12]) == 5
    assert first_step(sampling, [*whole[5:12], 0.0]) == 5


@pytest.mark.parametrize("scheduler", ["normal", "sgm_uniform", "karras"])
@pytest.mark.parametrize("steps", [50, 60, 75, 80, 120])
def test_first_step_of_the_end_of_a_long_schedule(base, scheduler, steps):
    """Evenly spaced timesteps are known as whole numbers: a few of them do not tell how many there are."""
    sampling = base[0].get_model_object("model_sampling")
    whole = comfy.samplers.calculate_sigmas(sampling, scheduler, steps).tolist()
    for start in (steps // 2, 3 * steps // 4):
        assert first_step(sampling, whole[start:]) == start


def test_first_step_of_a_foreign_schedule_is_0(base):
    sampling = base[0].get_model_object("model_sampling")
    assert first_step(sampling, [9.0, 8.5, 3.3, 3.2, 0.7, 0.0]) == 0
    assert first_step(sampling, [0.0]) == 0


def test_settings_change_over_the_steps(animated, prompts):
    model, _ = animated
    model = windowed(windowed(model, length=8, overlap=2), length=12, overlap=4, start_percent=0.5)
    recorder = Recorder(model)
    sample(model, prompts, steps=4, cfg=1.0)
    sizes = [len(options["context_window"].index_list) for _, _, options in recorder.calls]
    assert sizes == [8] * 8 + [12] * 6 or sizes == [8] * 4 + [12] * 9 or set(sizes) == {8, 12}
    assert sizes == sorted(sizes)


def test_before_the_first_stage_the_clip_runs_whole(animated, prompts):
    model, _ = animated
    model = windowed(model, length=8, start_percent=0.6)
    recorder = Recorder(model)
    sample(model, prompts, steps=4, cfg=1.0)
    assert "context_window" not in recorder.calls[0][2]
    assert "context_window" in recorder.calls[-1][2]


def test_the_users_model_and_clones_stay_apart(animated, prompts):
    model, _ = animated
    assert "context_handler" not in model.model_options
    one = windowed(model, length=8)
    two = windowed(one, length=12)
    assert one.model_options["context_handler"].settings.stages[0].options.length == 8
    assert two.model_options["context_handler"].settings.stages[0].options.length == 12
    assert len(two.wrappers[WrappersMP.OUTER_SAMPLE]["animatediff_flipbook_context"]) == 1
    sample(two, prompts, steps=1)
    assert two.model_options["context_handler"].run is None  # nothing of a run stays behind
    assert (
        two.clone().model_options["context_handler"].settings == two.model_options["context_handler"].settings
    )


def test_cancel_takes_effect_between_windows(animated, prompts):
    model, _ = animated
    model = windowed(model, length=8, overlap=2)
    calls = []

    def cancel(executor, *args, **kwargs):
        calls.append(1)
        out = executor(*args, **kwargs)
        comfy.model_management.interrupt_current_processing()
        return out

    cancelled = model.clone()
    cancelled.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "cancel", cancel)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(cancelled, prompts)
    assert len(calls) == 1
    assert torch.isfinite(sample(model, prompts, steps=1)).all()  # and the next run is clean


def test_comfyui_s_own_windows_are_told_what_to_switch_off(animated, prompts):
    """Newer versions put a frame before each window; with windows as long as the position table that is one
    too many."""
    if "causal_window_fix" not in inspect.signature(IndexListContextHandler).parameters:
        pytest.skip("this ComfyUI adds no frame to its windows")
    model, _ = animated
    (motion,) = model.get_additional_models_with_key(KEY)
    longest = motion.model.config.pe_length

    def core(**options):
        windows = comfy.context_windows
        ours = model.clone()
        ours.model_options["context_handler"] = IndexListContextHandler(
            context_schedule=windows.get_matching_context_schedule("standard_static"),
            fuse_method=windows.get_matching_fuse_method("flat"),
            context_length=longest, context_overlap=2, dim=0, **options,
        )  # fmt: skip
        return sample(ours, prompts, frames=longest + 8, steps=1)

    with pytest.raises(
        ValueError,
        match=f"got {longest + 1} frames in one call, expected at most {longest}: .*causal_window_fix off",
    ):
        core()
    assert torch.isfinite(core(causal_window_fix=False)).all()


def test_progress_counts_windows(animated, prompts, progress):
    model, _ = animated
    sample(windowed(model, length=8, overlap=2), prompts, steps=2)
    shown = [value / total for value, total in progress]
    assert shown == [pytest.approx(i / 8) for i in range(1, 9)]  # 4 windows x 2 steps


def by_node(model, prompts, *, cfg=3.0, sampler="euler", **options):
    """``sample`` of the same model with windows, by the one node."""
    latent = {"samples": torch.zeros(FRAMES, 4, 4, 4)}
    with torch.inference_mode():
        out = ContextSampler.execute(model, 5, 3, cfg, sampler, "normal", *prompts, latent, **options)
    return out.args[0]["samples"]


@pytest.mark.parametrize("cfg", [0.0, 1.0, 3.0, 12.0])
@pytest.mark.parametrize(
    "options",
    [
        {"length": 8, "overlap": 2, "fuse": "flat"},
        {"length": 10, "overlap": 3, "schedule": "looped_uniform", "closed_loop": True},
        {"length": 8, "overlap": 3, "windows_per_batch": 3},
    ],
)
def test_sampler_node_is_ksampler_with_windows(animated, prompts, options, cfg):
    """It guides windows before it fuses them, which rounds otherwise and changes nothing else."""
    model, _ = animated
    assert_close(
        by_node(model, prompts, cfg=cfg, **options), sample(windowed(model, **options), prompts, cfg=cfg)
    )


def assert_close(got, wanted):
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def with_extra(prompt, **extra):
    return [[prompt[0][0], {**prompt[0][1], **extra}]]


@pytest.mark.parametrize(
    "change",
    [
        lambda p, n: (with_extra(p, area=(2, 4, 2, 0)) + with_extra(p, strength=0.5), n),
        lambda p, n: (with_extra(p, mask=per_frame((FRAMES, 32, 32)) / FRAMES), n),
        lambda p, n: (with_extra(p, start_percent=0.5), n),
        lambda p, n: (p, with_extra(n, end_percent=0.5)),
        lambda p, n: (p, []),
        lambda p, n: (p, [[torch.zeros_like(n[0][0]), n[0][1]]]),
    ],
    ids=["area", "masks", "late", "early", "none", "zeros"],
)
def test_sampler_node_is_ksampler_for_parts_of_a_prompt(animated, prompts, change):
    model, _ = animated
    conds = change(*prompts)
    options = {"length": 10, "overlap": 3}
    assert_close(by_node(model, conds, **options), sample(windowed(model, **options), conds))


def scale_of_the_day(model):
    """Another pack's guidance that does not keep to the node's scale."""
    model.set_model_sampler_cfg_function(lambda args: args["uncond"] + 2.0 * (args["cond"] - args["uncond"]))


def look_before(model):
    model.set_model_sampler_pre_cfg_function(lambda args: [0.9 * out for out in args["conds_out"]])


def look_after(model):
    model.set_model_sampler_post_cfg_function(lambda args: args["denoised"] + 0.1 * args["uncond_denoised"])


def wrap_prediction(model):
    def wrap(executor, x, timestep, options, seed):
        executor.class_obj.set_cfg(5.0)
        return executor(x, timestep, options, seed)

    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "test", wrap)


def instead(model):
    def calc(args):
        given = args["model"], args["conds"], args["input"], args["sigma"], args["model_options"]
        cond, uncond = comfy.samplers.calc_cond_batch(*given)
        return [cond, 0.9 * uncond]

    model.model_options["sampler_calc_cond_batch_function"] = calc


@pytest.mark.parametrize("change", [scale_of_the_day, look_before, look_after, wrap_prediction, instead])
def test_whoever_takes_part_in_the_guidance_sees_both_predictions(animated, prompts, change):
    """Then windows are fused first, and the sampler node gives KSampler's numbers to the bit."""
    plain = by_node(animated[0], prompts, length=8, overlap=2)
    model = animated[0].clone()
    change(model)
    got = by_node(model, prompts, length=8, overlap=2)
    assert torch.equal(got, sample(windowed(model, length=8, overlap=2), prompts))
    assert not torch.allclose(got, plain, rtol=1e-3)


@pytest.mark.parametrize("wrapped", [WrappersMP.OUTER_SAMPLE, WrappersMP.SAMPLER_SAMPLE])
def test_a_scale_set_on_the_way_counts(animated, prompts, wrapped):
    model = animated[0].clone()

    def wrap(executor, *args, **kwargs):
        guider = executor.class_obj if wrapped == WrappersMP.OUTER_SAMPLE else args[0]
        guider.set_cfg(9.0)
        return executor(*args, **kwargs)

    model.add_wrapper_with_key(wrapped, "test", wrap)
    options = {"length": 8, "overlap": 2}
    assert_close(by_node(model, prompts, **options), by_node(animated[0], prompts, cfg=9.0, **options))


@pytest.mark.parametrize("name", ["sampling_function", "cfg_function"])
def test_guidance_that_another_pack_put_into_comfyui_is_kept(animated, prompts, name, monkeypatch):
    core, model = getattr(comfy.samplers, name), animated[0]
    place = list(inspect.signature(core).parameters).index("cond_scale")

    def stronger(*args, **kwargs):
        return core(*args[:place], 2.0 * args[place], *args[place + 1 :], **kwargs)

    monkeypatch.setattr(comfy.samplers, name, stronger)
    options = {"length": 8, "overlap": 2}
    got = by_node(model, prompts, **options)
    assert torch.equal(got, sample(windowed(model, **options), prompts))
    monkeypatch.undo()
    assert not torch.allclose(got, by_node(model, prompts, **options), rtol=1e-3)


@pytest.mark.parametrize("name", [name for name in comfy.samplers.SAMPLER_NAMES if name.endswith("_cfg_pp")])
def test_samplers_that_use_the_negative_prediction_get_it(animated, prompts, name):
    got = by_node(animated[0], prompts, length=8, overlap=2, sampler=name)
    assert torch.equal(got, sample(windowed(animated[0], length=8, overlap=2), prompts, sampler=name))


@pytest.mark.parametrize("sampler", ["euler", "ddim"])
def test_tokens_merged_by_chance_are_ksamplers(animated, prompts, sampler):
    """ToMe draws from torch's own generator, which noise and samplers leave seeded."""
    model = TomePatchModel.execute(animated[0], 0.5).args[0]
    options = {"length": 8, "overlap": 2}
    merged = by_node(model, prompts, sampler=sampler, **options)
    assert_close(merged, sample(windowed(model, **options), prompts, sampler=sampler))
    assert not torch.allclose(merged, by_node(animated[0], prompts, sampler=sampler, **options), rtol=1e-3)


def test_overlap_as_long_as_the_window_is_refused(animated):
    with pytest.raises(ValueError, match="smaller than the context length"):
        windowed(animated[0], length=8, overlap=8)


def test_settings_without_effect_are_said(animated, caplog):
    windowed(animated[0], closed_loop=True)
    windowed(animated[0], stride=2)
    assert [record.getMessage().split(" has no effect")[0] for record in caplog.records] == [
        "closed_loop",
        "stride 2",
    ]


@pytest.mark.parametrize("frames", [12, 16, 20])
def test_a_closed_loop_of_any_length_is_windowed(animated, prompts, frames):
    """Shorter than a window too: without windows over the seam nothing would lead back to the start."""
    model, _ = animated
    looped = windowed(model, length=16, schedule="looped_uniform", closed_loop=True)
    recorder = Recorder(looped)
    sample(looped, prompts, frames=frames, steps=2, cfg=1.0)
    windows = [options["context_window"].index_list for _, _, options in recorder.calls]
    assert any(window[-1] < window[0] for window in windows)
    assert {len(window) for window in windows} == {min(16, frames)}


def test_noise_that_grows_moves_the_windows_from_the_start(animated, prompts):
    """Flipped sigmas, as for taking a picture back to noise."""
    model, _ = animated
    model = windowed(model, length=8, overlap=3, schedule="looped_uniform")
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", 4)[:-1].flip(0)
    recorder = Recorder(model)
    sample(model, prompts, cfg=1.0, sigmas=sigmas)
    seen = [options["context_window"].index_list for _, _, options in recorder.calls]
    options = ContextOptions(8, 3, schedule="looped_uniform")
    expected = [list(w.indices) for step in range(3) for w in context_windows(options, FRAMES, step)]
    assert seen == expected


def test_memory_is_estimated_for_the_whole_clip_where_it_runs_whole_first(animated, prompts, monkeypatch):
    import comfy.sampler_helpers

    model, _ = animated
    shapes = []
    estimate = comfy.sampler_helpers._prepare_sampling

    def recorded(model, noise_shape, *args, **kwargs):
        shapes.append(noise_shape[0])
        return estimate(model, noise_shape, *args, **kwargs)

    monkeypatch.setattr(comfy.sampler_helpers, "_prepare_sampling", recorded)
    sample(windowed(model, length=8), prompts, steps=1, cfg=1.0)
    sample(windowed(model, length=8, windows_per_batch=2), prompts, steps=1, cfg=1.0)
    late = windowed(model, length=8, start_percent=0.5)
    sample(late, prompts, steps=1, cfg=1.0)
    sample(windowed(late, length=8), prompts, steps=1, cfg=1.0)
    assert shapes == [8, 16, FRAMES, 8]


def test_self_attention_guidance_is_refused_where_it_cannot_run(animated, prompts):
    """It keeps the attention of one model call only, the last window's."""
    from comfy_extras.nodes_sag import SelfAttentionGuidance

    model = windowed(animated[0], length=8)
    guided = SelfAttentionGuidance.execute(model, 0.5, 2.0).args[0]
    with pytest.raises(ValueError, match="Self-Attention Guidance .* cannot be used with context windows"):
        sample(guided, prompts, steps=1, size=8)
    assert torch.isfinite(sample(guided, prompts, steps=1, size=8, frames=8)).all()  # one window: no windows


def test_easy_cache_is_refused_where_it_would_mix_windows(animated, prompts):
    """It compares a model call with the one before, which was another window."""
    from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode

    model = windowed(animated[0], length=8)
    cached = EasyCacheNode.execute(model, 0.2, 0.15, 0.95, False).args[0]
    with pytest.raises(ValueError, match="EasyCache .* cannot be used with context windows"):
        sample(cached, prompts, steps=1, size=8)
    assert torch.isfinite(sample(cached, prompts, steps=1, size=8, frames=8)).all()
    lazy = LazyCacheNode.execute(model, 0.2, 0.15, 0.95, False).args[0]
    assert torch.isfinite(sample(lazy, prompts, steps=1, size=8)).all()


def test_prompts_per_frame_that_end_before_the_clip_are_said(animated, prompts, caplog):
    model = windowed(animated[0], length=8)
    (text, values), *_ = prompts[0]
    for count, said in ((FRAMES - 2, 1), (FRAMES, 0), (1, 0)):
        caplog.clear()
        sample(model, [[[text.repeat(count, 1, 1), values]], prompts[1]], steps=1)
        warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert len([line for line in warnings if f"for {count} frames" in line]) == said


def test_a_second_node_keeps_what_it_does_not_set(animated):
    model, _ = animated
    chained = windowed(windowed(model, windows_per_batch=3), start_percent=0.5)
    assert chained.model_options["context_handler"].settings.windows_per_batch == 3
    chained = windowed(chained, start_percent=0.7, windows_per_batch=2)
    assert chained.model_options["context_handler"].settings.windows_per_batch == 2


def test_sampler_node_uses_its_own_settings_only(animated, prompts, caplog):
    model, _ = animated
    latent = {"samples": torch.zeros(FRAMES, 4, 4, 4)}
    chained = windowed(
        windowed(model, length=12, windows_per_batch=2), length=6, overlap=2, start_percent=0.5
    )
    caplog.clear()
    recorder = Recorder(chained)
    with torch.inference_mode():
        ContextSampler.execute(
            chained, 5, 4, 1.0, "euler", "normal", *prompts, latent, length=8, overlap=2, windows_per_batch=1
        )
    assert {len(options["context_window"].index_list) for _, _, options in recorder.calls} == {8}
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == [
        "Context Sampler samples with its own window settings; those of Context Windows on this model "
        "(windows of 12 and 6 frames) are not used."
    ]


def test_callbacks_of_comfyuis_handler_are_called(animated, prompts):
    from comfy.context_windows import IndexListCallbacks as Events

    model = windowed(animated[0], length=8, overlap=2)
    handler = model.model_options["context_handler"]
    seen = []

    def note(event):
        return lambda handler, *arguments: seen.append((event, arguments))

    names = (
        *(Events.EXECUTE_START, Events.EVALUATE_CONTEXT_WINDOWS),
        *(Events.COMBINE_CONTEXT_WINDOW_RESULTS, Events.EXECUTE_CLEANUP),
    )
    for event in names:
        add_callback_with_key(event, "test", note(event), handler.callbacks)
    sample(model, prompts, steps=1)
    start, evaluate, combine, end = names
    assert [event for event, _ in seen] == [start, *[evaluate, combine] * 4, end]
    windows = context_windows(ContextOptions(8, 2), FRAMES)
    combined = [arguments for event, arguments in seen if event == combine]
    assert [arguments[3].index_list for arguments in combined] == [list(w.indices) for w in windows]
    assert [arguments[4:6] for arguments in combined] == [(number, 4) for number in range(4)]
    assert all(len(arguments) == 10 for arguments in combined)
    x_in, outputs, sub_conds, _, _, _, timestep, fused, *_ = combined[-1]
    assert len(outputs) == len(sub_conds) == len(fused) == 2
    assert fused[0].shape == x_in.shape and outputs[0].shape[0] == 8 and timestep.shape[0] == FRAMES


@pytest.mark.parametrize(
    "options",
    [
        {"length": 10, "overlap": 3},
        {"length": 8, "overlap": 3, "schedule": "looped_uniform", "closed_loop": True},
        {"length": 8, "overlap": 3, "windows_per_batch": 3},
    ],
)
@pytest.mark.parametrize("entries", [FRAMES, 5, 1])
def test_every_kind_of_model_cond_reaches_its_frames(base, prompts, options, entries):
    """c_concat (inpainting models), y/adm (SDXL, unCLIP), lists, and values that belong to no frame."""
    model = windowed(base[0], **options)
    calls = []

    def record(executor, x, t, c_concat=None, c_crossattn=None, control=None, options=None, **kwargs):
        calls.append((options, {"c_concat": c_concat, **kwargs}))
        return executor(x, t, None, c_crossattn, control, options)

    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "record", record)
    extra = {
        "model_conds": {
            "c_concat": comfy.conds.CONDNoiseShape(per_frame((entries, 5, 4, 4), entries)),
            "y": comfy.conds.CONDRegular(per_frame((entries, 7), entries)),
            "ref_latents": comfy.conds.CONDList([per_frame((entries, 4, 2, 2), entries)] * 2),
            "num_video_frames": comfy.conds.CONDConstant(FRAMES),
            "mode": comfy.conds.CONDConstant("index"),
            "nothing": comfy.conds.CONDConstant(None),
        }
    }
    conds = [[[prompt[0][0], {**prompt[0][1], **extra}]] for prompt in prompts]
    sample(model, conds, steps=2)
    assert calls
    for options, seen in calls:
        window = options["context_window"]
        expected = [index % entries for index in window.index_list] * 2  # positive and negative
        for tensor in (seen["c_concat"], seen["y"], *seen["ref_latents"]):
            assert tensor.flatten(1)[:, 0].tolist() == expected
        assert seen["num_video_frames"] == window.context_length
        assert seen["mode"] == "index"
        assert seen["nothing"] is None


def test_gligen_sees_the_frames_of_a_window(base, prompts):
    model = windowed(base[0], length=10, overlap=3)
    shapes = []

    class Positions(torch.nn.Module):
        def set_position(self, shape, boxes, device):
            shapes.append((tuple(shape), boxes))
            return lambda x, options: x

    def patcher():
        return new_patcher(Positions(), patcher)

    boxes = [(torch.zeros(1, 8), 1, 1, 0, 0)]
    conds = [[prompts[0][0][0], {**prompts[0][0][1], "gligen": ("position", patcher(), boxes)}]]
    gated = sample(model, (conds, prompts[1]), steps=1)
    assert {shape for shape, _ in shapes} == {(10, 4, 4, 4)}
    assert all(seen is boxes for _, seen in shapes)
    # One more model call, so fp32 rounds otherwise; nothing else may differ.
    torch.testing.assert_close(gated, sample(model, prompts, steps=1), rtol=0, atol=1e-3)


def test_hints_are_prepared_once_for_every_size(animated, prompts):
    """One ControlNet for the whole picture and for an area of it."""
    model = windowed(animated[0], length=8, overlap=2)
    images = []
    control = recording_control(
        lambda image: images.append(tuple(image.shape)), per_frame((FRAMES, 3, 32, 32))
    )
    whole = {**prompts[0][0][1], "control": control, "control_apply_to_uncond": True}
    area = {**whole, "area": (2, 2, 1, 1)}
    positive = [[prompts[0][0][0], whole], [prompts[0][0][0], area]]
    sample(model, (positive, prompts[1]), steps=3)
    assert sorted(set(images)) == [(8, 3, 16, 16), (8, 3, 32, 32)]
    assert len(images) == 2 * 4  # once per window and size, in whatever step


@pytest.mark.parametrize("schedule", ["standard_static", "batched", "looped_uniform"])
def test_windows_of_one_frame_are_for_models_without_a_motion_module(base, animated, prompts, schedule):
    one = {"length": 1, "overlap": 0, "schedule": schedule}
    plain = sample(base[0], prompts, frames=3)
    assert torch.allclose(sample(windowed(base[0], **one), prompts, frames=3), plain, atol=1e-3)
    with pytest.raises(ValueError, match="windows of a single frame"):
        sample(windowed(animated[0], **one), prompts, frames=3)


class Inputs(Recorder):
    """Writes down the latents and the frames of every call."""

    def __call__(self, executor, x, t, c_concat=None, c_crossattn=None, control=None, options=None, **kwargs):
        self.calls.append((x.clone(), options["ad_params"]["sub_idxs"], c_crossattn.clone()))
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)


@pytest.mark.parametrize("together", [1, 3])
def test_retained_frames_stand_in_their_places_of_every_window(base, prompts, together):
    model = windowed(
        base[0], length=8, overlap=3, windows_per_batch=together, latent_retain_index_list=" 0,2"
    )
    inputs = Inputs(model)
    latent = per_frame((FRAMES, 4, 4, 4))
    sample(model, prompts, steps=1, latent=latent, disable_noise=True, cfg=1.0)
    assert inputs.calls
    first = inputs.calls[0][0]
    for x, frames, _ in inputs.calls:
        for number, frame in enumerate(frames):
            place = number % 8
            assert torch.equal(x[number], first[place]) is (place in (0, 2) or frame == place)


@pytest.mark.parametrize("text", ["8", "-1", "first", "0;1", "1.5"])
def test_retained_frames_that_no_window_has_are_refused(animated, text):
    with pytest.raises(ValueError, match="frames from 0 to 7 .a window has 8."):
        windowed(animated[0], length=8, latent_retain_index_list=text)


def other_prompts(like):
    """Three parts of a combined prompt."""
    random = torch.Generator().manual_seed(4)
    return [[torch.randn(like[0][0].shape, generator=random), {}] for _ in range(3)]


@pytest.mark.parametrize("together", [1, 4])
def test_split_conds_take_turns_over_the_clip(base, prompts, together):
    """With windows apart from each other: as if each third had been sampled with its prompt alone."""
    model = windowed(
        base[0], length=8, schedule="batched", windows_per_batch=together, split_conds_to_windows=True
    )
    three = other_prompts(prompts[0])
    got = sample(model, (three, prompts[1]), steps=2)
    for number, prompt in enumerate(three):
        alone = windowed(base[0], length=8, schedule="batched")
        wanted = sample(alone, ([prompt], prompts[1]), steps=2)
        part = slice(8 * number, 8 * number + 8)
        assert_close(got[part], wanted[part])
    assert (got - sample(windowed(base[0], length=8), (three, prompts[1]), steps=2)).abs().max() > 1e-3


@pytest.mark.parametrize(
    "options", [{"latent_retain_index_list": "0,3"}, {"split_conds_to_windows": True}, {}]
)
def test_options_that_comfyui_has_too_do_the_same(animated, prompts, options):
    missing = {"causal_window_fix", *options} - set(inspect.signature(IndexListContextHandler).parameters)
    if missing:
        pytest.skip(f"this ComfyUI's own windows know no {', '.join(sorted(missing))}")
    model, _ = animated
    three = other_prompts(prompts[0])
    windows = comfy.context_windows
    core = model.clone()
    core.model_options["context_handler"] = IndexListContextHandler(
        context_schedule=windows.get_matching_context_schedule("standard_static"),
        fuse_method=windows.get_matching_fuse_method("pyramid"),
        context_length=10, context_overlap=4, dim=0, causal_window_fix=False, **options,
    )  # fmt: skip
    ours = windowed(model, length=10, overlap=4, **options)
    assert_close(sample(ours, (three, prompts[1])), sample(core, (three, prompts[1])))
