"""Read Parquet files through Python file objects, in the calling thread only.

Arrow's own threads may still hold parts of such a file after all its rows have been read. A program that
exits at that moment is killed by SIGABRT, or hangs (https://github.com/apache/arrow/issues/50482, and 34314).
"""

from collections.abc import Iterator, Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq


class ParquetFile(pq.ParquetFile):
    """A Parquet file that keeps only the requested data in memory.

    Args:
        file: opened for reading, with `seek`. The caller closes it.
        buffer_size: number of bytes of a column to read at a time; 0: each column of a row group at once.
        longest_list: maximum number of items of a list in the footer, such as the row groups. None: the limit
            of Arrow, a million.
        shared: paths of binary columns whose repeated values are stored in memory only once.

    Raises:
        pa.ArrowInvalid: the file is not a Parquet file.
    """

    def __init__(
        self,
        file: BinaryIO,
        buffer_size: int = 0,
        longest_list: int | None = None,
        shared: Sequence[str] | None = None,
    ):
        # Pre-buffering would read whole row groups, in threads.
        super().__init__(
            file,
            buffer_size=buffer_size,
            pre_buffer=False,
            thrift_container_size_limit=longest_list,
            read_dictionary=shared,
        )

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows, with the given columns or all of them."""
        return super().read(columns, use_threads=False)

    def iter_batches(
        self, batch_size: int, row_groups: Sequence[int] | None = None, columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The rows in batches of `batch_size`, from the given row groups and columns or from all of them."""
        return super().iter_batches(batch_size, row_groups, columns, use_threads=False)
