"""The progress of a job on a terminal, in a pipe and in a log."""

import dataclasses
import io
import json
import logging
import re

import pytest

from faceq.cli import logs, progress_line
from faceq.cli.progress_line import ProgressLine
from faceq.job.progress import LogReporter, Progress

STATUSES = {"scored": 90, "no_face": 8, "unreadable": 2}
HALF = Progress(2, 2, 128, 2, 100, 2.5, 4.0, 0, 64, 128, STATUSES, 11.2, 40.0)
TEXT = (
    "faceq: 100 of 128 frames finished (78%); 2.5 frames/s on 4 CPUs; 11 s left; 64 rows written, "
    "safe to stop; 90 scored, 8 no_face, 2 unreadable"
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def a_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, kind: str = "xterm") -> Terminal:
    """Standard error is a terminal from here on. (pytest has its own streams for each fixture.)"""
    made = Terminal()
    monkeypatch.setattr("sys.stderr", made)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", kind)
    return made


def screen(written: str) -> list[str]:
    """The lines that a terminal shows after some output."""
    lines, row = [""], 0
    for piece in re.findall(r"\x1b\[1A|\x1b\[K|\r|\n|[^\x1b\r\n]+", written):
        if piece == "\x1b[1A":
            row -= 1
        elif piece == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif piece == "\x1b[K":
            lines[row] = ""
        elif piece != "\r":
            lines[row] += piece
    return [line for line in lines if line]


def test_on_a_terminal_messages_stand_above_the_line(monkeypatch):
    terminal = a_terminal(monkeypatch, columns=200)
    with logs.shown() as shown:
        line = ProgressLine(shown)
        log = logging.getLogger("faceq.job")
        log.warning("before")
        line.show(HALF)
        log.warning("meanwhile")
        assert screen(terminal.getvalue()) == ["faceq: before", "faceq: meanwhile", TEXT]
        line.end(None)
        log.warning("after")
    assert screen(terminal.getvalue()) == ["faceq: before", "faceq: meanwhile", "faceq: after"]
    assert line.every_s == 1


def test_on_a_narrow_terminal_the_line_goes_on_below_and_is_replaced_as_a_whole(monkeypatch):
    terminal = a_terminal(monkeypatch, columns=80)
    with logs.shown() as shown:
        line = ProgressLine(shown)
        for _ in range(3):
            line.show(HALF)
        assert screen(terminal.getvalue()) == [
            "faceq: 100 of 128 frames finished (78%); 2.5 frames/s on 4 CPUs; 11 s left",
            "  64 rows written, safe to stop; 90 scored, 8 no_face, 2 unreadable",
        ]
        logging.getLogger("faceq.job").warning("meanwhile")
        assert [len(each) < 80 for each in screen(terminal.getvalue())] == [True] * 3
        line.end(None)
    assert screen(terminal.getvalue()) == ["faceq: meanwhile"]


def test_standard_output_gets_nothing_of_it(monkeypatch, capsys):
    terminal = a_terminal(monkeypatch, columns=200)
    with logs.shown() as shown:
        line = ProgressLine(shown)
        line.show(HALF)
        assert screen(terminal.getvalue()) == [TEXT]
        line.end(None)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("kind", ["pipe", "dumb"])
def test_in_a_pipe_it_is_a_line_now_and_then(kind, monkeypatch, capsys):
    terminal = a_terminal(monkeypatch, 80, kind) if kind == "dumb" else None
    if kind == "pipe":
        monkeypatch.setattr("sys.stdout", Terminal())
    with logs.shown() as shown:
        line = ProgressLine(shown)
        line.show(HALF)
        line.end(None)
    assert (terminal.getvalue() if terminal else capsys.readouterr().err) == f"{TEXT}\n"
    assert line.every_s == progress_line.progress.EVERY_S


def test_before_the_first_frame_is_finished_it_says_what_takes_so_long():
    starting = Progress(0, 2, 64, 0, 0, None, 4.0, elapsed_s=12.3)
    assert str(starting) == "loading models and reading frames, 12 s; 64 frames read, none finished yet"
    limited = dataclasses.replace(starting, limited=True)
    assert str(limited) == "loading models and reading frames, 12 s; no frame finished yet"


def test_rows_in_files_are_named_once_there_are_some():
    assert "written" not in str(dataclasses.replace(HALF, written=0))


def test_a_limited_job_does_not_count_what_it_reads_beyond_its_limit():
    some = dataclasses.replace(HALF, tasks=19, read=384, limited=True)
    assert str(some) == TEXT.removeprefix("faceq: ")
    unknown = dataclasses.replace(some, frames=None, seconds_left=None)
    assert str(unknown).startswith("100 frames finished; 2.5 frames/s on 4 CPUs; 64 rows written")


def test_where_the_number_of_frames_is_not_known_no_time_is_left():
    unknown = dataclasses.replace(HALF, tasks_ended=1, frames=None, seconds_left=None, rate=None)
    assert str(unknown).startswith("100 of at least 128 frames finished; 1 of 2 read tasks ended; 64 rows")


def test_in_json_it_has_its_figures(capsys):
    with logs.shown() as shown:
        shown.as_json = True
        LogReporter().show(HALF)
    logged = json.loads(capsys.readouterr().err)
    assert logged["progress"] == dataclasses.asdict(HALF) and f"faceq: {logged['message']}" == TEXT
