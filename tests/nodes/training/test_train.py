"""Training from a graph: the same run as from the command line, and nothing of the graph is changed."""

import json

import pytest
import torch
from animatediff_flipbook.motion_core.files.checkpoint import open_motion_module
from animatediff_flipbook.motion_core.files.tensor_file import TensorFile
from animatediff_flipbook.motion_core.weights import loss_curve
from animatediff_flipbook.nodes.motion.load import loaded_module
from animatediff_flipbook.nodes.tools.derived import weights_of_module
from animatediff_flipbook.nodes.training import train as nodes
from animatediff_flipbook.nodes.training.runs import PLACE
from animatediff_flipbook.tests.support_controls import write_pia
from safetensors.torch import load_file


def runs(graph):
    return sorted(path.parent for path in (graph.place / "output" / PLACE).glob("*/config.json"))


def weights_of(graph):
    parts = {
        "model": graph.model.model,
        "clip": graph.clip.cond_stage_model,
        "vae": graph.vae.first_stage_model,
    }
    parts["motion"] = graph.motion.patcher.model
    return {
        f"{part}.{k}": v.clone() for part, module in parts.items() for k, v in module.state_dict().items()
    }


def test_a_module_keeps_the_part_that_steers_it_by_a_picture(graph, run):
    file = write_pia(graph.place / "pia.ckpt", graph.model.model.diffusion_model)
    with torch.inference_mode():
        module = loaded_module(open_motion_module(file), "pia.ckpt")
    before = weights_of_module(module).controls
    output = run(nodes.TrainMotionModule, motion_module=module, steps=1)
    after = weights_of_module(output.args[0]).controls
    assert before and before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert output.args[0].config == module.config


def test_longer_clips_than_the_module_has_positions_for(graph, run):
    with pytest.raises(ValueError, match=r"got 33 frames in one clip .*, expected at most 32: .*`frames`"):
        run(nodes.TrainMotionLora, frames=33)
    assert not list((graph.place / "output" / PLACE).rglob("shard-*")), "nothing was encoded"


KINDS = (nodes.TrainMotionLora, nodes.TrainDomainAdapter, nodes.TrainMotionModule)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_result_is_the_command_lines_and_the_graph_is_as_it_was(graph, run, kind):
    from animatediff_flipbook.training.config import from_dict
    from animatediff_flipbook.training.run.train import train

    before = weights_of(graph)
    generator = torch.get_rng_state()
    output = run(kind)
    assert torch.equal(torch.get_rng_state(), generator), "other nodes draw as if nothing had been"
    after = weights_of(graph)
    assert all(torch.equal(before[name], after[name]) for name in before)
    (folder,) = runs(graph)
    tree = json.loads((folder / "config.json").read_text())
    tree["output"], tree["cache"]["folder"] = str(graph.place / "alone"), str(graph.place / "alone" / "cache")
    tree["base"]["checkpoint"] = str(graph.files.checkpoint)
    tree["motion"]["file"] = str(graph.files.motion) if tree["motion"]["file"] else ""
    alone = load_file(train(from_dict(tree)).file)
    (published,) = (graph.place / "models").rglob("*.safetensors")
    found = load_file(published)
    assert found.keys() == alone.keys()
    assert all(torch.equal(found[name], alone[name]) for name in alone)
    assert output.args[-3] == published.name
    assert output.args[-2].shape[-1] == 3
    assert len(output.args[-1]["loss"]) == 3
    told = loss_curve.of_metadata(TensorFile(published).metadata)
    assert [step for step, _ in told] == [1, 2, 3]
    assert [loss for _, loss in told] == pytest.approx(output.args[-1]["loss"], rel=1e-3)
