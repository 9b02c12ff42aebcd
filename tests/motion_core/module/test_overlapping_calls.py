"""Calls that overlap on one UNet: each sees its own motion modules, and the base comes out as it went in."""

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import torch
from animatediff_flipbook.motion_core.module.injection import TURN, JointGroupNorm, inserted
from animatediff_flipbook.tests.motion_core.module.test_injection import call, run
from animatediff_flipbook.tests.support import assert_untouched, motion_for, small_unet, snapshot


@pytest.fixture(scope="module")
def unet():
    return small_unet()


@pytest.fixture(scope="module")
def motions(unet):
    """What calls are made with: two generations together, each alone, and nothing at all."""
    first, second = motion_for(unet, "v1", seed=2), motion_for(unet, "v3", seed=3)
    return [[(first, call()), (second, call())], [(first, call())], [(second, call())], []]


@pytest.fixture
def dawdling(unet):
    """The UNet, so slow in places that calls of several threads meet in it."""
    layers = [unet.input_blocks[1][0], unet.middle_block[0], unet.output_blocks[-1][0]]
    handles = [layer.register_forward_pre_hook(lambda *_: time.sleep(0.002)) for layer in layers]
    yield unet
    for handle in handles:
        handle.remove()


def test_calls_of_many_threads_are_those_of_one(dawdling, motions):
    before = snapshot(dawdling)
    wanted = [run(dawdling, each) for each in motions]
    start = threading.Barrier(4)

    def several(number):
        start.wait(timeout=30)
        return [(kind % 4, run(dawdling, motions[kind % 4])) for kind in range(number, number + 8)]

    with ThreadPoolExecutor(4) as pool:
        results = [result for each in pool.map(several, range(4)) for result in each]
    assert len(results) == 32
    for kind, out in results:
        assert torch.equal(out, wanted[kind])
    assert_untouched(dawdling, before)
    assert TURN not in vars(dawdling)
    assert torch.equal(run(dawdling), wanted[3])


def test_an_error_in_one_thread_lets_the_others_go_on(dawdling, motions):
    before = snapshot(dawdling)
    wanted = run(dawdling, motions[0])

    def fail(number):
        if number % 2:
            with pytest.raises(RuntimeError, match="struck"), inserted(dawdling, motions[number % 3]):
                time.sleep(0.002)
                raise RuntimeError("struck")
            return wanted
        return run(dawdling, motions[0])

    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(out, wanted) for out in pool.map(fail, range(12)))
    assert_untouched(dawdling, before)
    assert TURN not in vars(dawdling)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_calls_may_end_in_any_order(unet, motions, order):
    """Leaving puts back nothing that is another call's."""
    before, plain = snapshot(unet), run(unet)
    entered = [ExitStack() for _ in range(3)]
    with torch.inference_mode():
        for stack, each in zip(entered, motions, strict=False):
            stack.enter_context(inserted(unet, each))
        left = set(range(3))
        for number in order:
            entered[number].close()
            left.discard(number)
            joint = any(isinstance(layer, JointGroupNorm) for layer in unet.modules())
            assert joint == bool(left & {0, 1})
    assert_untouched(unet, before)
    assert TURN not in vars(unet)
    assert torch.equal(run(unet), plain)


def test_what_another_pack_has_wrapped_works_for_nobody_when_the_call_is_over(unet, motions):
    """A layer of ours inside one of theirs cannot be taken out; it hands through what it gets."""
    plain, taken = run(unet), []
    with inserted(unet, motions[0]):
        for block in list(unet.modules()):
            for key, layer in list(block._modules.items()):
                if type(layer).__module__.startswith("animatediff_flipbook") and hasattr(layer, "over"):
                    block._modules[key] = torch.nn.Sequential(layer)
                    taken.append((block, key))
    assert len(taken) > 10
    assert torch.equal(run(unet), plain)
    for block, key in taken:
        layer = block._modules[key][0]
        if isinstance(layer, JointGroupNorm):
            block._modules[key] = layer.norm
        else:
            del block._modules[key]
    assert torch.equal(run(unet), plain)
