"""The command line: exit statuses and what people read."""

import json

import pyarrow.parquet as pq
import pytest
from conftest import PHOTOS

from faceq import cli


@pytest.fixture(scope="module")
def table(local_ray, tmp_path_factory) -> str:
    out = str(tmp_path_factory.mktemp("cli") / "table")
    assert cli.main(["score", str(PHOTOS), "--out", out, "--fiq-threshold", "0"]) == 0
    return out


def test_score_prints_its_summary(local_ray, tmp_path, capsys):
    assert cli.main(["score", str(PHOTOS / "t1.jpg"), "--out", str(tmp_path / "t"), "--limit", "3"]) == 0
    printed = capsys.readouterr().out
    assert "frames in" in printed and "= frames" in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/not/there", "--out", "/tmp/t"], "/not/there: there is no such file"),
        ([str(PHOTOS)], "--out"),
        (["--out", "/tmp/t"], "no input given"),
        ([str(PHOTOS), "--out", "/tmp/t", "--preset", "embeded"], "no preset is called 'embeded'"),
        ([str(PHOTOS), "--out", "/tmp/t", "--config", "/none.yaml"], "no such file"),
        ([str(PHOTOS), "--out", str(PHOTOS)], "not a faceq table"),
        ([str(PHOTOS), "--out", str(PHOTOS / "t1.jpg")], "is a file"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments, said, capsys):
    assert cli.main(["score", *arguments]) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1


def test_query_shows_rows_that_fulfil_the_condition(table, capsys):
    assert cli.main(["query", table, "n_faces = 6", "--columns", "status,n_faces"]) == 0
    assert "1 of 1 rows" in capsys.readouterr().out
    assert cli.main(["query", table, "--limit", "2"]) == 0
    assert "2 of 6 rows" in capsys.readouterr().out


def test_query_exports(table, tmp_path, capsys):
    for ending in ("parquet", "csv", "jsonl"):
        assert cli.main(["query", table, "status = 'scored'", "--export", str(tmp_path / f"x.{ending}")]) == 0
    assert pq.read_table(tmp_path / "x.parquet").num_rows == 2
    lines = (tmp_path / "x.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["status"] for line in lines} == {"scored"}
    assert len((tmp_path / "x.csv").read_text(encoding="utf-8").splitlines()) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.csv", "x.jsonl", "x.parquet"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serfic > 0.5"], '"serfiq"'),
        (["serfiq >"], "syntax error"),
        (["serfiq > 0", "--columns", "dbcn"], '"dbcnn"'),
        (["serfiq > 0", "--export", "x.xlsx"], ".parquet, .csv, .jsonl"),
    ],
)
def test_a_wrong_query_is_one_line_and_status_2(table, arguments, said, capsys):
    assert cli.main(["query", table, *arguments]) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1


def test_a_table_that_is_not_there(tmp_path, capsys):
    assert cli.main(["query", str(tmp_path / "none")]) == 2
    assert "no faceq table here" in capsys.readouterr().err
