"""Reader for Parquet files with a column of encoded images, as a stream of frames."""

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.compute as pc

from faceq.sources import parquet_columns
from faceq.sources.frame import Frame
from faceq.sources.listing import Shard, printable
from faceq.sources.names import Names
from faceq.sources.parquet_columns import KEY_COLUMNS, Content, content_of, could_hold_images, is_plain
from faceq.sources.parquet_extra import OtherColumns, with_extras
from faceq.sources.parquet_files import not_there, only_path, place_of
from faceq.sources.parquet_pages import LEVELS, FewerRowsError, GuardedFile
from faceq.sources.parquet_videos import is_video_row, video_of
from faceq.sources.reading import Expansion, Reading, blame, break_of, open_shard, too_long
from faceq.storage.filesystem import READ_AHEAD, filesystem, is_remote
from faceq.storage.parquet import ParquetFile
from faceq.table.schema import METADATA_KEY, frame_id

_BATCH_BYTES = 512 << 10
_MAX_ROWS, _MIN_ROWS = 64, 8
"""Bounds on the number of rows that are unpacked at once. Within them, a batch is sized to fit into a CPU
cache (_BATCH_BYTES)."""

_LARGE_BATCH_BYTES = 64 << 20
"""A batch of _MIN_ROWS rows has at most this size, or else fewer rows."""

_ROW_BYTES = 512
"""Bytes that each row counts for, like a tar header: a row of nulls takes no space in the file."""

_KEYS_IN_MEMORY = 1024
"""Number of keys of the maximum size that fit into `limits.source_memory`, as for headers of tars."""


def read_parquet(shard: Shard, reading: Reading) -> Iterator[Frame]:
    """Yield the frames of one Parquet file, in its order."""
    names = Names(shard.source)
    row = 0
    try:
        with open_shard(shard, reading) as stream:
            expansion = Expansion(stream, reading.limits)
            rows = _Rows(stream, reading)
            if METADATA_KEY in (rows.schema.metadata or {}):
                reading.findings.notes.append(
                    f"{shard.source}: is part of a faceq result table: not read as frames"
                )
                reading.findings.pass_over(shard.source)
                return
            image = rows.image_column()
            key = next((name for name in KEY_COLUMNS if name in rows.schema.names and name != image), None)
            used = [image, *([key] if key else [])]

            def note(said: str) -> None:
                reading.findings.notes.append(f"{shard.source}: {said}")

            others = OtherColumns(rows.schema, rows.metadata, set(used), reading.extra_bytes)
            for batch, extras in with_extras(rows.batches, used, others, note):
                keys = _keys(batch[key], reading) if key else [None] * len(batch)
                plain = is_plain(batch[image].type)
                expansion.add(_ROW_BYTES * len(batch) + (batch[image].nbytes if plain else 0))
                for value, name, extra in zip(batch[image], keys, extras, strict=True):
                    content = content_of(value)
                    expansion.add(len(extra or "") + (0 if plain else len(content.image or b"")))
                    member = _member_name(row if name is None else name)
                    if key:  # row numbers are unique anyway
                        member = names.unique(member)
                    for frame in _frames_of(shard, content, member, image, reading):
                        yield frame if frame.done or extra is None else replace(frame, extra=extra)
                    row += 1
    except Exception as error:
        yield break_of(shard, error, f"at row {row}", reading)


class _Rows:
    """Reads the rows of a file in small batches that respect the limits."""

    def __init__(self, stream: BinaryIO, reading: Reading):
        self._limits = reading.limits
        self._guard = GuardedFile(stream, reading.limits.source_memory)
        self._file = self._open()
        self.schema, self.metadata = self._file.schema_arrow, self._file.metadata

    def _open(self, shared: list[str] | None = None) -> ParquetFile:
        # No list in the footer has more items than the footer has bytes.
        longest = max(1, self._guard.footer_size)
        return ParquetFile(cast(BinaryIO, self._guard), READ_AHEAD, longest, shared)

    def image_column(self) -> str:
        """The name of the column with the images. Raises pa.ArrowInvalid if it cannot be determined."""
        name = parquet_columns.named(self.schema)
        if name is not None:
            return name
        candidates = [field.name for field in self.schema if could_hold_images(field.type)]
        return parquet_columns.by_bytes(self.schema, self.batches(candidates))

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Yield the given columns of all rows, batch by batch."""
        # Use the file's column order, because Arrow reads the columns in that order.
        columns = [name for name in self.schema.names if name in columns]
        leaves = [self._file.schema.column(i) for i in range(len(self._file.schema))]
        leaves = [leaf for leaf in leaves if leaf.path.split(".")[0] in columns or leaf.path in columns]
        widest = max((leaf.length or 0 for leaf in leaves), default=0)
        if widest > self._limits.frame_bytes:
            raise ValueError(
                f"its values of {widest} bytes each are larger than "
                f"limits.frame_bytes={self._limits.frame_bytes}"
            )
        most = max(1, self._limits.source_memory // max(1, widest))
        in_lists = [
            leaf.path for leaf in leaves if leaf.max_repetition_level and leaf.physical_type == "BYTE_ARRAY"
        ]
        file = self._open(in_lists) if in_lists else self._file
        value_bytes = LEVELS + widest if any(leaf.max_repetition_level for leaf in leaves) else 0
        # Read one row group at a time: if a batch spanned two groups and the second were damaged, the rows of
        # the first would be lost.
        for group in range(file.num_row_groups):
            meta = file.metadata.row_group(group)
            usual = meta.num_rows * _BATCH_BYTES // max(1, meta.total_byte_size)
            # Fewer rows if they are large, such as videos: the values of a batch are in memory.
            few = meta.num_rows * _LARGE_BATCH_BYTES // max(1, meta.total_byte_size)
            rows = min(most, max(min(_MIN_ROWS, max(1, few)), min(_MAX_ROWS, usual)))
            yield from self._group(file, group, columns, rows, value_bytes)

    def _group(
        self, file: ParquetFile, group: int, columns: list[str], rows: int, value_bytes: int
    ) -> Iterator[pa.RecordBatch]:
        given = 0
        while True:
            passed = 0
            self._guard.watch(rows, value_bytes)
            try:
                for batch in file.iter_batches(rows, [group], columns):
                    passed += len(batch)
                    if passed > given:
                        yield batch.slice(max(0, len(batch) - (passed - given)))
                        given = passed
                    self._guard.batch_is_out()
                return
            except FewerRowsError as error:
                rows = error.rows  # read the group again from its start; rows already yielded are skipped


def _keys(column: pa.Array, reading: Reading) -> list[Any]:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    # Cast text to bytes, which Arrow does not validate: the text may not be valid UTF-8.
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    suspect = column.nbytes * _KEYS_IN_MEMORY > reading.limits.source_memory
    if suspect and (pa.types.is_large_binary(column.type) or pa.types.is_binary(column.type)):
        longest = pc.max(pc.binary_length(column)).as_py() or 0
        if longest * _KEYS_IN_MEMORY > reading.limits.source_memory:
            raise ValueError(
                f"a key of {longest} bytes is larger than 1/{_KEYS_IN_MEMORY} of "
                f"limits.source_memory={reading.limits.source_memory}"
            )
    return column.to_pylist()


def _member_name(key: Any) -> str:
    return printable(key if isinstance(key, bytes) else str(key))


def _frames_of(shard: Shard, content: Content, member: str, column: str, reading: Reading) -> Iterator[Frame]:
    """The frames of a row: one, or those of a video. `column`: name of the image column."""
    if is_video_row(content, column):
        yield from video_of(shard, content, member, reading)
    elif frame_id(shard.source, member, 0) in reading.done:
        yield Frame(shard.source, member, 0, None, done=True)
    elif content.images > 1:
        error = f"the image column has a list of {content.images} images in this row: store one image per row"
        yield Frame(shard.source, member, 0, None, error=error)
    elif content.path:
        yield _file_of(shard, content.path, member, reading)
    elif content.image is None:
        yield Frame(shard.source, member, 0, None, error="the image column is null in this row")
    elif len(content.image) > reading.limits.frame_bytes:
        yield Frame(shard.source, member, 0, None, error=too_long(len(content.image), reading))
    else:
        image = content.image
        yield Frame(shard.source, member, 0, image if isinstance(image, bytes) else image.to_pybytes())


def _file_of(shard: Shard, path: str, member: str, reading: Reading) -> Frame:
    """The frame of a row that has a path instead of bytes: relative to the shard's folder, or absolute in the
    same kind of storage."""
    said = only_path(path)
    most = reading.limits.frame_bytes
    try:
        place = place_of(shard, path)
        files = filesystem(shard.source, reading.s3)
        if not is_remote(shard.source) and os.path.exists(place) and not os.path.isfile(place):
            return Frame(shard.source, member, 0, None, error=f"{said}, which is not a file")
        image = files.cat_file(place, start=0, end=most + 1)
    except Exception as error:
        return Frame(
            shard.source, member, 0, None, error=not_there(path, error, shard), **blame(shard, error)
        )
    if len(image) > most:
        return Frame(shard.source, member, 0, None, error=too_long(len(image), reading))
    return Frame(shard.source, member, 0, image)
