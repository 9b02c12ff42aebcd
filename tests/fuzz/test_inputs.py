"""Strange values at every widget of every node, and strange schedule texts: a result or one sentence of ours.

A few in the quick suite; 12,000 with ``python run.py test -m slow tests/fuzz``.
"""

import math
import random

import numpy as np
import pytest
import torch
from animatediff_flipbook.motion_core.schedule.value_schedule import float_schedule, prompt_schedule
from animatediff_flipbook.nodes import NODES
from animatediff_flipbook.nodes.checks import check_inputs
from animatediff_flipbook.nodes.paths import register_folders
from comfy_api.latest import io

STRANGE = (
    *(float("nan"), float("inf"), -float("inf"), 1e308, -1e308, 1e-320, -1, 0, 2**64, -(2**70), 10**400),
    *(None, True, "7", "", b"1", [], {}, (1,), object(), 1 + 2j, np.float32(0.5), np.int64(3), np.nan),
    *(torch.tensor(1.5), torch.ones(3), "\x1b[31m" * 9, "x" * 10000),
)
PIECES = (
    *(
        "0",
        ":",
        "16",
        " / ",
        ",",
        '"',
        "=",
        "(",
        ")",
        "{",
        "}",
        "a cat",
        "\n",
        "-1",
        "0.5",
        "8:12",
        "8:",
        "`",
    ),
    *("\\", "--neg", "99999", "1e9", "é", "\x00", "::", "nan", "9" * 50),
)


def widgets():
    register_folders()  # schemas list the files of these folders
    for node in NODES:
        for one in node.GET_SCHEMA().inputs:
            if isinstance(one, io.Int.Input | io.Float.Input | io.String.Input | io.Combo.Input):
                yield node, one


def fits(one, value):
    """What the schema says, written down once more and without the code under test."""
    if isinstance(one, io.String.Input | io.Combo.Input):
        return isinstance(value, str)
    if isinstance(value, bool | str | bytes) or (isinstance(value, torch.Tensor) and value.numel() != 1):
        return False
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    if not math.isfinite(number) or (isinstance(one, io.Int.Input) and number != math.floor(number)):
        return False
    return (one.min is None or value >= one.min) and (one.max is None or value <= one.max)


@pytest.mark.parametrize(("node", "one"), widgets(), ids=lambda x: getattr(x, "id", None) or x.__name__)
def test_every_widget_takes_what_its_schema_says_and_nothing_else(node, one, model_folders):
    for value in STRANGE:
        if value is None and one.optional:
            continue
        if fits(one, value):
            check_inputs(node, {one.id: value})
            continue
        with pytest.raises(ValueError) as stop:
            check_inputs(node, {one.id: value})
        text = str(stop.value)
        assert text.startswith(one.id) and text.isprintable() and len(text) < 200


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_every_node_looks_before_it_works(node, model_folders):
    """The check comes first: before what the other inputs are is asked."""
    schema = node.GET_SCHEMA()
    numbers = [one for one in schema.inputs if isinstance(one, io.Int.Input | io.Float.Input)]
    if not numbers:
        pytest.skip("no numbers")
    for one in numbers:
        given = {other.id: other.default if hasattr(other, "default") else None for other in schema.inputs}
        given = {
            k: "x" if v is None and not k.startswith(("model", "noise")) else v for k, v in given.items()
        }
        for bad in (float("nan"), float("inf"), "7", True):
            with pytest.raises(ValueError, match=f"^{one.id} is a"):
                node.execute(**{**given, **{n.id: n.default or n.min or 0 for n in numbers}, one.id: bad})


def assert_read_or_refused(seed):
    """No other error than a sentence."""
    rng = random.Random(seed)
    text = "".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 30)))
    for read in (float_schedule, prompt_schedule):
        try:
            read(text, rng.choice((0, 1, 16)))
        except ValueError as error:
            assert 10 < len(str(error)) < 600, f"seed {seed}"


def test_a_sample_of_strange_schedules():
    for seed in range(50):
        assert_read_or_refused(seed)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 13000, 2000))
def test_strange_schedules(start):
    for seed in range(start, start + 2000):
        assert_read_or_refused(seed)
