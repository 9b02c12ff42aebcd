"""SparseCtrl through its nodes, ComfyUI's Apply ControlNet and its samplers."""

import json

import comfy.model_management
import comfy.sample
import comfy.sd
import pytest
import torch
from animatediff_flipbook.motion_core.control.sparse_control import normalised_strokes, pictures_at
from animatediff_flipbook.nodes.context.context import ContextWindows
from animatediff_flipbook.nodes.control.sparse import LoadSparseControl, SparseControlFrames
from animatediff_flipbook.nodes.motion.apply import ApplyMotionModule
from animatediff_flipbook.nodes.motion.load import LoadMotionModule
from animatediff_flipbook.tests.nodes.context.test_controls import controlnet
from animatediff_flipbook.tests.support import (
    BareSampling,
    as_patcher,
    assert_untouched,
    fold,
    relative_error,
    small_unet,
    snapshot,
    unfold,
)
from animatediff_flipbook.tests.support_families import FP32, golden_file, meta, tensors
from animatediff_flipbook.tests.support_sparse import write_encoder
from safetensors.torch import load_file, save_file

import nodes as comfy_nodes

FRAMES, SIZE = 8, 4
CLOSE = {"atol": 2e-4, "rtol": 1e-3}
"""Batches of other sizes round otherwise."""


@pytest.fixture(scope="module")
def base(tiny_checkpoint):
    """``(model, prompts, vae)``."""
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(tiny_checkpoint))
    texts = ("a red circle moving left", "")
    return model, [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in texts], vae


@pytest.fixture
def encoder(base, model_folders):
    """``encoder("rgb")``: a CONTROL_NET through a file and the node."""

    def load(kind="rgb", seed=0):
        path = model_folders["controlnet"] / f"{kind}_{seed}.safetensors"
        if not path.exists():
            write_encoder(path, base[0].model.diffusion_model, kind, seed)
        return LoadSparseControl.execute(path.name)[0]

    return load


def placed(control, placement="even", frames=""):
    return SparseControlFrames.execute(control, placement, frames)[0]


def pictures(count, seed=5, size=64):
    return torch.rand(count, size, size, 3, generator=torch.Generator().manual_seed(seed))


def applied(prompts, control, images, vae=None, strength=1.0, start=0.0, end=1.0):
    """Through the node that ComfyUI shows as Apply ControlNet."""
    return comfy_nodes.ControlNetApplyAdvanced().apply_controlnet(
        *prompts, control, images, strength, start, end, vae=vae
    )


def sample(model, prompts, frames=FRAMES, part=slice(None), size=SIZE, steps=1, **more):
    latent = torch.zeros(frames, 4, size, size)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(4))[part]
    with torch.inference_mode():
        return comfy.sample.sample(
            *(model, noise, steps, 3.0, "euler", "normal", *prompts, latent[part]),
            seed=1, disable_pbar=True, **more,
        )  # fmt: skip


@pytest.fixture
def animated(base, motion_module):
    return ApplyMotionModule.execute(base[0], motion_module())[0]


class GoldenVae:
    """Gives back the golden latents, in the scale in which a VAE makes them."""

    def __init__(self, latents):
        self.latents = latents

    def spacial_compression_encode(self):
        return 8

    def encode(self, pixels):
        return self.latents / 0.18215


def test_the_originals_residuals_with_two_conds_in_a_call(model_folders):
    """Pictures scaled and placed, conds folded into the batch, and strength, as the sampler has them."""
    case, golden = "several", meta("sparsectrl")
    io, settings = tensors("sparsectrl/rgb_io.safetensors"), golden["cases"][case]
    places = settings["image_indexes"]
    name = model_folders.add("controlnet", golden_file("sparsectrl/rgb.safetensors"))
    control = placed(LoadSparseControl.execute(name)[0], "frames", ", ".join(map(str, places)))
    latents = io["images"][0, :, : len(places)].transpose(0, 1)
    control.set_cond_hint(
        torch.rand(len(places), 3, 64, 64), settings["conditioning_scale"], vae=GoldenVae(latents)
    )
    config = json.loads(golden_file("sd/unet_config.json").read_text())
    weights = load_file(golden_file("sd/unet.safetensors"))
    model = as_patcher(
        config, {k.removeprefix("model.diffusion_model."): v for k, v in weights.items()}
    ).model
    model.model_sampling = BareSampling()
    control.pre_run(model, model.model_sampling.percent_to_sigma)
    x = fold(io["x"])
    with torch.inference_mode():
        found = control.get_control(
            x,
            io["timestep"].float().expand(x.shape[0]),
            {"c_crossattn": io["context"].repeat_interleave(golden["frames"], dim=0)},
            golden["batch"],
            {},
        )
    for index, value in enumerate(found["output"]):
        assert relative_error(unfold(value, golden["batch"]), io[f"{case}.down.{index}"]) <= FP32
    assert relative_error(unfold(found["middle"][0], golden["batch"]), io[f"{case}.mid"]) <= FP32


@pytest.mark.parametrize("kind", ["rgb", "scribble"])
def test_pictures_are_seen_where_they_stand(base, animated, encoder, kind):
    model, prompts, vae = base
    control, before = encoder(kind), snapshot(model.model.diffusion_model)
    without = sample(animated, prompts)
    at_start = sample(animated, applied(prompts, control, pictures(1), vae))
    assert torch.isfinite(at_start).all()
    assert (at_start - without).abs().flatten(1).amax(1).min() > 1e-3, "every frame hears of it"
    first = placed(control, "frames", "0")
    assert torch.equal(sample(animated, applied(prompts, first, pictures(1), vae)), at_start)
    last = placed(control, "end")
    at_end = sample(animated, applied(prompts, last, pictures(1), vae))
    assert (at_end - at_start).abs().max() > 1e-3
    named = placed(control, "frames", "-1")
    assert torch.equal(sample(animated, applied(prompts, named, pictures(1), vae)), at_end)
    other = sample(animated, applied(prompts, control, pictures(1, seed=6), vae))
    assert (other - at_start).abs().max() > 1e-3
    assert_untouched(model.model.diffusion_model, before)


@pytest.mark.parametrize("kind", ["rgb", "scribble"])
@pytest.mark.parametrize("together", [1, 2])
def test_a_window_is_a_clip_of_its_own_with_its_pictures(base, animated, encoder, kind, together):
    """Windows without overlap never meet: each is what its frames give alone, the pictures at their places in
    it."""
    _, prompts, vae = base
    images = pictures(3)
    windows = ContextWindows.execute(
        animated, length=4, overlap=0, schedule="standard_static", windows_per_batch=together
    )[0]
    control = placed(encoder(kind), "frames", "1, 2, 7")
    got = sample(windows, applied(prompts, control, images, vae))
    for part, frames, own in ((slice(0, 4), "1, 2", images[:2]), (slice(4, 8), "3", images[2:])):
        alone = placed(encoder(kind), "frames", frames)
        wanted = sample(animated, applied(prompts, alone, own, vae), part=part)
        torch.testing.assert_close(got[part], wanted, **CLOSE)
    assert (got - sample(windows, prompts)).abs().flatten(1).amax(1).min() > 1e-3


def test_windows_are_fused_as_their_weights_say(base, animated, encoder):
    """One step over two windows: each one's result by itself, then the sum by hand."""
    _, prompts, vae = base
    images = pictures(2)
    windows = ContextWindows.execute(animated, length=5, overlap=2, schedule="standard_static", fuse="flat")[
        0
    ]
    control = placed(encoder(), "frames", "0, 6")
    got = sample(windows, applied(prompts, control, images, vae))
    wanted, counts = torch.zeros_like(got), torch.zeros(FRAMES, 1, 1, 1)
    for start, frame, image in ((0, "0", images[:1]), (3, "3", images[1:])):
        part = slice(start, start + 5)
        alone = placed(encoder(), "frames", frame)
        wanted[part] += sample(animated, applied(prompts, alone, image, vae), part=part)
        counts[part] += 1
    torch.testing.assert_close(got, wanted / counts, **CLOSE)


def test_one_window_over_the_clip_is_no_window(base, animated, encoder):
    _, prompts, vae = base
    conds = applied(prompts, encoder(), pictures(2), vae)
    windows = ContextWindows.execute(animated, length=FRAMES, overlap=2)[0]
    assert torch.equal(sample(windows, conds), sample(animated, conds))


@pytest.mark.parametrize("windowed", [False, True])
def test_beside_other_controlnets_in_both_orders(base, animated, encoder, windowed):
    model, prompts, vae = base
    if windowed:
        animated = ContextWindows.execute(animated, length=5, overlap=2)[0]
    other, hint = controlnet(model), pictures(FRAMES, seed=8, size=32)

    def sparse(conds):
        return applied(conds, placed(encoder(), "frames", "6"), pictures(1), vae, strength=0.8)

    def plain(conds):
        return applied(conds, other, hint, strength=0.6)

    def second(conds):
        return applied(conds, encoder("scribble", seed=3), pictures(1, seed=9), strength=0.7)

    three = sample(animated, second(plain(sparse(prompts))))
    torch.testing.assert_close(sample(animated, sparse(second(plain(prompts)))), three, **CLOSE)
    for two in (second(plain(prompts)), second(sparse(prompts)), plain(sparse(prompts))):
        assert (sample(animated, two) - three).abs().max() > 1e-3


def test_conds_one_by_one_and_areas(base, animated, encoder, monkeypatch):
    _, prompts, vae = base
    conds = applied(prompts, encoder(), pictures(2), vae)
    together = sample(animated, conds)
    positive, negative = conds
    halves = [
        [text, {**values, "area": (SIZE, width, 0, x)}]
        for width, x in ((2, 0), (3, 1))
        for text, values in positive
    ]
    in_areas = sample(animated, (halves, negative))
    asked = comfy.model_management.get_free_memory

    def no_memory(device, torch_free_too=False):
        return asked(device, True) if torch_free_too else 0

    with monkeypatch.context() as patched:
        patched.setattr(comfy.model_management, "get_free_memory", no_memory)
        torch.testing.assert_close(sample(animated, conds), together, **CLOSE)
        torch.testing.assert_close(sample(animated, (halves, negative)), in_areas, **CLOSE)
    assert (in_areas - together).abs().max() > 1e-3
    windows = ContextWindows.execute(animated, length=FRAMES, overlap=0)[0]
    assert torch.equal(sample(windows, (halves, negative)), in_areas)


def test_part_of_the_steps(base, animated, encoder):
    _, prompts, vae = base

    def run(conds, **more):
        return sample(animated, conds, steps=2, **more)

    def within(start, end):
        return applied(prompts, encoder(), pictures(2), vae, start=start, end=end)

    whole, first = run(within(0.0, 1.0)), run(within(0.0, 1.0), last_step=1)
    assert torch.equal(run(within(0.999, 1.0), last_step=1), run(prompts, last_step=1))
    assert torch.equal(run(within(0.0, 0.001), last_step=1), first)
    assert (run(within(0.0, 0.001)) - whole).abs().max() > 1e-3


def test_pictures_are_encoded_once_for_each_size(base, animated, encoder, monkeypatch):
    _, prompts, vae = base
    encoded = []
    encode = vae.encode
    monkeypatch.setattr(vae, "encode", lambda pixels: encoded.append(tuple(pixels.shape)) or encode(pixels))
    windows = ContextWindows.execute(animated, length=4, overlap=2)[0]
    conds = applied(prompts, encoder(), pictures(2, size=100), vae)
    first = sample(windows, conds)
    assert torch.equal(sample(windows, conds), first)
    assert encoded == [(2, 32, 32, 3)]
    sample(animated, conds, size=6)
    assert encoded[1:] == [(2, 48, 48, 3)]


def test_copies_share_the_weights_and_nothing_stays_behind(base, animated, encoder):
    _, prompts, vae = base
    control = encoder()
    before = snapshot(control.control_model)
    layers = [type(layer) for layer in control.control_model.modules()]
    conds = applied(prompts, placed(control, "start"), pictures(1), vae)
    used = conds[0][0][1]["control"]
    assert used.get_models() == control.get_models() == [control.control_model_wrapped]
    sample(animated, conds)
    assert used._model is None and used.timestep_range is None
    assert control.pictures is None and control.placement == "even"
    assert [type(layer) for layer in control.control_model.modules()] == layers
    after = control.control_model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_the_same_file_on_two_models(base, animated, encoder, motion_module):
    model, prompts, vae = base
    conds = applied(prompts, encoder(), pictures(1), vae)
    other = ApplyMotionModule.execute(model, motion_module("v2"))[0]
    one, two, still = (sample(each, conds) for each in (animated, other, model))
    assert min((a - b).abs().max() for a, b in ((one, two), (one, still), (two, still))) > 1e-3
    assert torch.equal(sample(animated, conds), one)


def test_cancel_and_errors_leave_no_trace(base, animated, encoder):
    model, prompts, vae = base
    before = snapshot(model.model.diffusion_model)
    conds = applied(prompts, encoder(), pictures(1), vae)
    wanted = sample(animated, conds)
    network = conds[0][0][1]["control"].control_model
    hook = network.middle_block.register_forward_pre_hook(
        lambda *_: comfy.model_management.interrupt_current_processing() or stop()
    )

    def stop():
        comfy.model_management.throw_exception_if_processing_interrupted()

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(animated, conds)
    hook.remove()
    assert_untouched(model.model.diffusion_model, before)
    assert torch.equal(sample(animated, conds), wanted)


# -- what is refused --


def test_rgb_needs_a_vae_and_scribble_does_not(base, encoder):
    _, prompts, vae = base
    with pytest.raises(ValueError, match=r"rgb_0\.safetensors .* needs a VAE\. .* vae input"):
        applied(prompts, encoder(), pictures(1))
    with pytest.raises(ValueError, match="vae input"):
        comfy_nodes.ControlNetApply().apply_controlnet(prompts[0], encoder(), pictures(1), 1.0)
    assert applied(prompts, encoder("scribble"), pictures(1))
    with pytest.raises(ValueError, match="no picture"):
        applied(prompts, encoder("scribble"), pictures(1)[:0])


@pytest.mark.parametrize(
    ("placement", "frames", "count", "words"),
    [
        ("frames", "0, 8", 2, "frame 8 of a clip of 8 frames"),
        ("frames", "0", 2, "1 frames are named for 2 pictures"),
        ("frames", "0, -8", 2, "Two pictures"),
        ("even", "", FRAMES + 1, "9 pictures for a clip of 8"),
    ],
)
@pytest.mark.parametrize("windowed", [False, True])
def test_pictures_that_do_not_fit_the_clip(
    base, animated, encoder, placement, frames, count, words, windowed
):
    _, prompts, _ = base
    if windowed:
        animated = ContextWindows.execute(animated, length=4, overlap=2)[0]
    control = placed(encoder("scribble"), placement, frames)
    with pytest.raises(ValueError, match=words):
        sample(animated, applied(prompts, control, pictures(count)))


def test_words_that_name_no_frames(encoder):
    for frames, words in (("", "frames is empty"), ("0, one", "holds one"), ("1.5", "holds 1.5")):
        with pytest.raises(ValueError, match=words):
            placed(encoder(), "frames", frames)
    with pytest.raises(ValueError, match="placement is one of even, start, end, middle, frames"):
        placed(encoder(), "left")
    assert placed(encoder(), "frames", " 0,8 ; -1\n").placement == (0, 8, -1)


def test_frames_that_are_not_used_are_reported(encoder, caplog):
    assert placed(encoder(), "even", "0, 4").placement == "even"
    assert "not used with placement even" in caplog.text


def test_another_controlnet_is_refused(base):
    with pytest.raises(ValueError, match="ControlNet, which is no SparseCtrl.*Load SparseCtrl"):
        placed(controlnet(base[0]))


def test_more_frames_than_positions(base, encoder):
    model, prompts, _ = base
    conds = applied(prompts, encoder("scribble"), pictures(1))
    with pytest.raises(ValueError, match="got 33 frames in one call, expected at most 32: .*Context Windows"):
        sample(model, conds, frames=33)
    windows = ContextWindows.execute(model, length=17, overlap=1)[0]
    assert torch.isfinite(sample(windows, conds, frames=33)).all()


def test_an_encoder_of_another_family(base, model_folders):
    model, prompts, _ = base
    unet = small_unet()
    write_encoder(model_folders["controlnet"] / "other.safetensors", unet, "scribble")
    control = LoadSparseControl.execute("other.safetensors")[0]
    with pytest.raises(
        ValueError, match=r"other\.safetensors does not fit the base.*\(32, 64\).*\(64, 128\)"
    ):
        sample(model, applied(prompts, control, pictures(1)))
    unet = model.model.diffusion_model
    write_encoder(model_folders["controlnet"] / "wide.safetensors", unet, "scribble", context_dim=96)
    control = LoadSparseControl.execute("wide.safetensors")[0]
    with pytest.raises(ValueError, match="prompts 96 wide, and these are 64"):
        sample(model, applied(prompts, control, pictures(1)))


def test_a_vae_of_another_family(base, encoder):
    model, prompts, _ = base
    conds = applied(prompts, encoder(), pictures(1), GoldenVae(torch.zeros(1, 16, SIZE, SIZE)))
    with pytest.raises(ValueError, match=r"\(16, 4, 4\).*expects \(4, 4, 4\).*vae input"):
        sample(model, conds)


def test_wrong_files_are_named(base, model_folders, motion_module, tiny_checkpoint, encoder):
    folder = model_folders["controlnet"]
    save_file(
        {f"control_model.{k}": v for k, v in controlnet(base[0]).control_model.state_dict().items()},
        folder / "canny.safetensors",
    )
    motion_module("v3")
    model_folders.add("controlnet", model_folders["animatediff_models"] / "v3_7.safetensors")
    model_folders.add("controlnet", tiny_checkpoint)
    for name, words in (
        ("canny.safetensors", "is not a SparseCtrl encoder. It is a ControlNet: use Load ControlNet"),
        ("v3_7.safetensors", "is not a SparseCtrl encoder. It is a motion module: use Load Motion Module"),
        ("tiny.safetensors", "is not a SparseCtrl encoder. It is a whole checkpoint: use Load Checkpoint"),
    ):
        with pytest.raises(ValueError, match=words):
            LoadSparseControl.execute(name)
    with pytest.raises(FileNotFoundError, match="none of the folders for controlnet"):
        LoadSparseControl.execute("gone.safetensors")
    assert "gone.safetensors is in none" in LoadSparseControl.validate_inputs("gone.safetensors")
    encoder()
    model_folders.add("animatediff_models", folder / "rgb_0.safetensors")
    with pytest.raises(
        ValueError, match="is not a motion module. It is a SparseCtrl encoder: use Load Sparse"
    ):
        LoadMotionModule.execute("rgb_0.safetensors")


def test_files_are_found_in_both_folders(base, model_folders):
    unet = base[0].model.diffusion_model
    write_encoder(model_folders["animatediff_models"] / "v3_sd15_SparseCtrl_rgb.ckpt", unet, "rgb")
    (model_folders["animatediff_models"] / "v3_sd15_mm.ckpt").touch()
    write_encoder(model_folders["controlnet"] / "mine.safetensors", unet, "scribble")
    (options,) = (i.options for i in LoadSparseControl.GET_SCHEMA().inputs)
    assert options == ["mine.safetensors", "v3_sd15_SparseCtrl_rgb.ckpt"]
    for name, kind in zip(options, ("scribble", "rgb"), strict=True):
        assert LoadSparseControl.validate_inputs(name) is True
        assert LoadSparseControl.execute(name)[0].control_model.layout.kind == kind
        assert name in LoadSparseControl.fingerprint_inputs(name)


# -- pictures --


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_are_cut_around_their_centre(channels):
    wide = torch.zeros(1, channels, 10, 30)
    wide[..., 10:20] = 1.0
    found = pictures_at(wide, 20, 20)
    assert found.shape == (1, 3, 20, 20)
    assert torch.equal(found, torch.ones_like(found))
    assert pictures_at(wide.transpose(-1, -2), 8, 16).shape == (1, 3, 8, 16)
    same = torch.rand(2, 3, 16, 16)
    assert torch.equal(pictures_at(same, 16, 16), same)


def test_scribbles_are_grey_and_reach_from_black_to_white():
    images = torch.rand(3, 3, 8, 8) * 0.4 + 0.3
    images[2] = 0.5
    found = normalised_strokes(images)
    assert torch.equal(found[:, 0], found[:, 1]) and torch.equal(found[:, 0], found[:, 2])
    assert found[:2].amin() == 0.0 and torch.equal(found[:2].amax((1, 2, 3)), torch.ones(2))
    assert torch.equal(found[2], torch.zeros(3, 8, 8))
