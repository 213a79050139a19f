"""Bars are drawn in terminals alone; elsewhere a line now and then says how far the work has come."""

from __future__ import annotations

import io
import sys
import time

import pytest

from fxquant import progress
from fxquant.errors import ConfigError
from fxquant.progress import Bar, say, track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the time in a list, which a test sets."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.delenv(progress.VARIABLE, raising=False)
    return now


def test_a_pipe_gets_a_line_every_few_minutes(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Bar(100, "train", "step", done=10) as bar:
        for _ in range(30):
            clock[0] += 20
            bar.note(loss="2.310", images_per_second="431")
            bar.update()
    assert capsys.readouterr().err.splitlines() == [
        "train: 25 of 100, 25%, loss 2.310, images per second 431, 0:25:00 left",
        "train: 40 of 100, 40%, loss 2.310, images per second 431, 0:20:00 left",
    ]


def test_the_interval_is_that_of_the_environment(
    clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(progress.VARIABLE, "0")
    assert list(track([1, 2], "evaluate", "batch")) == [1, 2]
    assert list(track(iter([1]), "read", "file")) == [1]
    assert capsys.readouterr().err == "evaluate: 1 of 2, 50%, 0:00:00 left\nevaluate: 2 of 2, 100%\nread: 1\n"
    for wrong in ("-1", "often", "nan"):
        monkeypatch.setenv(progress.VARIABLE, wrong)
        with pytest.raises(ConfigError, match=f"FXQUANT_PROGRESS_MINUTES: expected a number.*{wrong}"):
            Bar(1, "x", "y")


def test_lines_of_their_own(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Bar(4, "train", "step") as bar:
        clock[0] += 60
        bar.update(1)
        bar.rename("trained")
        bar.say("epoch 1 of 4: loss 2.3")
    say("building")
    assert capsys.readouterr().err == "trained: epoch 1 of 4: loss 2.3, 0:03:00 left\nfxquant: building\n"


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Bar(2, "calibrate", "batch") as bar:
        bar.note(loss="1")
        bar.rename("search")
        bar.update()
        bar.say("half")
    assert "\r" in terminal.getvalue()
    assert "search" in terminal.getvalue()
    assert "search: half, 0:00:00 left\n" in terminal.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_who_wants_to_hear_nothing_hears_nothing(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    monkeypatch.setenv(progress.VARIABLE, "0")
    with Bar(2, "calibrate", "batch", shown=False) as bar:
        bar.update()
        bar.say("half")
    assert written.getvalue() == ""
