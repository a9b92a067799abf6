"""Rows by a condition: which rows are found, which files are read, and errors for mistakes."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter

import boto3
import pyarrow.parquet as pq
import pytest
import s3fs
from here import score_here, write_as_before
from real_s3 import BUCKET

import faceq
from faceq.cli import main
from faceq.errors import StorageError, UsageError
from faceq.query import compact
from faceq.query.rows import Rows
from faceq.storage.filesystem import filesystem
from faceq.storage.settings import S3Settings
from faceq.table.schema import SCHEMA, STATUSES
from faceq.table.store import Table, status_of
from jobs.training import synthetic


@pytest.fixture(scope="module")
def rows(looked_at) -> list[dict]:
    return Table(looked_at, S3Settings()).rows(SCHEMA.names).to_pylist()


@pytest.fixture(scope="module")
def long(tmp_path_factory) -> str:
    """A table of 200,000 made-up rows in row groups of 5,000."""
    folder = tmp_path_factory.mktemp("long") / "table"
    synthetic.write(folder, 200_000, rows_per_group=5_000)
    return str(folder)


def scan(uri: str, statement: str) -> dict:
    """What DuckDB reports to have read from the table's files for a statement."""
    with Rows(uri, S3Settings()) as opened:
        plan = json.loads(opened.sql(f"explain (analyze, format json) {statement}").fetchall()[0][1])
    below = [plan]
    for step in below:
        below.extend(step.get("children", step.get("operator", [])))
    (scanned,) = [step for step in below if step.get("type") == "TABLE_SCAN"]
    return {**scanned, "bytes": plan["io"]["total_bytes_read"]}


def test_read_table_gives_the_rows_that_fulfil_the_condition(looked_at, rows):
    good = faceq.read_table(looked_at, "serfiq >= 0.6 and dbcnn >= 40")
    wanted = [r["frame_id"] for r in rows if (r["serfiq"] or 0) >= 0.6 and (r["dbcnn"] or 0) >= 40]
    assert sorted(good["frame_id"].to_pylist()) == sorted(wanted) and 0 < len(good) < len(rows)


def test_read_table_has_the_types_of_the_contract(looked_at, rows):
    table = faceq.read_table(looked_at)
    assert [(f.name, f.type) for f in table.schema] == [(f.name, f.type) for f in SCHEMA]
    assert sorted(table.to_pylist(), key=str) == sorted(rows, key=str)
    assert set(table["status"].to_pylist()) == set(STATUSES)
    assert faceq.read_table(looked_at, columns=["dbcnn", "source"]).column_names == ["dbcnn", "source"]


def test_only_the_partition_and_the_columns_named_are_read(long):
    files = Table(long, S3Settings()).row_files()
    scored = [path for path in files if "status=scored" in path]
    found = scan(long, "select max(dbcnn) from frames where status = 'scored'")
    assert int(found["extra_info"]["Total Files Read"]) == len(scored) < len(files)
    size = sum(os.path.getsize(path) for path in scored)
    assert found["bytes"] < size / 5


@pytest.mark.parametrize("above", ["source=web", "date=2026-01-01", "status=new"])
def test_folders_above_the_table_make_no_columns(looked_at, rows, tmp_path, above):
    place = shutil.copytree(looked_at, tmp_path / above / "t")
    table = faceq.read_table(str(place))
    assert sorted(table.to_pylist(), key=str) == sorted(rows, key=str)
    assert table.column_names == SCHEMA.names
    scored = [r for r in rows if r["status"] == "scored"]
    assert len(faceq.read_table(str(place), "status = 'scored'")) == len(scored)


def test_row_groups_that_cannot_fulfil_the_condition_are_skipped(long):
    one = scan(long, "select dbcnn from frames where source = '/data/videos/clip-0000123.mp4'")
    assert one["total_row_groups_to_scan"] > 30
    assert one["row_groups_scanned"] <= one["total_row_groups_to_scan"] / 5
    none = scan(long, "select source from frames where dbcnn > 100")
    assert none["row_groups_scanned"] == 0
    everything = scan(long, "select sum(dbcnn) from frames")
    assert everything["row_groups_scanned"] == everything["total_row_groups_to_scan"]


def test_order_limit_and_columns(looked_at, rows, capsys):
    assert main.main(
        ["query", looked_at, "dbcnn is not null", "--columns", "member,dbcnn", "--order-by", "dbcnn desc",
         "--limit", "3"]
    ) == 0  # fmt: skip
    head, *lines, total = capsys.readouterr().out.splitlines()
    assert head.split() == ["member", "dbcnn"]
    best = sorted((r["dbcnn"] for r in rows if r["dbcnn"] is not None), reverse=True)
    assert [line.split()[-1] for line in lines] == [f"{value:.3f}" for value in best[:3]]
    assert total == f"3 of {len(best)} rows"


def test_count_prints_a_number_for_scripts(looked_at, rows, capsys):
    assert main.main(["query", looked_at, "status = 'unreadable'", "--count"]) == 0
    unreadable = [r for r in rows if r["status"] == "unreadable"]
    assert capsys.readouterr().out == f"{len(unreadable)}\n"


def test_sql_statements_see_the_view_frames(looked_at, rows, capsys):
    statement = "select status, count(*) as n from frames group by status order by status"
    assert main.main(["query", looked_at, "--sql", statement]) == 0
    head, *lines, total = capsys.readouterr().out.splitlines()
    found = {line.split()[0]: int(line.split()[1]) for line in lines}
    assert found == {s: sum(r["status"] == s for r in rows) for s in STATUSES}
    assert head.split() == ["status", "n"] and total == "5 of 5 rows"


def test_the_columns_of_video_frames_are_shown_where_there_are_any(looked_at, rows, capsys):
    assert main.main(["query", looked_at, "source like '%.mp4'", "--limit", "2"]) == 0
    head, *lines, _ = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["source", "member", "frame_index", "timestamp_s"]
    times = {f"{r['timestamp_s']:.3f}" for r in rows if r["timestamp_s"] is not None}
    assert len(lines) == 2 and all(times & set(line.split()) for line in lines)
    assert main.main(["query", looked_at, "source like '%.jpg'"]) == 0
    assert capsys.readouterr().out.split()[:3] == ["source", "member", "status"]
    assert main.main(["query", looked_at, "source like '%.mp4'", "--columns", "timestamp_s"]) == 0
    assert capsys.readouterr().out.split()[0] == "timestamp_s"


def test_sql_beside_what_belongs_into_it_is_refused(looked_at, capsys):
    assert main.main(["query", looked_at, "serfiq > 0", "--limit", "3", "--sql", "select 1"]) == 2
    said = capsys.readouterr().err
    assert "put the condition, --limit into it" in said
    assert main.main(["query", looked_at, "--sql", said.split('such as "')[1].rstrip('"\n')]) == 0


def test_a_query_without_rows_shows_the_columns_and_the_range_of_the_scores(looked_at, rows, capsys):
    statement = "select source, dbcnn from frames where serfiq > 2"
    assert main.main(["query", looked_at, "--sql", statement]) == 0
    shown = capsys.readouterr()
    assert shown.out.split() == ["source", "dbcnn", "0", "of", "0", "rows"]
    assert shown.err == ""
    assert main.main(["query", looked_at, "serfiq >= 2"]) == 0
    shown, values = capsys.readouterr(), [r["serfiq"] for r in rows if r["serfiq"] is not None]
    assert shown.out.startswith("source ") and shown.out.endswith("\n0 of 0 rows\n")
    said = f"in this table, serfiq is between {min(values):.3f} and {max(values):.3f}\n"
    assert shown.err == f"faceq: no row fulfils the condition; {said}"
    assert main.main(["query", looked_at, "status = 'none'"]) == 0
    assert capsys.readouterr().err == ""


def test_a_long_result_shows_its_beginning_and_its_length(long, capsys):
    assert main.main(["query", long, "--sql", "select source from frames"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 22 and lines[-1] == "20 of 200,000 rows"


def test_exports_of_conditions_and_of_statements(looked_at, rows, tmp_path):
    scored = [r for r in rows if r["status"] == "scored"]
    for ending in ("parquet", "csv", "jsonl"):
        target = str(tmp_path / f"x.{ending}")
        assert main.main(["query", looked_at, "status = 'scored'", "--export", target]) == 0
    assert pq.read_table(tmp_path / "x.parquet").num_rows == len(scored)
    lines = (tmp_path / "x.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["frame_id"] for line in lines} == {r["frame_id"] for r in scored}
    with open(tmp_path / "x.csv", encoding="utf-8", newline="") as file:
        assert {int(line["frame_id"]) for line in csv.DictReader(file)} == {r["frame_id"] for r in scored}
    counted = str(tmp_path / "n.csv")
    assert main.main(["query", looked_at, "--sql", "select count(*) n from frames", "--export", counted]) == 0
    assert (tmp_path / "n.csv").read_text(encoding="utf-8") == f"n\n{len(rows)}\n"
    assert len(list(tmp_path.iterdir())) == 4


def test_an_export_that_fails_leaves_nothing(looked_at, tmp_path, capsys):
    target = tmp_path / "x.parquet"
    assert main.main(["query", looked_at, "error::int = 1", "--export", str(target)]) == 2
    assert main.main(["query", looked_at, "--export", str(tmp_path / "none" / "x.csv")]) == 2
    assert "x.csv" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serfic > 0.5"], 'there is no column "serfic": did you mean "serfiq"?'),
        (["SERFIC > 0.5"], 'did you mean "serfiq"?'),
        (["serfiq > 0", "--columns", "dbcn"], 'did you mean "dbcnn"?'),
        (["serfiq > 0", "--order-by", "yow"], 'did you mean "yaw"?'),
        (['status = "scored"'], "single quotes"),
        (["--sql", "select medain(serfiq) from frames"], 'Did you mean "median"'),
        (["--sql", "select 1 from frame"], 'Did you mean "frames"'),
        (["--sql", "select * from rows"], "rows does not exist"),
        (["--sql", "create table x (i int)"], "takes one SELECT"),
        (["serfiq >"], "syntax error"),
        (["serfiq > 0", "--sql", "select 1"], "--sql is a whole statement"),
        (["serfiq > 0", "--export", "x.xlsx"], ".parquet, .csv, .jsonl"),
    ],
)
def test_a_mistake_is_one_line_with_the_fix(looked_at, arguments, said, capsys):
    assert main.main(["query", looked_at, *arguments]) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1


def test_read_table_raises_a_usage_error(looked_at, tmp_path):
    with pytest.raises(UsageError, match='did you mean "dbcnn"'):
        faceq.read_table(looked_at, "dbcn > 1")
    with pytest.raises(UsageError, match="no faceq table here"):
        faceq.read_table(str(tmp_path))


def test_a_table_on_s3_needs_no_extension_and_takes_exports(s3, photos, tmp_path, capsys):
    for name in ("t1.jpg", "mask_blue.jpg"):
        boto3.client("s3").upload_file(str(photos / name), BUCKET, f"query/in/{name}")
    uri = score_here(f"{s3}/query/in", f"{s3}/query/table")
    assert faceq.read_table(uri, "status = 'scored'", ["n_faces"]).to_pylist() == [{"n_faces": 6}]
    assert main.main(["query", uri, "--count"]) == 0
    assert main.main(["query", uri, "--export", f"{s3}/query/out.csv", "--columns", "status"]) == 0
    assert capsys.readouterr().out.startswith("2\n")
    boto3.client("s3").download_file(BUCKET, "query/out.csv", str(tmp_path / "out.csv"))
    assert sorted((tmp_path / "out.csv").read_text(encoding="utf-8").split()) == [
        *("no_face", "scored", "status"),
    ]


def test_no_request_repeats_what_the_s3_listing_returned(s3, tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "VIDEOS_PER_FILE", 10)
    synthetic.write(tmp_path / "table", 100_000)
    uri = f"{s3}/query/many"
    filesystem(uri, S3Settings()).put(f"{tmp_path}/table/", f"{uri}/", recursive=True)
    files = Table(uri, S3Settings()).row_files()
    scored = [path for path in files if status_of(path) == "scored"]
    asked: Counter[str] = Counter()
    ask = s3fs.S3FileSystem._call_s3

    async def noted(self, method, *given, **options):
        asked[method] += 1
        return await ask(self, method, *given, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", noted)
    assert len(faceq.read_table(uri, "status = 'scored'", ["dbcnn"])) > 50_000
    assert len(files) > 40 and len(scored) == 20
    assert asked["head_object"] <= 1
    assert asked["get_object"] < 3 * len(scored)  # DuckDB opens each file twice
    asked.clear()
    assert len(Table(uri, S3Settings()).frame_ids()) == 100_000
    assert asked["head_object"] <= 1 and asked["get_object"] <= 2 * len(files) + 1


def test_a_file_that_is_deleted_while_a_table_on_s3_is_read(s3, tmp_path):
    synthetic.write(tmp_path / "table", 5_000)
    uri = f"{s3}/query/changing"
    files = filesystem(uri, S3Settings())
    files.put(f"{tmp_path}/table/", f"{uri}/", recursive=True)
    with Rows(uri, S3Settings()) as rows:
        boto3.client("s3").delete_object(
            Bucket=BUCKET, Key="query/changing/status=scored/synthetic-000000.parquet"
        )
        with pytest.raises(
            StorageError, match=f"^{uri}: cannot be used: FileNotFoundError.* run the query again$"
        ) as told:
            rows.arrow(rows.chosen("status = 'scored'"))
    assert "\n" not in str(told.value)


def test_no_colours_and_whole_lines_in_a_pipe(looked_at):
    command = [sys.executable, "-m", "faceq", "query", looked_at, "--columns", "source,error"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stdout
    assert all(re.match(r"/|source|20 of", line) for line in done.stdout.splitlines())


def test_a_table_of_two_versions_has_the_columns_of_both(looked_at, tmp_path):
    """A file written by an older version lacks a column. Its rows have null in it."""
    place = tmp_path / "table"
    whole = faceq.read_table(looked_at, "status = 'scored'")
    (place / "status=scored").mkdir(parents=True)
    (place / "_faceq").mkdir()
    for version, columns in (("0.0.9", ["frame_id", "source", "landmarks"]), ("0.1.0", SCHEMA.names)):
        part = whole.select([name for name in columns if name != "status"])
        pq.write_table(part, place / "status=scored" / f"{version}.parquet")
        record = {"run_id": version, "version": version, "input": [], "config": {}}
        (place / "_faceq" / f"run-{version}.json").write_text(json.dumps(record))
    for found in (faceq.read_table(str(place)), Table(str(place), S3Settings()).rows(SCHEMA.names)):
        assert found["dbcnn"].null_count == len(whole) and len(found) == 2 * len(whole)
        assert found["frame_id"].null_count == 0 and found["status"].unique().to_pylist() == ["scored"]


@pytest.mark.parametrize("old", ["scored", "status=[nu]"])
def test_files_whose_landmarks_have_a_fixed_size_are_read_beside_others(looked_at, rows, old, tmp_path):
    """Older versions of faceq wrote such files. A job that continues in such a table writes plain lists."""
    place = str(shutil.copytree(looked_at, tmp_path / "table"))
    for path in Table(place, S3Settings()).row_files():
        if re.search(old, path):
            write_as_before(path)
    compact.compact(place, f"{place}-compacted", S3Settings())
    for part in (place, f"{place}-compacted"):
        found = faceq.read_table(part)
        assert [(f.name, f.type) for f in found.schema] == [(f.name, f.type) for f in SCHEMA]
        assert sorted(found.to_pylist(), key=str) == sorted(rows, key=str)
        known = faceq.read_table(part, "landmarks[1] > 0")
        assert len(known) == sum(row["landmarks"] is not None for row in rows) > 0
        whole = Table(part, S3Settings()).rows(SCHEMA.names)
        assert sorted(whole.to_pylist(), key=str) == sorted(rows, key=str)
