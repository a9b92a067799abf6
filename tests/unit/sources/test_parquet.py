"""Reading Parquet through Python's file objects."""

import io
import os
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from faceq.storage.parquet import ParquetFile

ROWS, BYTES = 4_000, 10_000


class Watched(io.BytesIO):
    """A file that records how much is read, and by which threads."""

    def __init__(self, content: bytes):
        super().__init__(content)
        self.threads: set[int] = set()
        self.reads: list[int] = []

    def read(self, size: int | None = -1) -> bytes:
        self.threads.add(threading.get_ident())
        content = super().read(size)
        self.reads.append(len(content))
        return content


def made(rows_per_group: int) -> Watched:
    """A Parquet file of 40 MB."""
    whole = io.BytesIO()
    pictures = pa.array([os.urandom(BYTES) for _ in range(ROWS)], pa.binary())
    table = pa.table({"image": pictures, "key": pa.array(range(ROWS))})
    pq.write_table(table, whole, rows_per_group, use_dictionary=False, write_batch_size=100)
    return Watched(whole.getvalue())


@pytest.mark.parametrize("rows_per_group", [ROWS, ROWS // 10])
def test_only_the_thread_that_asks_reads(rows_per_group):
    file = made(rows_per_group)
    opened = ParquetFile(file)
    assert opened.read().num_rows == opened.read(["key"]).num_rows == ROWS
    assert sum(len(batch) for batch in opened.iter_batches(100)) == ROWS
    assert file.threads == {threading.get_ident()}


def test_no_more_is_read_ahead_than_asked_for():
    file = made(rows_per_group=ROWS)
    batches = ParquetFile(file, buffer_size=1 << 20).iter_batches(32, [0], ["image"])
    first = next(batches)
    assert len(first) == 32
    assert sum(file.reads) < 5 << 20
    assert sum(len(batch) for batch in batches) == ROWS - 32
    assert max(file.reads) < 2 << 20


def test_a_column_is_read_alone():
    file = made(rows_per_group=ROWS)
    ParquetFile(file).read(["key"])
    assert sum(file.reads) < 1 << 20
