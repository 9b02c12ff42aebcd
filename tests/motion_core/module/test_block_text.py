"""Values by block from text."""

import pytest
from animatediff_flipbook.motion_core.module.block_text import read_blocks
from animatediff_flipbook.motion_core.module.call import MotionCall


def test_lines():
    found = read_blocks(
        "up_blocks.1: scale 1.2, effect 0.8  #w\n\n down_blocks.0.1 : scale 1.2/0.9\nmid_block: effect 0\n"
        "up_blocks.2.motion_modules.0: effect 1e-1"
    )
    assert [one.block for one in found] == [
        "up_blocks.1", "down_blocks.0.motion_modules.1", "mid_block", "up_blocks.2.motion_modules.0",
    ]  # fmt: skip
    assert [one.effect for one in found] == [0.8, None, 0.0, 0.1]
    assert [one.scales for one in found] == [(1.2,), (1.2, 0.9), None, None]
    assert read_blocks("  \n# nothing\n") == ()


def test_one_number_serves_both_attentions_and_the_first_line_counts():
    call = MotionCall(
        4, scale=2.0, blocks=read_blocks("up_blocks: scale 0.5\nup_blocks.1: scale 3, effect .5")
    )
    module = call.for_module("up_blocks.1.motion_modules.0")
    assert (module.scale_of(0), module.scale_of(1), module.effect) == (1.0, 1.0, 0.5)
    assert call.for_module("up_blocks.10.motion_modules.0").effect == 1.0


@pytest.mark.parametrize(
    "line",
    [
        "up_blocks.1", "up_blocks.1: ", "up_block.1: scale 1", "up_blocks.1: speed 1", "up_blocks: scale",
        "up_blocks: scale 1 effect 1", "up_blocks: effect 1/2", "up_blocks: scale -1", "up_blocks: scale nan",
        "up_blocks: scale 1, scale 2", "up_blocks: scale 11", "up_blocks.a: scale 1", "x" * 999,
        "\x00: scale 1",
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(line):
    with pytest.raises(ValueError, match="Line 2 of the blocks") as error:
        read_blocks(f"\n{line}")
    assert len(str(error.value)) < 400
