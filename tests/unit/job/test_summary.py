"""The summary of a job, which can be pasted into a ticket."""

import shlex
from dataclasses import replace

import pytest
from here import score_here, small_scored_input

from faceq import config
from faceq.cli import main
from faceq.job import summary
from faceq.storage.settings import S3Settings
from faceq.table.runs import Run
from faceq.table.store import Table


@pytest.fixture(scope="module")
def table(tmp_path_factory, astronaut) -> Table:
    """A table with an unreadable frame."""
    _, place = small_scored_input(tmp_path_factory.mktemp("summary"), astronaut)
    return Table(place, S3Settings())


@pytest.fixture
def done(table) -> summary.Summary:
    (record,) = table.runs()
    counts, quantiles = table.counts_and_quantiles()
    run = Run(
        run_id=record["run_id"],
        version="0.1.0",
        input=["a", "b", "c", "d"],
        record={},
        config=config.Config().model_dump(),
        started="",
        frames=3,
        rows=3,
        already_done=1000,
        counts=counts,
        passed_over={".txt": 2},
        notes=["clip.mp4: odd"],
    )
    errors = summary.frequent_errors(table, run.run_id)
    return summary.Summary(run, table.uri, 200.0, 10.0, 1, quantiles, None, errors)


def test_the_summary_names_the_command_and_the_result(done, table):
    text = summary.text(done)
    for line in (
        "faceq 0.1.0, preset embedded",
        "input          a, b, c and 1 more",
        f"table          {table.uri}",
        f"run            {done.run.run_id}",
        "frames                  3   read",
        "rows                    3   written, one for each frame",
        "already done        1,000   frames with a row, not read again",
        "scored                  2    66.7%",
        "unreadable              1    33.3%",
        "errors                  1   unreadable frames; the most frequent errors:",
        "skipped                 2   files without frames: 2 .txt",
        "note           clip.mp4: odd",
        "speed                   3   frames in 3 min 20 s (0.0 frames/s after a start of 10 s)",
    ):
        assert line in text.splitlines()
    (error,) = done.errors
    assert f"                        1   {error}" in text.splitlines()


def test_a_resumed_run_says_which_figures_are_its_own_and_how_large_the_table_is(done):
    plain = summary.text(done).splitlines()
    assert not any("this run's" in line or "in the table" in line for line in plain)
    lines = summary.text(replace(done, earlier_rows=2000)).splitlines()
    assert "in the table        2,003   rows, with those of earlier runs" in lines
    own = [number for number, line in enumerate(lines) if line == "of this run's 3 rows:"]
    assert [lines[number + 1].split()[0] for number in own] == ["unreadable", "quantile"]


def test_the_speed_counts_from_the_start_of_the_command(done):
    """A second before and two after the graph, which finished 2 frames in its first 10 of 14 seconds."""
    done.run.rows = 10
    timed = replace(done, seconds=14.0, first_rows=2, before_seconds=1.0, after_seconds=2.0)
    speed = "speed                  10   frames in 17 s"
    assert f"{speed} (2.0 frames/s after a start of 11 s)" in summary.text(timed).splitlines()
    at_once = replace(timed, first_rows=10, seconds=17.0)
    assert f"{speed[:-4]}20 s (0.5 frames/s, start included)" in summary.text(at_once).splitlines()


def test_the_next_commands_can_be_pasted_and_work(done, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = summary.text(done).splitlines()
    commands = [line[15:] for line in lines[-3:]]
    assert lines[-3].startswith("next ") and [shlex.split(line)[1] for line in commands] == [
        "query",
        "query",
        "report",
    ]
    assert main.main(shlex.split(commands[1])[1:]) == 0
    shown = capsys.readouterr().out
    assert "bad.jpg" in shown and "1 of 1 rows" in shown
    assert main.main(shlex.split(commands[0])[1:]) == 0


def test_with_all_faces_the_query_is_one_of_faces(done):
    done.run.config["faces"] = "all"
    assert f'query {done.table} "serfiq >= 0.6 and dbcnn >= 55" --faces' in summary.text(done)


def test_without_errors_no_command_for_them_is_suggested(done, tmp_path, photos):
    done.run.counts = {"scored": 3}
    assert "unreadable'" not in summary.text(done)
    whole = Table(score_here(str(photos / "t1.jpg"), str(tmp_path / "t"), fiq_threshold=0), S3Settings())
    assert summary.frequent_errors(whole) == {}
