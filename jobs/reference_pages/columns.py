"""The page of the columns of a result table, generated from the descriptions in `faceq.table.schema`."""

import pyarrow as pa

from faceq.query.faces import FACE_COLUMNS
from faceq.table.schema import COLUMNS, EMBEDDING_COLUMN, FACES_COLUMN, Column
from jobs.reference_pages.markdown import WRITTEN, table

_HEAD = """\
# Columns

The result table is Parquet, partitioned by status: `TABLE/status=<status>/*.parquet`. It has exactly one
row for each frame. Null is Parquet's null, never NaN. Readers that know Hive partitioning show `status` as
a string column.

Names and types of columns are stable: a new version may add columns, and removes or renames none without a
note in the changelog. A table that was written before a column existed reads as if the column were null
there.

[What the scores mean](../explanation/scores.md) explains `serfiq` and `dbcnn`; [Settings](settings.md)
lists the settings that are named here.

"""

_FACES = """
## Rows of faces

With `--faces`, or `faces=True` in Python, commands work on rows of faces instead of frames: one for each
element of `faces`. A row of a run with another value of `faces` counts as its one scored face, and a frame
without a face has no row. The columns from `face_x` to the last measure, `status` and `embedding` are those
of the face. The others are those of its frame, and the column `faces` is replaced by these:

"""

_MORE = """
## Metadata

The metadata of each Parquet file holds, under the key `faceq`, a JSON object: the version of faceq, the
settings that decide the values, and the SHA-256 and licence of each model. `TABLE/_faceq/run-<run_id>.json`
holds the same for each run, and its input, number of rows, counts by status, start and end.
"""

_WORDS = {
    pa.int32(): "int32",
    pa.int64(): "int64",
    pa.float32(): "float32",
    pa.float64(): "float64",
    pa.string(): "string",
    pa.bool_(): "boolean",
    pa.list_(pa.float32()): "list of float32",
    FACES_COLUMN.type: "list of struct",
}


TITLES = ("column", "type", "values", "meaning", "null when")


def page() -> str:
    """The whole page as Markdown."""
    rows = [cells(column) for column in (*COLUMNS, FACES_COLUMN, EMBEDDING_COLUMN)]
    faces = [cells(column) for column in FACE_COLUMNS]
    return WRITTEN + _HEAD + table(TITLES, rows) + _FACES + table(TITLES, faces) + _MORE


def cells(column: Column) -> tuple[str, ...]:
    """A row of a table of columns with TITLES."""
    type_ = _WORDS[column.type]
    values = ", ".join(filter(None, (column.unit, column.range)))
    return f"`{column.name}`", type_, values, column.meaning, column.null
