"""The progress bar: silent where nobody watches, steps and speed where somebody does."""

from __future__ import annotations

import io
import sys

import pytest

from medgraft import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def watched(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """The error stream as a terminal of 100 columns; called in the test, for pytest sets the stream of each phase."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_nothing_is_shown_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.bar(4, "scan", rate="studies/s") as advance:
        advance(4)
    assert capsys.readouterr() == ("", "")


def test_nothing_is_shown_of_no_steps_or_where_it_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watched(monkeypatch)
    with progress.bar(0, "scan", True) as advance:
        advance(1)
    with progress.bar(4, "scan", False) as advance:
        advance(4)
    assert terminal.getvalue() == ""


def test_a_terminal_sees_label_steps_and_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watched(monkeypatch)
    with progress.bar(8, "scan", rate="studies/s") as advance:
        for _ in range(3):
            advance(2)
    said = terminal.getvalue()
    assert "scan" in said and "6/8" in said and "studies/s" in said


def test_speed_is_left_out_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watched(monkeypatch)
    with progress.bar(2, "fingerprints") as advance:
        advance(2)
    assert "2/2" in terminal.getvalue() and "/s" not in terminal.getvalue()


def test_a_full_bar_may_say_what_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watched(monkeypatch)
    with progress.bar(3, "fingerprints", then="comparing") as advance:
        advance(2)
        before = terminal.getvalue()
        advance(1)
    assert "comparing" not in before and "comparing" in terminal.getvalue()


def test_bytes_are_shown_as_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watched(monkeypatch)
    with progress.bar(3_000_000, "weights", rate="bytes/s") as advance:
        advance(3_000_000)
    assert "3.0/3.0 MB" in terminal.getvalue()


def test_it_is_written_to_the_error_stream_when_it_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.bar(5, "text", True) as advance:
        advance(5)
    said = capsys.readouterr()
    assert said.out == "" and "text" in said.err and "5/5" in said.err
