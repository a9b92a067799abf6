"""Parquet files read through Python's file objects, by none but the thread that asks.

Arrow's own threads still hold parts of such a file when its rows are long there. A program that ends
meanwhile is ended by SIGABRT, or hangs (https://github.com/apache/arrow/issues/50482, and 34314).
"""

from collections.abc import Iterator, Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq


class ParquetFile(pq.ParquetFile):
    """A Parquet file of which no more is in memory than what was asked for.

    Args:
        file: opened for reading, with `seek`; whoever opened it closes it.
        buffer_size: bytes that a column is read by; 0: each column of a row group at once.
        longest_list: items of a list in the footer, such as row groups, that are believed; none: Arrow's own
            limit, a million.
        shared: binary columns of which a repeated value stays one in memory, by their paths.

    Raises:
        pa.ArrowInvalid: it is no Parquet file.
    """

    def __init__(
        self,
        file: BinaryIO,
        buffer_size: int = 0,
        longest_list: int | None = None,
        shared: Sequence[str] | None = None,
    ):
        # Buffering ahead reads whole row groups, in threads.
        super().__init__(
            file,
            buffer_size=buffer_size,
            pre_buffer=False,
            thrift_container_size_limit=longest_list,
            read_dictionary=shared,
        )

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Some columns, or all, of all rows."""
        return super().read(columns, use_threads=False)

    def iter_batches(
        self, batch_size: int, row_groups: Sequence[int] | None = None, columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The rows in batches of `batch_size`, of some row groups and columns, or of all."""
        return super().iter_batches(batch_size, row_groups, columns, use_threads=False)
