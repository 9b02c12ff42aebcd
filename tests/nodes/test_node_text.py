"""Text on nodes: pages take it for HTML or Markdown, and some of its words come out of strangers' files."""

from types import SimpleNamespace

import pytest
from animatediff_flipbook.nodes import compat


@pytest.fixture
def sent(monkeypatch):
    """What a page is sent, by node."""
    found = {}
    server = SimpleNamespace(send_progress_text=lambda text, node: found.update({node: text}))
    monkeypatch.setattr(compat, "running_server", lambda: server)
    return found


@pytest.mark.parametrize(
    "words",
    [
        "<img src=x onerror=alert(1)>",
        "<script>alert(1)</script>",
        "![x](https://example.org/pixel.png)",
        "[click](javascript:alert(1))",
        "`code`",
        "<https://example.org>",
    ],
)
def test_words_become_no_markup(sent, words):
    compat.show_on("5", words)
    assert not any(mark in sent["5"] for mark in ("<", ">", "`", "]("))


def test_lines_stay_lines_and_plain_text_is_as_it_was(sent):
    compat.show_on("5", "a: 1.5 %\n  b_c (d): [1, 2], 3 * 4 & 5")
    assert sent["5"].splitlines() == ["a: 1.5 %  ", "  b_c (d): [1, 2], 3 * 4 & 5"]  # Markdown's line break
