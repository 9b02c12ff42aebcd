"""Numbers of a call go to the device once, however many modules ask for them."""

import pytest
import torch
from animatediff_flipbook.motion_core.module.call import MotionCall, View
from animatediff_flipbook.motion_core.module.config import MotionModuleConfig
from animatediff_flipbook.motion_core.module.model import MotionModel
from torch.overrides import TorchFunctionMode

VIEWS = (View((0, 1, 2), (1.0, 1.0, 0.5)), View((2, 3, 4), (0.5, 1.0, 1.0)))
CALLS = {
    "stretched": MotionCall(5, positions=(0.0, 0.5, 1.0, 1.5, 2.0)),
    "shuffled": MotionCall(5, positions=(4, 0, 3, 1, 2)),
    "views": MotionCall(5, views=VIEWS),
    "views, stretched": MotionCall(5, views=VIEWS, positions=(0.25, 0.75, 1.25)),
    "plain": MotionCall(5),
}


class FromHost(TorchFunctionMode):
    """Counts the ways in which numbers of Python's become tensors."""

    MAKERS = (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor)

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        indexed = func is torch.Tensor.__getitem__ and any(isinstance(one, list) for one in parts_of(args))
        self.count += func in self.MAKERS or indexed
        return func(*args, **(kwargs or {}))


def parts_of(args):
    """An index's parts."""
    return args[1] if isinstance(args[1], tuple) else args[1:]


def copies(call, modules):
    """Made in a call of so many modules, each with two attentions."""
    slots = [(f"down_blocks.{level}.motion_modules.0", 32) for level in range(modules)]
    config = MotionModuleConfig.for_slots(slots, "v3", num_heads=4, pe_length=8)
    motion = MotionModel(config, device="meta", fused_qkv=True)
    x = torch.empty(5, 32, 4, 4, device="meta")
    with torch.no_grad(), FromHost() as seen:
        for name, module in motion.motion_modules():
            x = module(x, call.for_module(name))
    return seen.count


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [("plain", 0), ("shuffled", 1), ("stretched", 3), ("views", 4), ("views, stretched", 7)],
)
def test_as_many_copies_as_there_are_rows_of_numbers(kind, numbers):
    call = CALLS[kind]
    assert copies(MotionCall(call.frames, views=call.views, positions=call.positions), 1) == numbers
    assert copies(MotionCall(call.frames, views=call.views, positions=call.positions), 6) == numbers


def test_calls_share_nothing():
    """What a call has put on a device ends with it."""
    one, other = MotionCall(5, positions=(4, 0, 3, 1, 2)), MotionCall(5, positions=(4, 0, 3, 1, 2))
    assert one == other
    assert copies(one, 2) == copies(other, 2) == 1
    assert copies(one, 2) == 0, "it is the same call"
