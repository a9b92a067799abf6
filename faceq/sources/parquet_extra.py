"""The other columns of a Parquet shard: what came with its frames."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from operator import methodcaller
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from faceq.messages.one_line import one_line
from faceq.sources.extra import Extra
from faceq.sources.parquet_leaves import Leaves
from faceq.sources.parquet_types import could_hold_images
from faceq.storage.filesystem import is_storage_error

_MOST_NAMED = 3


class OtherColumns:
    """The columns of a shard that become its frames' `extra`.

    Columns that are binary, or that have more than `most` bytes in the average row, are not read: `left_out`
    names them. read: the names of the others.

    Args:
        schema, metadata: of the shard.
        used: names of the columns with images and keys.
        most: maximum size of a frame's `extra`, bytes; 0: no column is read or named.
        images: the leaves of the column with the images, if these are in structs: the other fields of the
            structs come with the images.
    """

    def __init__(
        self,
        schema: pa.Schema,
        metadata: pq.FileMetaData,
        used: set[str],
        most: int,
        images: Leaves | None = None,
    ):
        self._most = most
        self._images = images
        self.read: list[str] = []
        self.left_out: list[str] = []
        if not most:
            return
        self.left_out += images.left_out if images else []
        sizes = _sizes(metadata, schema.names)
        for field in schema:
            if field.name in used:
                continue
            large = sizes.get(field.name, 0) > most * max(1, metadata.num_rows)
            no_value = large or _is_binary(field.type) or schema.names.count(field.name) > 1
            (self.left_out if no_value else self.read).append(field.name)

    def drop(self, name: str) -> None:
        """Leave out a column that was to be read."""
        self.read.remove(name)
        self.left_out.append(name)

    def extras(self, batch: pa.RecordBatch) -> Iterator[str | None]:
        """The `extra` of each row. Nulls are not in it."""
        columns = [(name, _values(batch[name])) for name in self.read]
        if self._most and self._images and self._images.has_others:
            name = self._images.column.name
            columns.append((name, [_value(scalar, self._images.others) for scalar in batch[name]]))
        if not columns and not self.left_out:
            yield from itertools.repeat(None, len(batch))
            return
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


def with_extras(
    batches: Callable[[list[str]], Iterator[pa.RecordBatch]],
    used: list[str],
    others: OtherColumns,
    note: Callable[[str], None],
) -> Iterator[tuple[pa.RecordBatch, list[str | None]]]:
    """The rows of a file in batches, and the `extra` of each row.

    A column that cannot be read, because it is damaged or beyond a limit, costs no row: it is left out from
    there on.

    Args:
        batches: reads the columns of the given names from the first row on.
        used: names of the columns that are needed in any case.
        others: the columns for `extra`.
        note: is called with a remark on columns that cannot be read.
    """
    given = 0
    while True:
        passed = 0
        try:
            for batch in batches([*used, *others.read]):
                passed += len(batch)
                if passed > given:
                    rest = batch.slice(max(0, len(batch) - (passed - given)))
                    yield rest, list(others.extras(rest))
                    given = passed
            return
        except Exception as error:
            if not others.read or is_storage_error(error) or isinstance(error, MemoryError):
                raise
            bad = [name for name in others.read if not _can_be_read(batches, name)] or list(others.read)
            for name in bad:
                others.drop(name)
            named = ", ".join(bad[:_MOST_NAMED]) + (", …" if len(bad) > _MOST_NAMED else "")
            note(f"cannot read the columns {named} ({one_line(error)}): not in `extra` from row {given} on")


def _can_be_read(batches: Callable[[list[str]], Iterator[pa.RecordBatch]], name: str) -> bool:
    try:
        for _ in batches([name]):
            pass
    except Exception:
        return False
    return True


class _Unreadable:
    """A value that Python cannot represent, such as text that is not UTF-8."""


def _values(column: pa.Array) -> list[Any]:
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError, pa.ArrowException):
        return [_value(scalar) for scalar in column]


def _value(scalar: pa.Scalar, convert: Callable[[pa.Scalar], Any] = methodcaller("as_py")) -> Any:
    try:
        return convert(scalar)
    except (ValueError, OverflowError, pa.ArrowException):
        return _Unreadable()


def _sizes(metadata: pq.FileMetaData, names: Sequence[str]) -> dict[str, int]:
    """Bytes of each column of the shard, not compressed. A name may contain dots, as a path does."""
    known = sorted(names, key=len, reverse=True)
    paths = [f"{metadata.schema.column(index).path}." for index in range(metadata.num_columns)]
    owners = [next((each for each in known if path.startswith(f"{each}.")), path) for path in paths]
    sizes: dict[str, int] = {}
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for index, name in enumerate(owners):
            sizes[name] = sizes.get(name, 0) + group.column(index).total_uncompressed_size
    return sizes


def _is_binary(kind: pa.DataType) -> bool:
    """Whether values of this type are, or contain, bytes."""
    if could_hold_images(kind):
        return True
    return any(_is_binary(kind.field(index).type) for index in range(kind.num_fields))
