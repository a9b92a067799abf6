"""Other programs read tables and exports correctly."""

import csv
import json
import os
from datetime import datetime
from decimal import Decimal
from functools import partial

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from here import write_rows

from faceq.cli import main
from faceq.query.export import export
from faceq.query.rows import Rows
from faceq.storage.settings import S3Settings
from faceq.table.schema import EMBEDDING, SCHEMA
from faceq.table.store import Table
from jobs.benchmarks import readers
from jobs.benchmarks.check_readers import by_id


@pytest.fixture(scope="module")
def table(looked_at, tmp_path_factory) -> str:
    """A table with embeddings. Every nullable column has nulls and values."""
    rows = Table(looked_at, S3Settings()).rows(SCHEMA.names)
    generator = np.random.default_rng(3)
    made = [
        None if row is None else generator.normal(size=128).astype(np.float32)
        for row in rows["serfiq"].to_pylist()
    ]
    rows = rows.append_column(EMBEDDING, pa.array(made, EMBEDDING.type))
    for field in rows.schema:
        assert not field.nullable or 0 < rows[field.name].null_count < len(rows), field.name
    place = Table(str(tmp_path_factory.mktemp("export") / "table"), S3Settings())
    place.put_record({**Table(looked_at, S3Settings()).record(), "embeddings": True})
    write_rows(rows, place, "1")
    return place.uri


@pytest.fixture(scope="module")
def expected(table) -> dict[int, dict]:
    return by_id(Table(table, S3Settings()).rows([*SCHEMA.names, "embedding"]).to_pylist())


@pytest.fixture(scope="module")
def exported(table, tmp_path_factory) -> str:
    path = str(tmp_path_factory.mktemp("exported") / "all.parquet")
    assert main.main(["query", table, "--export", path]) == 0
    return path


@pytest.mark.parametrize("reader", readers.READERS)
@pytest.mark.parametrize("of", ["table", "exported"])
def test_every_reader_finds_every_value(reader, of, expected, request):
    assert by_id(readers.READERS[reader](request.getfixturevalue(of))) == expected


def test_columns_of_an_export_have_the_types_of_the_contract(exported):
    stored = pq.ParquetFile(exported)
    wanted = SCHEMA.append(EMBEDDING)
    assert {field.name: field.type for field in stored.schema_arrow} == {f.name: f.type for f in wanted}
    assert stored.metadata.row_group(0).column(0).compression == "ZSTD"


def test_lines_of_json_hold_every_value(table, expected, tmp_path):
    path = tmp_path / "all.jsonl"
    assert main.main(["query", table, "--export", str(path)]) == 0
    lines = path.read_text(encoding="utf-8").splitlines()
    assert by_id(json.loads(line) for line in lines) == expected


def test_csv_holds_every_value_and_lists_as_json(table, expected, tmp_path):
    path = tmp_path / "all.csv"
    assert main.main(["query", table, "--export", str(path)]) == 0
    with open(path, encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(expected)
    for line in lines:
        for name, value in expected[int(line["frame_id"])].items():
            if isinstance(value, float) and name != "timestamp_s":
                assert np.float32(line[name]) == np.float32(value)
            elif isinstance(value, list):
                assert (np.float32(json.loads(line[name])) == np.float32(value)).all()
            else:
                assert line[name] == ("" if value is None else str(value))


TYPES = {
    "[1, 2]::FLOAT[2]": [1.0, 2.0],
    "[[1, null]::FLOAT[2], null]": [[1.0, None], None],
    "{'a': [0.5::FLOAT]::FLOAT[1], 'b c': 1::HUGEINT}": {"a": [0.5], "b c": 1},
    "sum(width)": 2**53 + 1,
    "count(*)": 1,
    "9223372036854775807::BIGINT": 2**63 - 1,
    "18446744073709551615::UBIGINT": 2**64 - 1,
    "12.34::DECIMAL(10, 2)": Decimal("12.34"),
    "TIMESTAMP '2026-01-02 03:04:05.000006'": datetime(2026, 1, 2, 3, 4, 5, 6),
    "'b'::ENUM('a', 'b')": "b",
    "INTERVAL 3 MONTH": "3 months",
    "'00112233-4455-6677-8899-aabbccddeeff'::UUID": "00112233-4455-6677-8899-aabbccddeeff",
    "'101'::BIT": "101",
    "'\\x00\\xff'::BLOB": b"\x00\xff",
    "union_value(k := 1)": "1",
    "TIMETZ '01:02:03+01'": "01:02:03+01",
    "row(1, 'x')": "(1, x)",
    "null": None,
    "'nan'::FLOAT": float("nan"),
}
"""SQL expressions, and the values that readers of the exported Parquet file get."""


@pytest.fixture(scope="module")
def typed(table) -> str:
    """A statement with a column for each of TYPES: c0, c1, …"""
    columns = ", ".join(f"{sql} AS c{number}" for number, sql in enumerate(TYPES))
    return f"select {columns} from (select 9007199254740993 as width, 'x' as unused)"


def test_other_programs_read_the_result_of_any_statement(table, typed, tmp_path):
    path = str(tmp_path / "typed.parquet")
    assert main.main(["query", table, "--sql", typed, "--export", path]) == 0
    (found,) = pq.read_table(path).to_pylist()
    assert repr(list(found.values())) == repr(list(TYPES.values()))
    for read in (pl.read_parquet, pd.read_parquet, duckdb.read_parquet):
        assert read(path).shape == (1, len(TYPES))


def test_json_has_no_nan_and_no_infinity(table, tmp_path):
    path = tmp_path / "x.jsonl"
    statement = (
        "select 'nan'::FLOAT a, '-inf'::DOUBLE b, ['inf'::FLOAT, 1, null] c, {'d e': 'nan'::DOUBLE, 'f': 1} g"
        ", map {'h': ['nan'::FLOAT]} i, null::STRUCT(x FLOAT) j, null::FLOAT[] k, [[{'m': 'inf'::FLOAT}]] n, "
        "['nan'::FLOAT, 2]::FLOAT[2] l, 9223372036854775807 o, 123456789012345678901234567890::HUGEINT p"
    )
    assert main.main(["query", table, "--sql", statement, "--export", str(path)]) == 0

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    (line,) = path.read_text(encoding="utf-8").splitlines()
    assert json.loads(line, parse_constant=refuse) == {
        **{"a": None, "b": None, "c": [None, 1.0, None], "g": {"d e": None, "f": 1}, "i": {"h": [None]}},
        **{"j": None, "k": None, "l": [None, 2.0], "n": [[{"m": None}]], "o": 2**63 - 1},
        "p": 123456789012345678901234567890,
    }


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_duplicate_column_names_get_a_number(table, ending, tmp_path):
    path = str(tmp_path / f"x.{ending}")
    statement = 'select 1 as a, 2 as a, 3 as " b"'
    assert main.main(["query", table, "--sql", statement, "--export", path]) == 0
    read = {
        "parquet": pd.read_parquet,
        "csv": pd.read_csv,
        "jsonl": partial(pd.read_json, lines=True),
    }
    assert read[ending](path).to_dict("records") == [{"a": 1, "a_1": 2, " b": 3}]


def test_a_number_beyond_64_bits_is_refused_not_rounded(table, tmp_path, capsys):
    statement = "select sum(9223372036854775807) from frames"
    assert main.main(["query", table, "--sql", statement, "--export", str(tmp_path / "x.parquet")]) == 2
    message = capsys.readouterr().err
    assert "out of range" in message and message.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_an_export_without_rows_is_a_file_with_the_columns(table, ending, tmp_path, capsys):
    path = tmp_path / f"none.{ending}"
    assert main.main(["query", table, "dbcnn > 100", "--export", str(path)]) == 0
    assert capsys.readouterr().out == f"0 rows in {path}\n"
    if ending == "parquet":
        assert pq.read_table(path).column_names == [*SCHEMA.names, "embedding"]
    else:
        assert path.read_text(encoding="utf-8").count("\n") == (ending == "csv")


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_a_condition_that_fails_late_leaves_the_file_as_it_was(table, ending, tmp_path, capsys):
    path = tmp_path / f"x.{ending}"
    path.write_text("before")
    late = "select (case when i = 299999 then 'x' else '1' end)::INT from range(300000) t(i)"
    assert main.main(["query", table, "--sql", late, "--export", str(path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("faceq: query: Conversion Error: Could not convert string 'x'"), said
    assert path.read_text() == "before" and os.listdir(tmp_path) == [path.name]


def test_rows_are_written_in_their_order_and_in_groups(table, tmp_path):
    path = tmp_path / "x.parquet"
    with Rows(table, S3Settings()) as rows:
        statement = "select 249999 - i as i from range(250000) t(i) order by 1 desc"
        assert export(rows, rows.sql(statement), str(path), S3Settings()) == 250_000
    stored = pq.ParquetFile(path)
    assert stored.num_row_groups == 3
    assert (stored.read()["i"].to_numpy() == np.arange(250_000)[::-1]).all()


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_a_place_that_cannot_be_written_is_named(table, ending, tmp_path, capsys):
    place = tmp_path / f"x.{ending}"
    place.mkdir()
    assert main.main(["query", table, "--export", str(place)]) == 2
    assert capsys.readouterr().err.startswith(f"faceq: {place}: cannot be written: ")
    assert os.listdir(tmp_path) == [place.name]
