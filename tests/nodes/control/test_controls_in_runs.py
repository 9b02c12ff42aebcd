"""Controls in whole runs: every call of the UNet is compared with one made by hand from the clip's own frames
and its own part of the picture, whatever the sampler puts together."""

import comfy.sample
import comfy.sd
import comfy.utils
import pytest
import torch
import torch.nn.functional as F
from animatediff_flipbook.motion_core.control.camera import for_frames, moving_poses, pluecker
from animatediff_flipbook.motion_core.control.camera_encoder import PoseEncoder, cameras
from animatediff_flipbook.motion_core.control.image_encoder import ImageEncoder, features_by_module
from animatediff_flipbook.motion_core.control.pia import frame_values
from animatediff_flipbook.motion_core.files.checkpoint import config_metadata, motion_state_dict
from animatediff_flipbook.motion_core.module.call import MotionCall
from animatediff_flipbook.motion_core.module.injection import inserted
from animatediff_flipbook.nodes.context.context import ContextWindows
from animatediff_flipbook.nodes.control.camera_control import CameraControl, LoadCameraControl
from animatediff_flipbook.nodes.control.camera_poses import CameraPoses
from animatediff_flipbook.nodes.control.image_reference import ImageReference
from animatediff_flipbook.nodes.control.pia_reference import PiaReference
from animatediff_flipbook.nodes.motion.apply import KEY, ApplyMotionModule
from animatediff_flipbook.nodes.motion.load import LoadMotionModule
from animatediff_flipbook.tests.support import assert_untouched, initialise, motion_for, snapshot
from safetensors.torch import save_file
from torch import nn

FRAMES, SIZE = 5, 8
WIDTHS = (64, 64, 128)
KINDS = ("pia", "image", "camera")
STRENGTHS = [0.2, 1.0, 0.5]


@pytest.fixture(scope="module")
def vae(tiny_checkpoint):
    return comfy.sd.load_checkpoint_guess_config(str(tiny_checkpoint), output_clip=False)[2]


@pytest.fixture(scope="module")
def before(tiny_model):
    return snapshot(tiny_model.model.diffusion_model)


class Case:
    """A control, and what it does by hand to the frames ``rows`` of a clip in an area of the picture."""

    def __init__(self, kind, tiny_model, folders, vae):
        self.kind, self.model, self.vae = kind, tiny_model, vae
        unet = tiny_model.model.diffusion_model
        generation = {"pia": "pia", "image": "animatelcm_i2v", "camera": "v3"}[kind]
        self.motion = motion_for(unet, generation)
        self.image = torch.rand(1, 70, 90, 3, generator=torch.Generator().manual_seed(3))
        state = motion_state_dict(motion_for(unet, generation, fused_qkv=False))
        if kind == "pia":
            self.weight = 0.1 * torch.randn(64, 9, 3, 3, generator=torch.Generator().manual_seed(4))
            state["conv_in.weight"] = self.weight
        if kind == "image":
            self.encoder = initialise(ImageEncoder(WIDTHS), 4).eval()
            state |= {f"img_encoder.{key}": value for key, value in self.encoder.state_dict().items()}
        state = {key: value.clone() for key, value in state.items()}
        save_file(
            state, folders["animatediff_models"] / f"{kind}.safetensors", config_metadata(self.motion.config)
        )
        self.module = LoadMotionModule.execute(motion_module=f"{kind}.safetensors")[0]
        self.control = getattr(self, f"_{kind}_control")(folders)

    def _pia_control(self, folders):
        return PiaReference.execute(self.image, self.vae, "animation medium", 1)[0]

    def _image_control(self, folders):
        return ImageReference.execute(self.image, self.vae, 0.7)[0]

    def _camera_control(self, folders):
        self.encoder = initialise(PoseEncoder(WIDTHS), 5).eval()
        self.layers = {
            name: initialise(nn.Linear(width, width), 6) for name, width in self.motion.config.widths.items()
        }
        state = dict(self.encoder.state_dict())
        for name, layer in self.layers.items():
            path = f"{name}.temporal_transformer.transformer_blocks.0.attention_blocks.0.processor.qkv_merge"
            state |= {f"{path}.{key}": value for key, value in layer.state_dict().items()}
        save_file(state, folders["animatediff_models"] / "CameraCtrl.safetensors")
        self.poses = moving_poses([("pan left", 1.0), ("roll clockwise", 0.5)], FRAMES)
        poses = CameraPoses.execute("pan left", 1.0, "roll clockwise", 0.5, frames=FRAMES)[0]
        camera = LoadCameraControl.execute("CameraCtrl.safetensors")[0]
        return CameraControl.execute(camera, poses, STRENGTHS)[0]

    def apply(self, model=None, **more):
        model = model or self.model
        return ApplyMotionModule.execute(
            model, self.module, motion_control=self.control, beta_schedule="keep", **more
        )[0]

    def latents(self, size=SIZE):
        pixels = comfy.utils.common_upscale(
            self.image.movedim(-1, 1), 8 * size, 8 * size, "lanczos", "center"
        )
        return self.model.model.process_latent_in(self.vae.encode(pixels.movedim(1, -1)))

    def by_hand(self, x, rows, area, frames, call, size=SIZE):
        """One video: ``x`` as apply_model takes it, its frames of the clip, its area ``(top, left)``."""
        unet, (top, left), (height, width) = self.model.model.diffusion_model, area, x.shape[-2:]
        ys, xs = slice(top, top + height), slice(left, left + width)
        rows, motion, hook = list(rows), MotionCall(len(rows)), None
        if self.kind == "pia":
            values = frame_values("animation medium", frames, 1)[rows].view(-1, 1, 1, 1)
            latents = self.latents(size)[..., ys, xs].expand(len(rows), -1, -1, -1)
            channels = torch.cat([values.expand(-1, 1, height, width), latents], 1)

            def nine(conv, args, output):
                weight = torch.cat([conv.weight, self.weight[:, 4:]], 1)
                return F.conv2d(torch.cat([args[0], channels], 1), weight, conv.bias, padding=1)

            hook = unet.input_blocks[0][0].register_forward_hook(nine)
        elif self.kind == "image":
            made = self.encoder(self.latents(size)[..., ys, xs], frames, 0.7)
            made = features_by_module([one[rows] for one in made], self.motion.config.widths)
            motion = MotionCall(len(rows), features=made)
        else:
            rays = pluecker(for_frames(self.poses, frames), 8 * size, 8 * size)
            rays = rays[..., 8 * top : 8 * (top + height), 8 * left : 8 * (left + width)]
            strength = torch.tensor([STRENGTHS[min(row, 2)] for row in range(frames)])
            made = [one[rows] for one in self.encoder(rays)]
            motion = MotionCall(len(rows), cameras=cameras(made, self.layers, strength[rows]))
        try:
            with inserted(unet, [(self.motion, motion)]):
                return call(x)
        finally:
            if hook:
                hook.remove()


@pytest.fixture(params=KINDS)
def case(request, tiny_model, model_folders, vae):
    with torch.inference_mode():
        return Case(request.param, tiny_model, model_folders, vae)


def cond(seed=1, **extra):
    return [[torch.randn(1, 6, 64, generator=torch.Generator().manual_seed(seed)), extra]]


def sample(
    model, *, frames=FRAMES, steps=1, cfg=5.0, seed=0, size=SIZE, positive=None, negative=None, **more
):
    latent = torch.zeros(frames, 4, size, size)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        return comfy.sample.sample(
            *(model, noise, steps, cfg, "euler", "normal", positive or cond(1), negative or cond(2), latent),
            seed=seed, disable_pbar=True, **more,
        )  # fmt: skip


def checked(case, model, frames=FRAMES, areas=(), size=SIZE):
    """The model, every call of which is made by hand as well; and how many videos each call held.

    ``areas``: ``(height, width, top, left)``, told apart by the first number of their prompts.
    """
    videos = []

    def both(apply_model, args):
        x, t, c = args["input"], args["timestep"], args["c"]
        got = apply_model(x, t, **c)
        options = c["transformer_options"]
        window = options.get("context_window")
        rows = list(window.index_list) if window else list(range(frames))
        of_window = window.frames if window else frames
        prompts = len(args["cond_or_uncond"])
        videos.append(x.shape[0] // of_window)
        for number in range(x.shape[0] // of_window):
            part = slice(number * of_window, (number + 1) * of_window)
            context = c["c_crossattn"][part]
            area = next((place for first, place in areas if torch.isclose(first, context[0, 0, 0])), (0, 0))
            own = rows[number * of_window % len(rows) :][:of_window]
            bare = {key: value for key, value in options.items() if key != "wrappers"}

            def call(x, part=part, context=context, bare=bare):
                base = case.model.model
                return base._apply_model(x, t[part], c_crossattn=context, transformer_options=bare)

            wanted = case.by_hand(x[part], own, area, frames, call, size)
            assert torch.allclose(got[part], wanted, atol=2e-4), (number, prompts)
        return got

    both.__module__ = "comfy.samplers"  # a patch of unknown origin would be shown windows one by one
    model.set_model_unet_function_wrapper(both)
    return model, videos


@pytest.mark.parametrize("frames", [3, pytest.param(7, marks=pytest.mark.slow)])
def test_prompts_in_one_call(case, before, frames):
    """Frames: three (no special case), as many as poses, and more."""
    model, videos = checked(case, case.apply(), frames)
    first = sample(model, frames=frames)
    assert videos == [2]
    plain = ApplyMotionModule.execute(case.model, case.module, beta_schedule="keep")[0]
    assert not torch.allclose(first, sample(plain, frames=frames), atol=1e-2)
    assert torch.equal(sample(model.clone(), frames=frames), first), "the second run of a clone"
    assert_untouched(case.model.model.diffusion_model, before)


@pytest.mark.slow
def test_prompts_one_by_one(case):
    model, videos = checked(case, case.apply())
    model.model_options["sampler_calc_cond_batch_function"] = one_by_one
    sample(model)
    assert videos == [1, 1]


def one_by_one(args):
    options = {k: v for k, v in args["model_options"].items() if k != "sampler_calc_cond_batch_function"}
    return [
        comfy.samplers.calc_cond_batch(args["model"], [c], args["input"], args["sigma"], options)[0]
        for c in args["conds"]
    ]


@pytest.mark.slow
@pytest.mark.parametrize("together", [1, 2])
@pytest.mark.parametrize("schedule", ["standard_static", "standard_uniform"])
def test_windows(case, together, schedule):
    """Each window gets its frames' own; nothing starts anew with a window."""
    model = ContextWindows.execute(
        case.apply(), length=4, overlap=2, schedule=schedule, windows_per_batch=together
    )[0]
    model, videos = checked(case, model, 9)
    sample(model, frames=9)
    assert max(videos) == 2 * together


AREAS = [(8, 4, 0, 0), (8, 4, 0, 4), (4, 6, 4, 2)]
"""Height, width, top, left: two of one size in one call, and one of another."""


def with_areas(first):
    """A prompt of each area, behind one for all; ComfyUI gives the other side none of its own then."""
    prompts = cond(first)
    for number, area in enumerate(AREAS):
        prompts += cond(first + 2 + number, area=area)
    return prompts


@pytest.mark.slow
def test_areas(case):
    places = [(entry[0][0, 0, 0], entry[1]["area"][2:]) for n in (1, 11) for entry in with_areas(n)[1:]]
    model, videos = checked(case, case.apply(), areas=places)
    sample(model, positive=with_areas(1), negative=with_areas(11))
    assert max(videos) > 2, "two areas of one size run together"
    model = ContextWindows.execute(case.apply(), length=4, overlap=2)[0]
    model, videos = checked(case, model, 6, places)
    sample(model, frames=6, positive=with_areas(1), negative=with_areas(11))
    assert videos


@pytest.mark.slow
@pytest.mark.parametrize("size", [7, 9])
def test_sizes_that_the_unet_rounds(case, size):
    model, videos = checked(case, case.apply(), size=size)
    sample(model, size=size, steps=1)
    assert videos


def test_a_module_without_effect_has_no_control(case):
    plain = sample(case.model)
    assert torch.equal(sample(case.apply(effect=0.0)), plain)
    assert torch.equal(sample(case.apply(start_percent=1.0, end_percent=1.0)), plain)


@pytest.mark.slow
def test_part_of_the_steps(case, before):
    """Up to a percent: the calls after it are the base's own."""
    model = case.apply(end_percent=0.5)
    calls = []

    def count(apply_model, args):
        unet = case.model.model.diffusion_model
        got = apply_model(args["input"], args["timestep"], **args["c"])
        bare = {k: v for k, v in args["c"]["transformer_options"].items() if k != "wrappers"}
        plain = case.model.model._apply_model(
            args["input"], args["timestep"], **{**args["c"], "transformer_options": bare}
        )
        calls.append(torch.equal(got, plain))
        assert_untouched(unet, before)
        return got

    model.set_model_unet_function_wrapper(count)
    sample(model, steps=4)
    assert calls[0] is False
    assert calls[-1] is True


def test_cancel_and_errors_leave_the_base_clean(case, before):
    model = case.apply()

    def cancel(*_):
        raise RuntimeError("cancelled")

    with pytest.raises(RuntimeError, match="cancelled"):
        sample(model, callback=cancel)
    assert_untouched(case.model.model.diffusion_model, before)
    hook = case.model.model.diffusion_model.output_blocks[0][0].register_forward_hook(cancel)
    with pytest.raises(RuntimeError, match="cancelled"):
        sample(model)
    hook.remove()
    assert_untouched(case.model.model.diffusion_model, before)


def test_computed_once_per_run(case, monkeypatch):
    encoded = []
    kind = PoseEncoder if case.kind == "camera" else ImageEncoder
    forward = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, *a: encoded.append("net") or forward(self, *a))
    encode = case.vae.encode
    monkeypatch.setattr(case.vae, "encode", lambda pixels: encoded.append("vae") or encode(pixels))
    model = ContextWindows.execute(case.apply(), length=4, overlap=2)[0]
    sample(model, frames=9, steps=3)
    wanted = {"pia": ["vae"], "image": ["vae", "net"], "camera": ["net"]}[case.kind]
    assert encoded == wanted


@pytest.mark.slow
def test_two_modules_on_one_model(case, motion_module):
    """A module without a control in front of, and behind, one with; and the same one twice."""
    other = motion_module("v3", seed=9)

    def plus(model):
        return ApplyMotionModule.execute(model, other, beta_schedule="keep")[0]

    alone = sample(case.apply())
    first, second = sample(case.apply(plus(case.model))), sample(plus(case.apply()))
    assert not torch.allclose(first, second, atol=1e-3)
    assert not torch.allclose(first, alone, atol=1e-3)
    twice = case.apply(case.apply())
    patchers = twice.get_nested_additional_models()
    assert len({id(one.model) for one in patchers}) == len(patchers), "each has its own weights"
    assert not torch.allclose(sample(twice), alone, atol=1e-3)
    assert len(twice.get_attachment(KEY)) == 2
