"""A manifest: a Parquet, CSV or JSONL file that lists the files to read, instead of a folder to search.

Reading a manifest of a million images takes seconds; listing as many in a bucket takes half a minute or more.
A manifest may contain the sizes of the files; faceq does not request them from the storage.
"""

import csv
import io
import itertools
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa

from faceq.errors import FaceqError, UsageError
from faceq.messages.one_line import one_line
from faceq.sources.extra import Extra
from faceq.sources.parquet_extra import OtherColumns, with_extras
from faceq.storage.faults import detailed_error, failure, fault_of
from faceq.storage.filesystem import (
    absolute,
    check_uri,
    file_name_of,
    filesystem,
    is_remote,
    joined,
    path_of,
    storage_errors,
)
from faceq.storage.parquet import ParquetFile
from faceq.storage.settings import S3Settings
from faceq.table.schema import METADATA_KEY

URI_COLUMNS = ("uri", "path", "source")
"""Columns for paths and URIs. The first one that a manifest has is used."""

SIZE_COLUMN = "size"
"""Optional column with the size of each file in bytes."""

ENDINGS = (".parquet", ".csv", ".jsonl")

MOST_EXTRA = 2 << 10
"""Maximum size of a file's `extra`, bytes: those of all files are in the memory of the driver."""

_BATCH_ROWS = 65_536

log = logging.getLogger(__name__)


class Entry(NamedTuple):
    """A file in a manifest.

    place: an absolute path or URI. size: in bytes; None if the manifest does not have it. extra: the other
    columns of the manifest, as a frame's `extra`.
    """

    place: str
    size: int | None
    extra: str | None = None


def entries(uri: str, s3: S3Settings, extra_bytes: int = 0) -> Iterator[Entry]:
    """Yield the files that a manifest lists, in its order.

    Args:
        uri: path or URI of a file that ends in one of ENDINGS; a CSV file starts with a header row. Its
            column `uri` (or `path`, or `source`) contains paths and URIs; relative paths are relative to the
            manifest's folder. The column `size` is optional; a size may be a float or a string, as pandas
            writes it, or missing.
        s3: settings of the file system.
        extra_bytes: maximum size of an `extra`, at most MOST_EXTRA; 0: do not read the other columns.

    Raises:
        UsageError: the manifest does not exist or is invalid, or one of its rows has no valid path.
        StorageError: it cannot be read.
    """
    if not file_name_of(uri).lower().endswith(ENDINGS):
        raise UsageError(f"{uri}: unknown manifest format: a manifest ends in {', '.join(ENDINGS)}")
    folder = file_name_of(absolute(uri)).rpartition("/")[0]
    files = filesystem(uri, s3)
    try:
        with files.open(path_of(uri), "rb") as file:
            for number, place, size, extra in _rows(file, uri, min(extra_bytes, MOST_EXTRA)):
                yield _entry(place, size, folder, f"{uri}: row {number}")._replace(extra=extra)
    except FaceqError:
        raise
    except (OSError, ValueError, csv.Error, pa.ArrowException, *storage_errors()) as error:
        said = detailed_error(error, files, path_of(uri))
        fault = fault_of(said)
        if fault and fault.kind == "missing":
            raise UsageError(f"{uri}: there is no such manifest") from None
        if fault:
            raise failure(f"{uri}: cannot be read", said) from None
        raise UsageError(f"{uri}: cannot be read as a manifest: {one_line(error)}") from None


Row = tuple[int, Any, Any, str | None]
"""A row's number (in a JSONL file, the line number), its path and size as they are in the file, and its
`extra`."""


def _rows(file: BinaryIO, uri: str, extra_bytes: int) -> Iterator[Row]:
    ending = file_name_of(uri).lower().rpartition(".")[2]
    if ending == "parquet":
        yield from _parquet_rows(ParquetFile(file), uri, extra_bytes)
        return
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    yield from (_csv_rows if ending == "csv" else _jsonl_rows)(text, uri, extra_bytes)


def _parquet_rows(file: ParquetFile, uri: str, extra_bytes: int) -> Iterator[Row]:
    names = file.schema_arrow.names
    column = _uri_column(names, uri)
    used = [column, SIZE_COLUMN] if SIZE_COLUMN in names else [column]
    is_table = METADATA_KEY in (file.schema_arrow.metadata or {})  # its columns describe frames, not files
    others = OtherColumns(file.schema_arrow, file.metadata, set(used), 0 if is_table else extra_bytes)
    rows = with_extras(
        lambda columns: file.iter_batches(_BATCH_ROWS, columns=columns),
        *(used, others, lambda said: log.warning("%s: %s", uri, said)),
    )
    first = 1
    for batch, extras in rows:
        sizes = batch[SIZE_COLUMN].to_pylist() if SIZE_COLUMN in used else itertools.repeat(None)
        yield from zip(itertools.count(first), batch[column].to_pylist(), sizes, extras, strict=False)
        first += len(batch)


def _csv_rows(lines: Iterable[str], uri: str, extra_bytes: int) -> Iterator[Row]:
    table = csv.DictReader(lines)
    column = _uri_column(table.fieldnames or (), uri)
    for number, row in enumerate(table, start=1):
        # A cell without a value is empty, one without a header has the name None.
        others = (
            {name: value for name, value in row.items() if name is not None and value} if extra_bytes else {}
        )
        yield number, row[column], row.get(SIZE_COLUMN), _extra(others, column, extra_bytes)


def _extra(row: Mapping[str, Any], column: str, extra_bytes: int) -> str | None:
    """The `extra` of a row: its values except for path, size and nulls."""
    if not extra_bytes:
        return None
    extra = Extra(extra_bytes)
    for name, value in row.items():
        if name not in (column, SIZE_COLUMN) and value is not None:
            extra.add(name, value)
    return extra.text()


def _jsonl_rows(lines: Iterable[str], uri: str, extra_bytes: int) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise UsageError(f'{uri}: line {number} is not a JSON object: expected {{"uri": "…"}}')
        column = _uri_column(row, uri)
        yield number, row[column], row.get(SIZE_COLUMN), _extra(row, column, extra_bytes)


def _uri_column(names: Iterable[str], uri: str) -> str:
    there = list(names)
    column = next((name for name in URI_COLUMNS if name in there), None)
    if column is None:
        raise UsageError(
            f"{uri}: no column {' or '.join(URI_COLUMNS)}: its columns are {', '.join(there) or 'none'}"
        )
    if max(there.count(name) for name in (column, SIZE_COLUMN)) > 1:
        raise UsageError(f"{uri}: has two columns of the same name: its columns are {', '.join(there)}")
    return column


def _entry(place: Any, size: Any, folder: str, where: str) -> Entry:
    if not isinstance(place, str) or not place.strip():
        raise UsageError(f"{where}: names no file (got {place!r})")
    if "\0" in place or not _is_text(place):
        raise UsageError(f"{where}: {place!r} is not a valid file name")
    if is_remote(place):
        try:
            check_uri(place)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None
    elif not place.startswith(("/", "file://")):
        place = joined(folder, place)
    return Entry(place, _size(size, where))


def _is_text(place: str) -> bool:
    """Whether the text can be encoded as UTF-8; JSON can contain lone surrogates."""
    try:
        place.encode()
    except UnicodeEncodeError:
        return False
    return True


_NO_SIZE = ("", "nan", "none", "null", "<na>")
"""How programs write an unknown size. (pandas also converts an integer column with gaps to floats.)"""


def _size(size: Any, where: str) -> int | None:
    if type(size) is int and size >= 0:
        return size
    if size is None or str(size).strip().lower() in _NO_SIZE:
        return None
    try:
        number = Decimal(str(size).strip())
        if isinstance(size, bool) or number < 0 or number != int(number):
            raise ValueError(size)
    except (ArithmeticError, ValueError):
        raise UsageError(
            f"{where}: size {size!r} is not a number of bytes: give a whole number, or leave it empty"
        ) from None
    return int(number)
