"""A table whose older files lack columns, written by a development version with the same version number."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from here import score_here, small_scored_input

import faceq
from faceq.cli.main import main
from faceq.query import compact
from faceq.storage.settings import S3Settings
from faceq.table.measure_columns import MEASURES

NAMES = [measure.name for measure in MEASURES]


@pytest.fixture
def mixed(astronaut, tmp_path: Path) -> str:
    """A table of two runs: the files of the first have no measures, and its record no list of columns."""
    source, table = small_scored_input(tmp_path, astronaut)
    for path in Path(table).glob("status=*/*.parquet"):
        rows = pq.read_table(path, partitioning=None)
        pq.write_table(rows.drop_columns(NAMES), path)
    for path in Path(table).glob("_faceq/run-*.json"):
        record = json.loads(path.read_text())
        del record["columns"]
        path.write_text(json.dumps(record))
    (Path(source) / "a.jpg").rename(tmp_path / "other.jpg")
    score_here(str(tmp_path / "other.jpg"), table)
    return table


@pytest.mark.parametrize("compacted", [False, True])
def test_missing_columns_are_null_beside_rows_that_have_them(mixed, tmp_path, compacted):
    if compacted:
        compact.compact(mixed, str(tmp_path / "small"), S3Settings())
        mixed = str(tmp_path / "small")
    rows = faceq.read_table(mixed, "status = 'scored'", ["source", *NAMES]).to_pylist()
    assert len(rows) == 3
    for row in rows:
        assert all((row[name] is not None) == row["source"].endswith("other.jpg") for name in NAMES)


def test_a_table_without_the_columns_has_nulls_and_takes_conditions_on_them(capsys):
    old = str(Path(__file__).parents[1] / "table" / "tables" / "0.1.0")
    rows = faceq.read_table(old, "sharpness is null", ["source", "sharpness", "face_confidence"])
    assert len(rows) == 3 and rows["sharpness"].null_count == 3
    assert main(["explain", old, "--filter", "portrait"]) == 0
    assert "0 of 3 rows pass" in capsys.readouterr().out
