"""Optimizers of other packages: their state is saved and resumed exactly, and the right weights are used."""

import json

import pytest
import torch
from animatediff_flipbook.training.commands import evaluate
from animatediff_flipbook.training.run.looking import validate
from animatediff_flipbook.training.run.saving import save
from animatediff_flipbook.training.run.states import newest_state
from animatediff_flipbook.training.run.train import Run, train
from safetensors.torch import load_file

OWN = "optimizer.name=animatediff_flipbook.tests.support_optimizers."


def same(one, other) -> bool:
    a, b = load_file(one), load_file(other)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("name", ["Nested", "ScheduleFree"])
def test_resume_is_exact(name, stage_settings, tmp_path):
    settings = (f"{OWN}{name}", "optimizer.lr=0.5")
    whole = train(stage_settings("domain_adapter", tmp_path / "a", *settings, "train.steps=4")).file
    train(stage_settings("domain_adapter", tmp_path / "b", *settings, "train.steps=2"))
    parts = stage_settings("domain_adapter", tmp_path / "b", *settings, "train.steps=4")
    assert same(whole, train(parts, resume=True).file)


def test_a_state_within_the_state_is_saved_once_per_weight(stage_settings, tmp_path):
    train(stage_settings("domain_adapter", tmp_path, f"{OWN}Nested", "train.steps=1"))
    saved = newest_state(tmp_path / "checkpoints")
    assert {"state.0.inner.moment", "state.0.inner.map", "state.1.inner.map"} <= saved.tensors[
        "optimizer"
    ].keys()


def test_looking_at_a_schedule_free_run_does_not_change_it(stage_settings, tmp_path):
    settings = (f"{OWN}ScheduleFree", "optimizer.lr=0.5", "train.steps=4", "validation.fraction=0.2")
    a, b = (
        train(stage_settings("motion_module", tmp_path / every, *settings, f"validation.every={every}")).file
        for every in "01"
    )
    assert same(a, b)


def test_schedule_free_runs_are_evaluated_with_the_weights_they_export(stage_settings, tmp_path):
    config = stage_settings(
        "motion_module", tmp_path, f"{OWN}ScheduleFree", "optimizer.lr=5.0", "validation.fraction=0.2",
        "validation.every=3",
    )  # fmt: skip
    train(config)
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert evaluate(config)["validation/loss"] == pytest.approx(last["validation/loss"], abs=1e-7)


def test_dropout_is_for_training_only(stage_settings, tmp_path):
    config = stage_settings("domain_adapter", tmp_path, "lora.dropout=0.5", "validation.fraction=0.2")
    run = Run(config, resume=False)
    try:
        for weight in run.parts.weights.values():
            torch.nn.init.normal_(weight, std=0.05)

        def validation() -> float:
            with run.parts.result_weights():
                return validate(run.parts)["validation/loss"]

        once = validation()
        assert once == validation()
        batch = run.parts.data.load([0], [(7, 0, 0)])
        noised = run.parts.objective.noised(batch.latents, batch.keys)
        with torch.no_grad(), run.parts.denoiser.attached(1):
            losses = {float(run._losses_of(batch, noised)) for _ in range(4)}
        assert len(losses) == 4, "it is on again afterwards"
        save(run.parts)
    finally:
        run.close()
    assert evaluate(config)["validation/loss"] == pytest.approx(once, abs=1e-7)
