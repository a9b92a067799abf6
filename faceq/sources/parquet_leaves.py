"""The leaves of a Parquet column whose images are in structs: those to read, and what comes with images."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from faceq.sources.parquet_nested import ImageColumn
from faceq.sources.parquet_types import is_byte, is_bytes, is_list


class _Leaf(NamedTuple):
    """A leaf of a column. path: names of the struct fields that lead to it."""

    path: tuple[str, ...]
    is_binary: bool


@dataclass(frozen=True)
class Leaves:
    """The leaves of an image column that are read.

    paths: in the file. has_others: whether some of them are not of the images. left_out: names of the others
    that are not read.
    """

    column: ImageColumn
    paths: list[str]
    has_others: bool
    left_out: list[str]

    def others(self, value: pa.Scalar) -> Any:
        """The value of a row without the images, as `to_pylist` returns it."""
        return _without(value, self.column.path)


def leaves_of(
    column: ImageColumn,
    schema: pa.Schema,
    file_schema: pq.ParquetSchema,
    metadata: pq.FileMetaData,
    most: int,
) -> Leaves | None:
    """The leaves to read; None if the image column has no structs, and is read as a whole.

    Leaves that are binary, or that have more than `most` bytes in the average row, are not read.
    """
    if not column.path:
        return None
    index = schema.get_field_index(column.name)
    first = sum(len(list(_leaves(field.type))) for field in list(schema)[:index])
    found = list(_leaves(schema.field(index).type))
    paths, left_out, has_others = [], [], False
    for number, leaf in enumerate(found, first):
        if leaf.path[: len(column.path)] == column.path:
            paths.append(file_schema.column(number).path)
            continue
        groups = (metadata.row_group(group) for group in range(metadata.num_row_groups))
        size = sum(group.column(number).total_uncompressed_size for group in groups)
        if leaf.is_binary or size > most * max(1, metadata.num_rows):
            left_out.append(".".join((column.name, *leaf.path)))
        else:
            paths.append(file_schema.column(number).path)
            has_others = True
    return Leaves(column, paths, has_others, left_out if most else [])


def _leaves(kind: pa.DataType, path: tuple[str, ...] = ()) -> Iterator[_Leaf]:
    """The leaves of a type, in the order of the file."""
    if isinstance(kind, pa.BaseExtensionType):
        yield from _leaves(kind.storage_type, path)
    elif pa.types.is_struct(kind):
        for index in range(kind.num_fields):
            yield from _leaves(kind.field(index).type, (*path, kind.field(index).name))
    elif pa.types.is_map(kind):
        yield from _leaves(kind.key_type, path)
        yield from _leaves(kind.item_type, path)
    elif is_list(kind):
        is_bytes_list = is_byte(kind.value_type)
        for leaf in _leaves(kind.value_type, path):
            yield _Leaf(leaf.path, leaf.is_binary or is_bytes_list)
    elif pa.types.is_dictionary(kind):
        yield from _leaves(kind.value_type, path)
    else:
        yield _Leaf(path, is_bytes(kind))


def _without(value: pa.Scalar, path: tuple[str, ...]) -> Any:
    if not value.is_valid:
        return None
    if isinstance(value, pa.StructScalar):
        found = {}
        for name, part in value.items():
            if name != path[0]:
                found[name] = part.as_py()
            elif path[1:] and (rest := _without(part, path[1:])) not in (None, {}):
                found[name] = rest
        return found
    if isinstance(value, pa.ExtensionScalar | pa.DictionaryScalar):
        return _without(value.value, path)
    return [_without(item, path) for item in value.values]
