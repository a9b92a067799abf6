"""The other columns of a Parquet shard: what came with its frames."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from faceq.sources.extra import Extra
from faceq.sources.parquet_columns import could_hold_images


class OtherColumns:
    """The columns of a shard that become its frames' `extra`.

    Columns that are binary, or that have more than `most` bytes in the average row, are not read: `left_out`
    names them. read: the names of the others.

    Args:
        schema, metadata: of the shard.
        used: names of the columns with images and keys.
        most: maximum size of a frame's `extra`, bytes; 0: no column is read or named.
    """

    def __init__(self, schema: pa.Schema, metadata: pq.FileMetaData, used: set[str], most: int):
        self._most = most
        self.read: list[str] = []
        self.left_out: list[str] = []
        if not most:
            return
        sizes = _sizes(metadata)
        for field in schema:
            if field.name in used or schema.names.count(field.name) > 1:
                continue
            large = sizes.get(field.name, 0) > most * max(1, metadata.num_rows)
            (self.left_out if large or _is_binary(field.type) else self.read).append(field.name)

    def extras(self, batch: pa.RecordBatch) -> Iterator[str | None]:
        """The `extra` of each row. Nulls are not in it."""
        columns = [(name, _values(batch[name])) for name in self.read]
        for row in range(len(batch)):
            extra = Extra(self._most)
            for name, values in columns:
                value = values[row]
                if isinstance(value, _Unreadable):
                    extra.leave_out(name)
                elif value is not None:
                    extra.add(name, value)
            for name in self.left_out:
                extra.leave_out(name)
            yield extra.text()


class _Unreadable:
    """A value that Python cannot represent, such as text that is not UTF-8."""


def _values(column: pa.Array) -> list[Any]:
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError, pa.ArrowException):
        return [_value(scalar) for scalar in column]


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError, pa.ArrowException):
        return _Unreadable()


def _sizes(metadata: pq.FileMetaData) -> dict[str, int]:
    """Bytes of each column of the shard, not compressed."""
    sizes: dict[str, int] = {}
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for index in range(group.num_columns):
            column = group.column(index)
            name = column.path_in_schema.split(".")[0]
            sizes[name] = sizes.get(name, 0) + column.total_uncompressed_size
    return sizes


def _is_binary(kind: pa.DataType) -> bool:
    """Whether values of this type are, or contain, bytes."""
    if could_hold_images(kind):
        return True
    return any(_is_binary(kind.field(index).type) for index in range(kind.num_fields))
