"""The loop: what is trained, what must not matter, what must be exact."""

import json
import math
import shutil

import pytest
import torch
from animatediff_flipbook.motion_core.files.lora import read_lora
from animatediff_flipbook.training import randomness
from animatediff_flipbook.training.model.denoiser import trained_tensors
from animatediff_flipbook.training.run.guards import NonFinite
from animatediff_flipbook.training.run.looking import validate
from animatediff_flipbook.training.run.states import newest_state
from animatediff_flipbook.training.run.train import Run, train
from safetensors.torch import load_file

STAGES = ("domain_adapter", "motion_module", "motion_lora")


@pytest.fixture
def run_of(stage_settings, tmp_path):
    """A run that has not taken a step yet; closed at the end."""
    runs = []

    def make(stage: str, *overrides: str) -> Run:
        runs.append(Run(stage_settings(stage, tmp_path / f"run{len(runs)}", *overrides), resume=False))
        return runs[-1]

    yield make
    for run in runs:
        run.close()


def predict(run: Run) -> torch.Tensor:
    """The model's answer to fixed noise."""
    frames = run.config.frames
    x = randomness.gaussian((1, frames, 4, 8, 8), "x")
    context = randomness.gaussian((1, 32, 64), "context")
    with torch.no_grad(), run.parts.denoiser.attached(frames):
        return run.parts.denoiser(x, torch.tensor([500]), context)


@pytest.mark.parametrize("stage", STAGES)
def test_a_fresh_run_is_the_model_it_starts_from(stage, run_of):
    run = run_of(stage)
    x = randomness.gaussian((1, run.config.frames, 4, 8, 8), "x")[0]
    context = randomness.gaussian((1, 32, 64), "context").repeat(run.config.frames, 1, 1)
    timesteps = torch.full((run.config.frames,), 500.0)
    before = predict(run)
    if stage == "motion_lora":
        for pair in run.parts.denoiser.trained.children():
            assert not pair["up"].weight.any()
    else:
        with torch.no_grad():
            plain = run.parts.denoiser.base.predict(x, timesteps, context)[None]
        assert torch.equal(before, plain)
    run.take_step(0)
    assert not torch.equal(before, predict(run)), "a step of training must change the answer"


@pytest.mark.parametrize("stage", STAGES)
def test_only_the_trained_set_changes_and_all_of_it(stage, run_of):
    # Without weight decay, so that only gradients move weights.
    run = run_of(stage, "optimizer.arguments={weight_decay=0.0}")
    motion = run.parts.denoiser.motion
    frozen = {f"unet.{n}": p for n, p in run.parts.denoiser.base.unet.named_parameters()}
    frozen |= {} if motion is None else {f"motion.{n}": p for n, p in motion.named_parameters()}
    trained = trained_tensors(run.parts.denoiser)
    identities = {id(p) for p in trained.values()}
    frozen = {n: p for n, p in frozen.items() if id(p) not in identities}
    kept = {n: p.detach().clone() for n, p in frozen.items()}
    start = {n: p.detach().clone() for n, p in trained.items()}

    run.take_step(0)
    first = {n for n, p in trained.items() if not torch.equal(p, start[n])}
    only = "proj_out" if stage == "motion_module" else "up.weight"
    assert first == {n for n in trained if only in n}, (
        "the zero-initialised factor alone moves in the first step"
    )
    run.take_step(1)
    run.take_step(2)

    assert all(not torch.equal(p, start[n]) for n, p in trained.items())
    assert all(torch.equal(p, kept[n]) for n, p in frozen.items())
    assert all(p.grad is None and not p.requires_grad for p in frozen.values())
    assert all(p.dtype == torch.float32 for p in trained.values())


def losses_and_weights(run: Run, steps: int = 2) -> tuple[list[float], torch.Tensor]:
    losses = [run.take_step(step)["loss"] for step in range(steps)]
    return losses, torch.cat([p.detach().flatten() for p in run.parts.weights.values()])


@pytest.mark.parametrize("stage", STAGES)
def test_gradient_checkpointing_changes_nothing(stage, run_of):
    plain = losses_and_weights(run_of(stage))
    saving = losses_and_weights(run_of(stage, "train.gradient_checkpointing=true"))
    assert plain[0] == pytest.approx(saving[0], abs=1e-6)
    assert (plain[1] - saving[1]).abs().max() <= 1e-6


def test_gradient_checkpointing_in_a_v1_layout_with_middle_block(run_of):
    """Joint norms and the middle block's module sit in the UNet for the backward pass too."""
    layout = ("motion.generation=v1", "motion.mid_block=yes")
    plain = losses_and_weights(run_of("motion_module", *layout))
    saving = losses_and_weights(run_of("motion_module", *layout, "train.gradient_checkpointing=true"))
    assert (plain[1] - saving[1]).abs().max() <= 1e-6


def test_accumulation_equals_the_large_batch(run_of):
    # SGD, because Adam divides by the gradient's size and so magnifies rounding where gradients are zero.
    sgd = ("optimizer.name=SGD", "optimizer.lr=0.1")
    large = losses_and_weights(run_of("motion_module", *sgd, "train.batch_size=4"))
    small = losses_and_weights(run_of("motion_module", *sgd, "train.batch_size=1", "train.accumulation=4"))
    assert large[0] == pytest.approx(small[0], abs=1e-6)
    assert (large[1] - small[1]).abs().max() <= 1e-6


def test_an_overfitted_clip_lowers_its_loss(stage_settings, tmp_path, clips):
    config = stage_settings(
        "motion_module", tmp_path, f"data.sources.0.path={clips / 'clip0.mp4'}", "train.steps=30",
        "train.batch_size=1",
        "objective.min_timestep=600", "objective.max_timestep=600", "optimizer.lr=3e-3",
    )  # fmt: skip
    train(config)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert sum(losses[-5:]) / 5 < 0.7 * losses[0]


def test_the_mean_of_weights_is_exported(stage_settings, tmp_path):
    plain = train(stage_settings("domain_adapter", tmp_path / "a")).file
    mean = train(stage_settings("domain_adapter", tmp_path / "b", "train.ema_decay=0.9")).file
    a, b = read_lora(plain).layers, read_lora(mean).layers
    name = next(iter(a))
    assert a.keys() == b.keys()
    assert not torch.equal(a[name].up, b[name].up)


def test_a_loss_that_is_no_number_stops_the_run(stage_settings, tmp_path, monkeypatch):
    config = stage_settings("motion_module", tmp_path, "train.steps=8", "checkpoints.every=2")
    run = Run(config, resume=False)
    load = run.parts.data.load

    def spoiled(indices, keys, **kwargs):
        batch = load(indices, keys, **kwargs)
        if run.parts.step == 3:
            batch.latents.fill_(math.nan)
        return batch

    monkeypatch.setattr(run.parts.data, "load", spoiled)
    with pytest.raises(NonFinite, match=r"step 4, files .*clip\d.mp4.*last good state is step 2"):
        run.loop()
    run.close()
    assert newest_state(tmp_path / "checkpoints").step == 2


def test_an_output_in_use_is_not_overwritten(stage_settings, tmp_path):
    config = stage_settings("domain_adapter", tmp_path)
    train(config)
    with pytest.raises(ValueError, match="--resume"):
        train(config)


def test_validation_is_the_same_twice_and_does_not_touch_training(stage_settings, tmp_path):
    held = "validation.fraction=0.2"
    with_it = stage_settings("motion_module", tmp_path / "a", held, "validation.every=1", "validation.bins=2")
    without = stage_settings("motion_module", tmp_path / "b", held, "validation.every=0")
    a, b = train(with_it).file, train(without).file
    first, second = load_file(a), load_file(b)
    assert all(torch.equal(first[key], second[key]) for key in first)
    run = Run(stage_settings("motion_module", tmp_path / "c", held, "validation.bins=2"), resume=False)
    once, again = validate(run.parts), validate(run.parts)
    run.close()
    assert once == again
    assert set(once) == {"validation/loss", "validation/t000-499", "validation/t500-999"}


def test_training_on_the_fly_is_training_from_the_cache(stage_settings, tmp_path):
    # Losses, not weights: the VAE rounds differently by batch size, and Adam magnifies rounding.
    for name, mode in (("a", "disk"), ("b", "off")):
        settings = ("train.steps=2", "train.batch_size=1", f"cache.mode={mode}", "optimizer.lr=1e-6")
        train(stage_settings("motion_module", tmp_path / name, *settings))
    cached, live = (
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in "ab"
    )
    assert live == pytest.approx(cached, abs=1e-5)


def test_metadata_tells_what_the_run_was(stage_settings, tmp_path):
    (tmp_path / "prompts.txt").write_text("a circle\n")
    more = ("lora.alpha=2", "export.licence=CC0", f"samples.prompt_file={tmp_path / 'prompts.txt'}")
    file = train(stage_settings("motion_lora", tmp_path, *more)).file
    facts = read_lora(file).metadata
    for key, value in {
        "format": "motion_lora", "stage": "motion_lora", "rank": "4", "alpha": "2.0", "frames": "4",
        "fps": "8",
        "resolution": "64x64", "steps": "3", "seed": "7", "licence": "CC0", "beta_schedule": "sqrt_linear",
        "prediction": "v", "unet_groupnorm": "per_frame",
    }.items():  # fmt: skip
        assert facts[key] == value, key
    assert json.loads(facts["config"])["train"]["steps"] == 3
    assert str(tmp_path) not in facts["config"], "folders of the machine do not travel"


def test_only_the_bad_clips_are_named(run_of):
    run = run_of("motion_module", "train.batch_size=4")
    batch = run.parts.data.load([0, 1, 2, 3], [(7, 0, slot) for slot in range(4)])
    with pytest.raises(NonFinite) as caught:
        losses = torch.tensor([0.1, math.inf, 0.2, math.nan])
        run.guards.require_finite(losses, 5, batch, losses)
    named = [name in str(caught.value) for name in batch.names]
    assert named == [False, True, False, True]


def test_steps_that_the_scaler_skips_do_not_count_and_end_the_run(run_of, monkeypatch):
    run = run_of("domain_adapter", "train.ema_decay=0.5")
    run.take_step(0)
    average = {name: weight.clone() for name, weight in run.parts.ema.weights.items()}
    monkeypatch.setattr(type(run.parts.optimizer), "step_was_skipped", True)
    for step in range(1, 25):
        run.take_step(step)
    assert all(torch.equal(run.parts.ema.weights[name], weight) for name, weight in average.items())
    with pytest.raises(NonFinite, match="gradient of 25 steps in a row.*fp16"):
        run.take_step(25)


@pytest.mark.parametrize("num_frames", [0, 2])
def test_without_usable_held_out_clips_it_trains_without_validation(
    num_frames, run_of, tmp_path, write_video, numbered_frames, caplog
):
    held = tmp_path / "held"
    held.mkdir()
    if num_frames:
        write_video(held / "bad.mp4", numbered_frames(num_frames))
    else:
        (held / "bad.mp4").write_bytes(b"no video" * 99)
    run = run_of("motion_module", f"validation.sources=[{{path='{held}'}}]")
    assert run.parts.held is None
    assert "There is no validation" in caplog.text
    said = [record.message for record in caplog.records if "bad.mp4" in record.message]
    assert len(said) == 1
    assert said[0].startswith("Left out")


def test_every_short_file_is_named_once(run_of, tmp_path, clips, write_video, numbered_frames, caplog):
    held = tmp_path / "held"
    held.mkdir()
    shutil.copy(clips / "clip0.mp4", held)
    for number in range(7):
        frames = numbered_frames(3)
        frames[:, :8] = 30 * number
        write_video(held / f"short{number}.mp4", frames)
    run = run_of("motion_module", f"validation.sources=[{{path='{held}'}}]", "camera.direction=zoom_in")
    assert len(run.parts.held) == 4
    said = [record.message for record in caplog.records if "short" in record.message]
    assert [f"short{n}.mp4" in line and "Left out" in line for n, line in enumerate(said)] == [True] * 7
    caplog.clear()
    run = run_of("motion_module", f"validation.sources=[{{path='{held}'}}]")
    assert len(run.parts.held) == 1
    said = [record.message for record in caplog.records if "short" in record.message]
    assert [f"short{n}.mp4" in line and "Left out" in line for n, line in enumerate(said)] == [True] * 7
