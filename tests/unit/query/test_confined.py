"""What no query may do: read other files, write files, change settings, load code."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_s3 import BUCKET, small_s3

import faceq
from faceq.cli import main
from faceq.errors import UsageError
from faceq.query.rows import Rows
from faceq.storage.settings import S3Settings
from jobs.training import synthetic

SECRET = "s3cr3t"
planted = pa.table({"text": [SECRET]})  # a table name in a query must not resolve to this variable


@pytest.fixture
def place(tmp_path) -> Path:
    """A table, and files around it that queries must neither read nor change."""
    synthetic.write(tmp_path / "table", 1_000)
    (tmp_path / "secret.txt").write_text(SECRET)
    (tmp_path / "secret.csv").write_text(f"text\n{SECRET}\n")
    (tmp_path / "secret.json").write_text(f'{{"text": "{SECRET}"}}')
    pq.write_table(planted, tmp_path / "secret.parquet")
    (tmp_path / "table" / "_faceq" / "note.txt").write_text(SECRET)
    (tmp_path / "table" / "status=scored" / "link.txt").symlink_to(tmp_path / "secret.txt")
    return tmp_path


READ = [
    "select * from read_text('{place}/secret.txt')",
    "select * from read_text('{scored}/link.txt')",
    "select * from read_text('{scored}/../../secret.txt')",
    "select * from read_text('{table}/_faceq/note.txt')",
    "select * from read_text(['{place}/secret.txt'])",
    "select * from read_blob('{place}/secret.txt')",
    "select * from glob('{place}/*')",
    "select * from read_csv('{place}/secret.csv')",
    "select * from sniff_csv('{place}/secret.csv')",
    "select * from read_json('{place}/secret.json')",
    "select * from read_json_objects('{place}/secret.json')",
    "select * from '{place}/secret.parquet'",
    "select * from '{place}/*.csv'",
    "select * from parquet_metadata('{place}/secret.parquet')",
    "select * from read_duckdb('{place}/secret.txt')",
    "select * from query('select * from read_text(''{place}/secret.txt'')')",
    "select * from query_table('{place}/secret.parquet')",
    "select * from json_execute_serialized_sql(json_serialize_sql("
    "'select * from read_text(''{place}/secret.txt'')'))",
    "describe select * from read_csv('{place}/secret.csv')",
    "select * from read_text('https://example.com/')",
    "select * from 's3://bucket/secret.parquet'",
    "select * from planted",
    "select * from tests.planted",
    "select * from duckdb_secrets()",
    "select * from duckdb_extensions()",
    "select getenv('HOME')",
    "select 1; select * from read_text('{place}/secret.txt')",
]

WRITE = [
    "copy (select 1) to '{place}/new'",
    "copy frames to '{scored}/new.parquet'",
    "explain analyze copy (select 1) to '{place}/new'",
    "explain analyze copy (select 1) to '{scored}/new.parquet'",
    "explain copy (select 1) to '{scored}/new.parquet'",
    "explain (analyze) copy (select 1) to '{scored}/new.parquet'",
    "explain analyze with x as (copy (select 1) to '{scored}/new.parquet') select * from x",
    "explain /* select */ analyze copy (select 1) to '{scored}/new.parquet'",
    "explain analyze create table x (i int)",
    "explain analyze select 1; copy (select 1) to '{scored}/new.parquet'",
    "with x as (copy (select 1) to '{place}/new') select * from x",
    "with x as (copy (select 1) to '{scored}/new.parquet') select * from x",
    "with y as (with x as (copy (select 1) to '{scored}/new.parquet') select * from x) select * from y",
    "select * from (with x as (copy (select 1) to '{scored}/new.parquet') select * from x)",
    "with x as (copy (select 1) to '{scored}/new.parquet') select 1 union all select 2",
    "with x as (insert into frames select * from frames returning 1) select * from x",
    "with x as (delete from frames returning 1) select * from x",
    "prepare p as copy (select 1) to '{scored}/new.parquet'",
    "select 1; copy (select 1) to '{scored}/new.parquet'",
    "copy (select 1) to '{scored}/new.parquet'; select 1",
    "select * from query('copy (select 1) to ''{scored}/new.parquet''')",
    "select * from enable_logging(storage := 'file', storage_path := '{scored}/new')",
    "select * from enable_profiling(format := 'json', save_location := '{scored}/new.json')",
    "call enable_logging(storage := 'file', storage_path := '{scored}/new')",
    "export database '{scored}/new'",
    "attach '{scored}/new.db' as x",
    "attach ':memory:' as x",
    "create table x (i int)",
    "create macro m() as table select * from read_text('{place}/secret.txt')",
    "create secret (type s3)",
    "drop view frames",
    "insert into frames select * from frames",
    "vacuum",
    "checkpoint",
    "begin",
]

CHANGE = [
    "install httpfs",
    "load httpfs",
    "load '{place}/secret.txt'",
    "set enable_external_access = true",
    "set lock_configuration = false",
    "set allowed_directories = ['/']",
    "reset allowed_paths",
    "set temp_directory = '{place}/new'",
    "set python_enable_replacements = true",
    "set autoload_known_extensions = true",
    "set memory_limit = '1TB'",
    "set variable x = 1",
    "pragma database_list",
    "pragma enable_profiling",
    "use memory",
    "select * from disable_logging()",
    "import database '{place}'",
    "select " + "not " * 900 + "true",
    ";",
    "/* nothing */",
]


def below(folder: Path) -> dict[str, bytes]:
    found = (Path(where, name) for where, _, names in os.walk(folder) for name in names)
    return {str(path): path.read_bytes() for path in found}


def fill(statement: str, place: Path) -> str:
    table = place / "table"
    return statement.format(place=place, table=table, scored=table / "status=scored")


@pytest.mark.parametrize("statement", [*READ, *WRITE, *CHANGE])
def test_no_statement_can_access_other_files_or_settings(place, statement, capsys):
    before = below(place)
    assert main.main(["query", str(place / "table"), "--sql", fill(statement, place)]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and SECRET not in said.err + said.out
    assert below(place) == before


READ_BY_PART = [
    ["exists (select * from read_text('{place}/secret.txt'))"],
    ["source = (select content from read_text('{place}/secret.txt'))"],
    ["true) or exists (select * from read_csv('{place}/secret.csv')"],
    ["true; copy (select 1) to '{scored}/new.parquet'"],
    ["exists (with x as (copy (select 1) to '{scored}/new.parquet') select * from x)"],
    ["true union select * from read_text('{place}/secret.txt')"],
    ["true", "--order-by", "(select content from read_text('{place}/secret.txt'))"],
    ["true", "--order-by", "1; copy (select 1) to '{scored}/new.parquet'"],
    ["true", "--columns", "(select content from read_text('{place}/secret.txt'))"],
    ["true", "--columns", "\" from read_text('{place}/secret.txt') --"],
]


@pytest.mark.parametrize("output", [[], ["--count"], ["--export"], ["--export-shards"]])
@pytest.mark.parametrize("arguments", READ_BY_PART)
def test_no_condition_order_or_column_can_access_other_files(place, arguments, output, capsys):
    if output == ["--count"] and len(arguments) > 1:
        pytest.skip("a count has neither an order nor columns")
    before = below(place)
    to = [str(place / "x.csv")] if output == ["--export"] else [str(place / "x")]
    to = to if output and output != ["--count"] else []
    filled = [fill(each, place) for each in arguments]
    assert main.main(["query", str(place / "table"), *filled, *output, *to]) == 2
    said = capsys.readouterr()
    assert SECRET not in said.err + said.out
    assert {path: each for path, each in below(place).items() if "/x/_faceq/" not in path} == before


def test_the_message_says_what_can_be_read(place, capsys):
    statement = f"select * from read_text('{place}/secret.txt')"
    assert main.main(["query", str(place / "table"), "--sql", statement]) == 2
    assert f"query: can read only the table's own files, not {place}/secret.txt" in capsys.readouterr().err


@pytest.mark.parametrize(
    "statement",
    [
        *("from frames", "describe frames", "summarize frames", "values (1)", "explain from frames"),
        "Explain Analyze select max(dbcnn) from frames where status = 'scored'",
        "explain (analyze, format json) select 1",
    ],
)
def test_read_only_statements_work(place, statement):
    with Rows(str(place / "table"), S3Settings()) as rows:
        assert len(rows.arrow(rows.sql(statement))) > 0


@pytest.mark.parametrize("name", ["we[i]rd", "a*b", "it's", "new\nline", "back\\slash", "%41", "..x"])
def test_a_table_in_an_oddly_named_folder_can_be_read(place, name):
    moved = (place / "table").rename(place / name)
    assert len(faceq.read_table(str(moved))) == 1_000


def test_a_table_behind_links_can_be_read(place):
    (place / "link").symlink_to(place / "table")
    assert len(faceq.read_table(str(place / "link"))) == 1_000
    for path in (place / "table").glob("status=*/*.parquet"):
        (place / "elsewhere").mkdir(exist_ok=True)
        moved = path.rename(place / "elsewhere" / f"{path.parent.name}-{path.name}")
        path.symlink_to(moved)
    assert len(faceq.read_table(str(place / "table"))) == 1_000


def test_on_s3_too_only_the_table_can_be_read(place):
    inside = {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}
    with small_s3(inside) as store:
        uri = f"s3://{BUCKET}/table"
        assert len(faceq.read_table(uri, s3=store.settings)) == 1_000
        with Rows(uri, store.settings) as rows:
            for other in ("secret.txt", "table/_faceq/note.txt", "table/*/*", "table/../secret.txt"):
                with pytest.raises(UsageError, match="can read only the table's own files"):
                    rows.arrow(rows.sql(f"select * from read_text('s3://{BUCKET}/{other}')"))
            with pytest.raises(UsageError, match="can read only the table's own files"):
                rows.arrow(rows.sql(f"select * from read_text('{place}/secret.txt')"))
            # On S3, `..` is an ordinary name: this requests another object, which does not exist.
            apart = f"select * from read_text('s3://{BUCKET}/table/status=scored/../../secret.txt')"
            assert len(rows.arrow(rows.sql(apart))) == 0
        assert not any(each.key == "secret.txt" for each in store.asked)
        assert {each.method for each in store.asked} <= {"GET", "HEAD"}


def test_data_that_does_not_fit_into_memory_is_spilled_to_a_private_folder(place, monkeypatch):
    (place / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place / "tmp"))
    seen = []
    with Rows(str(place / "table"), S3Settings(), memory_limit="64MB", threads=1) as rows:
        (folder,) = (place / "tmp").iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
        many = rows.sql("select i, md5(i::varchar) as m from range(3000000) t(i) order by m")
        for batch in rows.batches(many, 100_000):
            assert len(batch)
            seen += [path.name for path in folder.iterdir()]
    assert seen and list((place / "tmp").iterdir()) == []


def test_a_query_does_not_see_the_python_variables_of_its_caller(place):
    done = subprocess.run(
        [sys.executable, "-c", "import pandas, faceq, sys\n"
         f"planted = pandas.DataFrame({{'text': ['{SECRET}']}})\n"
         f"faceq.read_table({str(place / 'table')!r}, 'exists (from planted)')"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "planted does not exist" in done.stderr
