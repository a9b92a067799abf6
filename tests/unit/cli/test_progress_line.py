"""The progress of a job on a terminal, in a pipe and in a log."""

import dataclasses
import io
import json
import logging

import pytest

from faceq.cli import logs, progress_line
from faceq.cli.progress_line import ProgressLine
from faceq.job.progress import LogReporter, Progress

HALF = Progress(1, 2, 10, 0, 5, 2.5, 4.0)
TEXT = "faceq: 1 of 2 read tasks, 10 frames read, 0 unreadable, 5 through, 2.5 frames/s on 4 CPUs"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def a_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> Terminal:
    """One terminal that both streams go to from here on. (pytest has streams of its own for each fixture.)"""
    made = Terminal()
    monkeypatch.setattr("sys.stdout", made)
    monkeypatch.setattr("sys.stderr", made)
    monkeypatch.setenv("COLUMNS", str(columns))
    return made


def test_on_a_terminal_messages_stand_above_the_line(monkeypatch):
    terminal = a_terminal(monkeypatch, columns=200)
    with logs.shown() as shown:
        line = ProgressLine(shown)
        log = logging.getLogger("faceq.job")
        log.warning("before")
        line.show(HALF)
        log.warning("meanwhile")
        line.end()
        log.warning("after")
    off = "\r\x1b[K"
    assert terminal.getvalue() == (
        f"faceq: before\n\r{TEXT}\x1b[K{off}faceq: meanwhile\n{TEXT}{off}faceq: after\n"
    )
    assert line.every_s == 1


def test_a_line_is_cut_to_the_terminal(monkeypatch):
    terminal = a_terminal(monkeypatch, columns=20)
    with logs.shown() as shown:
        ProgressLine(shown).show(HALF)
    assert terminal.getvalue() == f"\r{TEXT[:19]}\x1b[K"


def test_in_a_pipe_it_is_a_line_now_and_then(capsys):
    with logs.shown() as shown:
        line = ProgressLine(shown)
        line.show(HALF)
        line.end()
    assert capsys.readouterr().out == f"{TEXT}\n"
    assert line.every_s == progress_line.progress.EVERY_S


def test_in_json_it_has_its_figures(capsys):
    with logs.shown() as shown:
        shown.as_json = True
        LogReporter().show(HALF)
    logged = json.loads(capsys.readouterr().err)
    assert logged["progress"] == dataclasses.asdict(HALF) and f"faceq: {logged['message']}" == TEXT
