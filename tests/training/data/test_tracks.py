"""Tracks: captions of mirrored clips."""

import pytest
from animatediff_flipbook.training.data.tracks import mirrored_caption


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("Left turn, leftmost, right.", "Right turn, rightmost, left."),
        ("LEFT, rightwards, left-hand", "RIGHT, leftwards, right-hand"),
        ("a bright dog, upright, drives left,right", "a bright dog, upright, drives right,left"),
        ("a frightened thief, leftovers", "a frightened thief, leftovers"),
    ],
)
def test_words_change_sides(text, mirrored):
    assert mirrored_caption(text) == mirrored
    assert mirrored_caption(mirrored) == text
