"""`faceq score --summary FILE`: what the file says, and when it cannot be written."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from disks import fill, needs_mounts, small_disk
from places import PHOTOS

from faceq.cli import main
from faceq.job import pipeline
from faceq.job.progress import Progress
from faceq.job.summary import Summary
from faceq.table.runs import Run

FACE = str(PHOTOS / "t1.jpg")


def done() -> Summary:
    """The result of a job that nobody has run."""
    run = Run("run-1", "0.1.0", [FACE], {}, {}, "", frames=3, rows=3, counts={"scored": 3})
    return Summary(run, "table", 2.0, 1.0, 1, {})


def the_job(monkeypatch: pytest.MonkeyPatch, does) -> None:
    """Replace the job by a function of its reporter."""
    monkeypatch.setattr(pipeline, "score", lambda *_: does(_[-1]))


def score(summary: object, out: Path) -> int:
    return main.main(["score", FACE, "--out", str(out), "--summary", str(summary)])


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_while_the_job_runs_the_file_says_so(tmp_path, monkeypatch, capsys):
    path = tmp_path / "s.json"
    path.write_text("that of an earlier job")
    seen: list[dict] = []
    the_job(monkeypatch, lambda reporter: seen.append(read(path)) or done())
    assert score(path, tmp_path / "t") == 0
    assert (seen[0]["state"], seen[0].keys() & {"exit_status", "ended"}) == ("running", set())
    found = read(path)
    assert (found["state"], found["exit_status"], found["rows"]) == ("done", 0, 3)
    assert found["statuses"]["scored"] == 3 and found["started"] <= found["ended"]
    assert "one for each frame" in capsys.readouterr().out
    assert [each.name for each in tmp_path.iterdir()] == ["s.json"]


def test_a_stopped_job_says_what_is_written(tmp_path, monkeypatch, capsys):
    def stopped(reporter):
        last = Progress(1, 2, 64, 0, 40, 2.0, 2, written=32, frames=100, rows={"scored": 32}, run_id="run-1")
        reporter.end(last)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    the_job(monkeypatch, stopped)
    assert score(tmp_path / "s.json", tmp_path / "t") == 143
    found = read(tmp_path / "s.json")
    assert (found["state"], found["exit_status"], found["run_id"]) == ("stopped", 143, "run-1")
    assert (found["rows"], found["frames"], found["statuses"]["scored"]) == (32, 100, 32)
    assert found["reason"].startswith("stopped by SIGTERM: 32 rows written")
    assert capsys.readouterr().err.endswith("run the same command again to continue\n")


def test_a_failed_job_says_why(tmp_path, capsys):
    arguments = ["score", str(tmp_path / "none"), "--out", str(tmp_path / "t")]
    assert main.main([*arguments, "--summary", str(tmp_path / "s.json")]) == 2
    found = read(tmp_path / "s.json")
    assert (found["state"], found["exit_status"]) == ("failed", 2)
    assert capsys.readouterr().err == f"faceq: {found['reason']}\n" and "no such file" in found["reason"]
    assert "rows" not in found  # it is not known


def test_a_bug_is_in_the_summary_and_its_traceback_in_the_log(tmp_path, monkeypatch, capsys):
    the_job(monkeypatch, lambda reporter: {}["frames"])
    assert score(tmp_path / "s.json", tmp_path / "t") == 1
    assert read(tmp_path / "s.json")["reason"] == "KeyError: 'frames'"
    assert capsys.readouterr().err.startswith("Traceback")


@pytest.mark.parametrize(
    ("place", "status", "said"),
    [
        ("none/s.json", 2, "there is no folder"),
        ("", 2, "it is a folder"),
        ("t/s.json", 2, "lies in the table"),
        ("t", 2, "lies in the table"),
        ("ftp://b/s.json", 2, "supported"),
    ],
)
def test_a_place_that_cannot_be_written_is_wrong_usage_before_the_job(
    place, status, said, tmp_path, monkeypatch, capsys
):
    the_job(monkeypatch, lambda reporter: pytest.fail("the job was run"))
    summary = place if "://" in place else tmp_path / place
    assert score(summary, tmp_path / "t") == status
    said_lines = capsys.readouterr().err.splitlines()
    assert len(said_lines) == 1 and said in said_lines[0]
    assert not list(tmp_path.iterdir())


def test_a_dry_run_has_no_summary(tmp_path, capsys):
    arguments = ["score", FACE, "--out", str(tmp_path / "t"), "--dry-run", "--summary", str(tmp_path / "s")]
    assert main.main(arguments) == 2 and "a dry run scores nothing" in capsys.readouterr().err


@needs_mounts
def test_a_disk_that_is_full_at_the_end_is_named_and_the_status_is_1(tmp_path, monkeypatch, capsys):
    with small_disk(tmp_path / "disk") as disk:
        the_job(monkeypatch, lambda reporter: fill(disk, 0) and done())
        assert score(disk / "s.json", tmp_path / "t") == 1
        out, err = capsys.readouterr()
        assert "one for each frame" in out
        assert err.startswith("faceq: the job is done and its table is complete, but not its summary: ")
        assert "No space left" in err and err.count("\n") == 1
        assert read(disk / "s.json")["state"] == "running"  # not a torn file


@needs_mounts
def test_a_full_disk_does_not_replace_the_error_of_the_job(tmp_path, monkeypatch, capsys):
    def fails(reporter):
        fill(disk, 0)
        raise FileNotFoundError("the frames are gone")

    with small_disk(tmp_path / "disk") as disk:
        the_job(monkeypatch, fails)
        assert score(disk / "s.json", tmp_path / "t") == 1
        first, last = capsys.readouterr().err.splitlines()
        assert first.startswith("faceq: the summary is missing: ") and "No space left" in first
        assert last == "faceq: the frames are gone"
