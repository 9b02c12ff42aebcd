"""What a node shows while it trains."""

import comfy.utils
import pytest
from animatediff_flipbook.nodes.training import train as nodes
from animatediff_flipbook.nodes.training import watch as watching
from animatediff_flipbook.nodes.training.watch import GraphWatch
from animatediff_flipbook.training.run import losses


@pytest.fixture
def said(monkeypatch):
    """Every text on a node."""
    lines = []
    monkeypatch.setattr(watching, "show_on", lambda node, text: lines.append(text))
    monkeypatch.setattr(watching, "SECONDS_BETWEEN_LINES", -1.0)
    return lines


def test_what_takes_long_between_the_steps_is_said_and_moves_the_bar(run, said, monkeypatch):
    moved, update = [], comfy.utils.ProgressBar.update_absolute

    def record(bar, done, total=None, preview=None):
        moved.append((done, total or bar.total))
        update(bar, done, total, preview)

    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", record)
    run(
        nodes.TrainMotionLora,
        steps=1,
        sample_prompt="a square",
        settings="samples.steps = 2\nvalidation.fraction = 0.2\nvalidation.every = 1\nvalidation.bins = 2",
    )
    for line in (
        "Reading files: 1 of",
        "Preparing the model",
        "Rendering a sample clip: 1 of 2",
        "Validating: 1",
    ):
        assert any(text.startswith(line) for text in said), line
    assert (1, 2) in moved


def test_the_record_of_losses_is_read_once(tmp_path, said, monkeypatch):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.25}\n')
    reads, read = [], losses.read_losses
    monkeypatch.setattr(losses, "read_losses", lambda folder: reads.append(folder) or read(folder))
    monkeypatch.setattr(watching, "SECONDS_BETWEEN_PICTURES", -1.0)
    drawn, draw = [], watching.draw_curve
    monkeypatch.setattr(watching, "draw_curve", lambda found, n: drawn.append(list(found)) or draw(found, n))
    watch = GraphWatch(None, tmp_path, 5)
    for step, loss in ((2, 0.25), (3, 0.125), (4, float("nan")), (5, 0.0)):
        watch.stepped(step, {"loss": loss})
    assert drawn[0] == [(1, 0.5), (2, 0.25)] and len(reads) == 1
    assert drawn[-1] == [(1, 0.5), (2, 0.25), (3, 0.125), (5, 0.0)]


@pytest.mark.slow
def test_other_stores_of_encodings_do_not_crowd_out_what_was_left_out(run, said, graph):
    """A graph's runs share one cache: that it holds other things too is no warning."""
    for fps in (4.0, 2.0, 1.0):
        run(nodes.TrainDomainAdapter, steps=1, fps=fps, batch_size=1)
    assert not any("made with other settings" in line for line in said)
