"""A LoRA beside a layer, and what a call costs with and without values."""

import pytest
import torch
from animatediff_flipbook.motion_core.module.call import MotionCall
from animatediff_flipbook.motion_core.module.low_rank import LowRank
from animatediff_flipbook.motion_core.module.positions import PositionStretch
from animatediff_flipbook.tests.motion_core.module.test_layers import build, feature, plain_shape
from torch.utils._python_dispatch import TorchDispatchMode


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rows", [None, (4, 3)])
def test_each_frame_has_its_own_strength(rows):
    down, up, layer = draw(2, 5), draw(3 if rows else 9, 2, seed=1), torch.nn.Linear(5, 9)
    z, strengths = draw(6, 4, 5, seed=2), torch.tensor([0.0, 1.0, -0.5, 2.0])
    one = LowRank(0, down, up, rows)
    call = MotionCall(4, loras={layer: (one,)}, lora_strengths=(strengths.view(1, 4, 1),))
    expected = layer(z).clone()
    first, count = rows or (0, 9)
    for frame, strength in enumerate(strengths):
        expected[:, frame, first : first + count] += strength * z[:, frame] @ (up @ down).T
    with torch.no_grad():
        assert torch.allclose(call.through(layer, z), expected, atol=1e-5)
        assert torch.equal(call.through(torch.nn.Identity(), z), z), "another layer is not changed"


class Count(TorchDispatchMode):
    """The operators that ran."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def operators(call):
    module = build(plain_shape())
    x = feature(4, 32, 3, 3)
    with torch.inference_mode(False), torch.no_grad(), Count() as count:
        module(x, call)
    return count.names


VIEWS = {"view", "_unsafe_view", "unsqueeze", "expand", "select", "slice", "alias", "detach", "t", "_to_copy"}


def work(call):
    return sorted(name for name in operators(call) if name not in VIEWS)


def test_a_number_costs_nothing_and_a_value_per_frame_one_multiplication():
    plain = work(MotionCall(4))
    assert work(MotionCall(4, scale=1.3, effect=0.8, blocks=())) == plain
    per_frame = work(MotionCall(4, scale=torch.full((4,), 1.3)))
    assert sorted([*plain, "mul", "mul"]) == per_frame, "one for each of the two attentions"
    effect = work(MotionCall(4, effect=torch.full((4,), 0.8)))
    assert len(effect) == len(plain), "a blend with a factor for a blend with a number"


@pytest.mark.parametrize(
    ("rows", "added", "frames"), [(16, 2, 18), (0, 3, 35), (5, 0, 5), (3, 9, 12), (40, 8, 40)]
)
def test_stretching_is_torchs_linear_resizing(rows, added, frames):
    table = draw(32, 6)
    known = min(rows or 32, 32)
    wanted = torch.nn.functional.interpolate(table[None, :known].mT, size=known + added, mode="linear")[0].T
    places = PositionStretch(rows, added).places(frames, 32)
    below = [int(place) for place in places]
    got = torch.stack(
        [torch.lerp(table[b], table[min(b + 1, 31)], p - b) for b, p in zip(below, places, strict=True)]
    )
    assert torch.allclose(got, wanted[:frames], atol=1e-5)
    with pytest.raises(
        ValueError, match="The motion module got .* frames in one call, expected at most .*stretch_by"
    ):
        PositionStretch(rows, added).places(known + added + 1, 32)
    with pytest.raises(ValueError, match="added"):
        PositionStretch(0, -1)
