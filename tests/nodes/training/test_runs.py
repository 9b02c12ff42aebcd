"""Which inputs are the same run, which file is its result, and what becomes of a cancelled one. What trains
is stood in for."""

import json
from types import SimpleNamespace

import comfy.model_management
import pytest
import torch
from animatediff_flipbook.nodes.training import runs
from animatediff_flipbook.nodes.training import train as nodes
from animatediff_flipbook.nodes.training.settings import given
from safetensors.torch import load_file, save_file

MODELS = "animatediff_motion_lora"


@pytest.fixture
def start(graph, monkeypatch):
    """``start(name=value, ...)``: a Trained. ``start.folders``: those of the runs that have trained."""
    folders = []
    watch = SimpleNamespace(warnings=[], wants_stop=comfy.model_management.processing_interrupted)

    def stand_in(node, config, loaded, folder):
        folders.append(folder)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{config.name}.safetensors"
        save_file({"number": torch.full((4,), len(folders))}, file)
        lines = (json.dumps({"step": n + 1, "loss": 0.1}) + "\n" for n in range(config.train.steps))
        (folder / "metrics.jsonl").write_text("".join(lines))
        return file, watch

    monkeypatch.setattr(runs, "_run", stand_in)

    def begin(**changes):
        inputs = {i.id: getattr(i, "default", None) for i in nodes.TrainMotionLora.GET_SCHEMA().inputs}
        inputs |= {"model": graph.model, "clip": graph.clip, "vae": graph.vae, "motion_module": graph.motion}
        inputs |= {"folder": "squares", "width": 64, "height": 64, "steps": 3, "frames": 4} | changes
        with torch.inference_mode():
            return runs.train_in_graph(nodes.TrainMotionLora, "motion_lora", given(inputs), MODELS)

    begin.folders, begin.watch = folders, watch
    return begin


def number_in(trained):
    return int(load_file(trained.path)["number"][0])


def test_which_settings_make_another_run(start):
    start()
    for number, (setting, same_run) in enumerate(
        {
            "train.stop_at = 2": True,
            "checkpoints.keep = 5": True,
            "validation.fraction = 0.3": False,
            "optimizer.warmup_steps = 2": False,
            'export.dtype = "float32"': True,
        }.items()
    ):
        start(settings=setting, steps=4 + number)
        assert len(start.folders) == number + 2
        assert (start.folders[0] == start.folders[-1]) == same_run, setting


def test_a_file_to_start_from_that_has_changed_makes_another_run(start, graph):
    file = graph.place / "start.safetensors"
    for number in range(2):
        save_file({"x": torch.zeros(number + 1)}, file)
        start(settings=f"lora.file = '{file}'")
    assert len(set(start.folders)) == 2


def test_hidden_files_do_not_make_another_run(start, graph):
    start()
    (graph.place / "input" / "squares" / ".DS_Store").write_bytes(b"x")
    start()
    assert len(start.folders) == 1


def test_a_result_in_another_form_is_written_anew(start):
    start()
    assert start(settings='export.licence = "CC0-1.0"').name == "my_motion_lora_2.safetensors"
    assert start().name == "my_motion_lora.safetensors"
    assert len(start.folders) == 2


def test_the_file_of_fewer_steps_is_found_again(start):
    start()
    start(steps=5)
    again = start()
    assert number_in(again) == 1 and len(start.folders) == 2
    assert len(again.losses) == 3, "and its losses, not those of the longer run"


def test_another_file_under_the_name_of_a_result_is_not_the_result(start, graph):
    """Of one length and no more alike: another run has got the name that was free again."""
    start().path.unlink()
    assert start(seed=7).name == "my_motion_lora.safetensors"
    assert number_in(start()) == 3


def test_cancelled_when_all_is_trained_the_file_stays_and_the_graph_ends(start, graph):
    comfy.model_management.interrupt_current_processing(True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        start()
    assert not comfy.model_management.processing_interrupted()
    assert number_in(start()) == 1 and len(start.folders) == 1


def test_a_model_folder_that_cannot_be_written_to_is_found_before_training(start, graph):
    (graph.place / "models").mkdir()
    (graph.place / "models" / MODELS).write_bytes(b"no folder")
    with pytest.raises(OSError, match=f"folder for {MODELS}: .* cannot be written to"):
        start()
    assert not start.folders


def test_what_was_left_out_stays_on_the_node(start, monkeypatch):
    said = []
    monkeypatch.setattr(runs, "show_on_node", lambda node, text: said.append(text))
    start.watch.warnings.append("Left out: one.mp4: it is damaged")
    start()
    assert said[-1] == "my_motion_lora.safetensors: 3 steps\nLeft out: one.mp4: it is damaged"
