"""One run of run.py sets up at a time."""

import time

from animatediff_flipbook.demo.setup.prepare import only_one


def test_two_runs_at_once_wait_for_each_other(monkeypatch, capsys):
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            outer.__exit__(None, None, None)

    outer = only_one()
    outer.__enter__()
    monkeypatch.setattr(time, "sleep", sleep)
    with only_one():
        assert len(waits) == 2
    assert capsys.readouterr().err.count("Waiting for another run.py") == 1
