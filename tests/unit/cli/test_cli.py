"""The command line: exit statuses and output."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest
from here import score_here
from places import PHOTOS

from faceq.cli import main
from faceq.job import capacity, pipeline
from faceq.job.progress import Progress


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> str:
    return score_here(str(PHOTOS), str(tmp_path_factory.mktemp("cli") / "table"), fiq_threshold=0)


def test_score_prints_its_summary(light_job, tmp_path, capsys):
    assert main.main(["score", str(PHOTOS / "t1.jpg"), "--out", str(tmp_path / "t"), "--limit", "3"]) == 0
    printed = capsys.readouterr().out
    assert "read" in printed and "written, one for each frame" in printed


@pytest.mark.parametrize(
    ("said", "rows"), [(None, ""), (0, "0 rows written; "), (1228, "1,228 rows written; ")]
)
def test_a_stopped_job_says_how_many_rows_are_written(said, rows, tmp_path, monkeypatch, capfd):
    def stopped(config, overwrite, retry_unreadable, reporter):
        reporter.end(None if said is None else Progress(0, 1, 0, 0, 0, None, 2, written=said))
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    monkeypatch.setattr(pipeline, "score", stopped)
    assert main.main(["score", str(PHOTOS), "--out", str(tmp_path / "t")]) == 130
    end = f"stopped by Ctrl-C: {rows}run the same command again to continue\n"
    assert capfd.readouterr().err.endswith(end)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/not/there", "--out", "/tmp/t"], "/not/there: there is no such file"),
        ([str(PHOTOS)], "--out"),
        (["--out", "/tmp/t"], "no input given"),
        ([str(PHOTOS), "--out", "/tmp/t", "--preset", "embeded"], "unknown preset 'embeded'"),
        ([str(PHOTOS), "--out", "/tmp/t", "--config", "/none.yaml"], "no such file"),
        ([str(PHOTOS), "--out", str(PHOTOS)], "not a faceq table"),
        ([str(PHOTOS), "--out", str(PHOTOS / "t1.jpg")], "is a file"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments, said, capsys):
    assert main.main(["score", *arguments]) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1


def test_query_shows_rows_that_fulfil_the_condition(table, capsys):
    assert main.main(["query", table, "n_faces = 6", "--columns", "status,n_faces"]) == 0
    assert "1 of 1 rows" in capsys.readouterr().out
    assert main.main(["query", table, "--limit", "2"]) == 0
    assert "2 of 6 rows" in capsys.readouterr().out


def test_query_exports(table, tmp_path, capsys):
    for ending in ("parquet", "csv", "jsonl"):
        assert (
            main.main(["query", table, "status = 'scored'", "--export", str(tmp_path / f"x.{ending}")]) == 0
        )
    assert pq.read_table(tmp_path / "x.parquet").num_rows == 2
    lines = (tmp_path / "x.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["status"] for line in lines} == {"scored"}
    assert len((tmp_path / "x.csv").read_text(encoding="utf-8").splitlines()) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.csv", "x.jsonl", "x.parquet"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serfic > 0.5"], 'did you mean "serfiq"'),
        (["serfiq >"], "syntax error"),
        (["serfiq > 0", "--columns", "dbcn"], '"dbcnn"'),
        (["serfiq > 0", "--export", "x.xlsx"], ".parquet, .csv, .jsonl"),
    ],
)
def test_a_wrong_query_is_one_line_and_status_2(table, arguments, said, capsys):
    assert main.main(["query", table, *arguments]) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1


def test_unusual_names_are_printed_unchanged(tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "x[final].jpg").write_bytes((PHOTOS / "mask_blue.jpg").read_bytes())
    score_here(str(folder), str(tmp_path / "t"))
    assert main.main(["query", str(tmp_path / "t"), "--columns", "source"]) == 0
    assert "[final]" in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ("dbcnn: {num_gpus: 0.5}", "dbcnn requests 0.5 CPUs and 0.5 GPUs, and this machine has"),
        ("serfiq: {num_cpus: 400}", "400 CPUs, and this machine has"),
    ],
)
def test_requesting_more_than_the_machine_has_is_wrong_usage(tmp_path, resources, said):
    (tmp_path / "job.yaml").write_text(resources)
    command = [sys.executable, "-m", "faceq", "score", str(PHOTOS), "--out", str(tmp_path / "t")]
    done = subprocess.run(
        [*command, "--config", str(tmp_path / "job.yaml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]


def test_an_output_that_cannot_be_written_is_wrong_usage(capsys):
    assert main.main(["score", str(PHOTOS), "--out", "/dev/null/table"]) == 2
    assert "/dev/null/table: cannot be used" in capsys.readouterr().err


def test_storage_that_is_down_has_exit_status_1(tmp_path):
    nobody = {**os.environ, "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    for arguments in (["query", "s3://b/t"], ["score", str(PHOTOS), "--out", "s3://b/t"]):
        command = [sys.executable, "-m", "faceq", *arguments]
        done = subprocess.run(command, env=nobody, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "s3://b/t: cannot be used" in done.stderr and done.stderr.count("\n") == 1


def test_a_table_that_is_not_there(tmp_path, capsys):
    assert main.main(["query", str(tmp_path / "none")]) == 2
    assert "no faceq table here" in capsys.readouterr().err
    (tmp_path / "rows.parquet").touch()
    assert main.main(["query", str(tmp_path / "rows.parquet")]) == 2
    assert "it is a file, or lies below one: a table is a folder" in capsys.readouterr().err


COMMANDS = ("score", "query", "report", "inspect", "compact", "plan", "evaluate edc", "evaluate iqa")


@pytest.mark.parametrize("command", [*COMMANDS, "evaluate calibrate", "models pull"])
def test_help_has_examples_that_the_parser_accepts(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main.main([*command.split(), "--help"])
    assert ended.value.code == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    examples = [line for line in lines if line.startswith(f"faceq {command} ")]
    assert examples
    for example in examples:
        words = shlex.split(example.split("   (")[0])
        assert main._parser(words).parse_args(words[1:]).run


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ("edc", "image: the file name of the image or video, without folders; for a frame in a tar"),
        ("iqa", "image: the image's path below IMAGE_DIR"),
    ],
)
def test_help_says_how_a_list_names_an_image(action, said, capsys):
    with pytest.raises(SystemExit):
        main.main(["evaluate", action, "--help"])
    assert said in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--frames", "x"], "--frames: must be a whole number of 1 or more, not 'x'"),
        (["--frames", "0"], "--frames: must be a whole number of 1 or more, not '0'"),
        (["--frames", "10M"], "--frames: write the number in digits: 10000000, not '10M'"),
        (["--frames", "2.5k"], "--frames: write the number in digits: 2500, not '2.5k'"),
        (["--price-per-hour", "-3"], "--price-per-hour: must be an amount of money of 0 or more, not '-3'"),
        (["--price-per-hour", "nan"], "--price-per-hour: must be an amount of money of 0 or more, not 'nan'"),
        (["--price-per-hour", "x"], "--price-per-hour: must be an amount of money of 0 or more, not 'x'"),
    ],
)
def test_a_number_that_makes_no_sense_is_wrong_usage_in_words(arguments, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main.main(["plan", "--gpu", "g5", "--frames", "9", *arguments])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_plan_names_each_machine_that_it_knows(capsys):
    with pytest.raises(SystemExit):
        main.main(["plan", "--help"])
    shown = re.findall(r"[a-z]\d\w*\.\d*xlarge", capsys.readouterr().out.split("examples:")[0])
    assert shown == [machine.name for machine in capacity.MACHINES]


def test_a_licence_may_be_spelled_as_a_license():
    for spelling in ("--accept-licence", "--accept-license"):
        words = ["score", "in", spelling]
        assert main._parser(words).parse_args(words).accept_licence


def test_a_reader_that_closes_the_pipe_is_no_error(table):
    command = f"{sys.executable} -m faceq query {table} --columns source | true"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
