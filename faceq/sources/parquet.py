"""Reader for Parquet files with a column of images or videos, as a stream of frames."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from faceq.errors import UnreadableError
from faceq.sources import parquet_columns, parquet_nested
from faceq.sources.frame import Frame
from faceq.sources.listing import Shard, printable
from faceq.sources.names import Names
from faceq.sources.parquet_columns import KEY_COLUMNS, VIDEO_COLUMNS, NoImageColumnError
from faceq.sources.parquet_extra import OtherColumns, with_extras
from faceq.sources.parquet_files import is_about_tar, not_there, only_path, place_of
from faceq.sources.parquet_leaves import Leaves, leaves_of
from faceq.sources.parquet_nested import ImageColumn
from faceq.sources.parquet_pages import COPIES_OF_LIST, LEVELS, FewerRowsError, GuardedFile
from faceq.sources.parquet_shapes import ShapeColumns
from faceq.sources.parquet_types import could_hold_images, is_plain
from faceq.sources.parquet_values import Content, Converted, column_of, images_in
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

_BYTE_TYPES = ("UINT_8", "INT_8")
_PIXELS_AHEAD = 64 << 10
"""Bytes to read at a time of a file with lists of bytes. The guard counts the values of all pages that were
read, and pixels of synthetic images compress well: those of hundreds of images may be in 8 MiB."""

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
            try:
                image = rows.image_column()
            except NoImageColumnError:
                if not is_about_tar(shard, reading):
                    raise
                reading.findings.notes.append(f"{shard.source}: describes the tar beside it: not read")
                reading.findings.pass_over(shard.source)
                return
            key = next(
                (name for name in KEY_COLUMNS if name in rows.schema.names and name != image.name), None
            )
            # `height` and `width` beside a video are those of its frames.
            could_be_pixels = not image.path and image.name not in VIDEO_COLUMNS
            shapes = ShapeColumns.of(rows.schema) if could_be_pixels else None
            title = image.last_name
            used = [image.name, *([key] if key else [])]

            def note(said: str) -> None:
                reading.findings.notes.append(f"{shard.source}: {said}")

            others = OtherColumns(rows.schema, rows.metadata, set(used), reading.extra_bytes, rows.leaves)
            used += [name for name in (shapes.names if shapes else ()) if name not in others.read]
            for batch, extras in with_extras(rows.batches, used, others, note):
                keys = _keys(batch[key], reading) if key else [None] * len(batch)
                values, path = column_of(batch, image.name, image.path)
                plain = is_plain(values.type)
                expansion.add(_ROW_BYTES * len(batch) + (values.nbytes if plain else 0))
                images = _images(values, path, shapes, batch)
                for found, name, extra in zip(images, keys, extras, strict=True):
                    member = _member_name(row if name is None else name)
                    if key:  # row numbers are unique anyway
                        member = names.unique(member)
                    for suffix, content in found:
                        expansion.add(len(extra or "") + (0 if plain else content.size))
                        own = member
                        if suffix:
                            own = names.unique(member + suffix) if key else member + suffix
                        for frame in _frames_of(shard, content, own, title, reading):
                            yield frame if frame.done or extra is None else replace(frame, extra=extra)
                    row += 1
    except Exception as error:
        yield break_of(shard, error, f"at row {row}", reading)


class _Rows:
    """Reads the rows of a file in small batches that respect the limits."""

    def __init__(self, stream: BinaryIO, reading: Reading):
        self._reading, self._limits = reading, reading.limits
        self.leaves: Leaves | None = None
        self._images: ImageColumn | None = None
        self._guard = GuardedFile(stream, reading.limits.source_memory)
        self._file = self._open()
        self.schema, self.metadata = self._file.schema_arrow, self._file.metadata

    def _open(self, shared: list[str] | None = None, ahead: int = READ_AHEAD) -> ParquetFile:
        # No list in the footer has more items than the footer has bytes.
        longest = max(1, self._guard.footer_size)
        return ParquetFile(cast(BinaryIO, self._guard), ahead, longest, shared)

    def image_column(self) -> ImageColumn:
        """The column with the images. Raises pa.ArrowInvalid if it cannot be determined.

        From now on, only the needed fields of its structs are read.
        """
        found = self._find_plain()
        if isinstance(found, NoImageColumnError):
            reads_base64 = self._reading.encoding == "base64"
            found = parquet_nested.find(self.schema, self.batches, reads_base64, found)
        self._images = found
        self.leaves = leaves_of(
            *(found, self.schema, self._file.schema, self.metadata, self._reading.extra_bytes)
        )
        return found

    def _find_plain(self) -> ImageColumn | NoImageColumnError:
        try:
            name = parquet_columns.named(self.schema)
            if name is None:
                candidates = [field.name for field in self.schema if could_hold_images(field.type)]
                name = parquet_columns.by_bytes(self.schema, self.batches(candidates))
        except NoImageColumnError as error:
            return error.with_traceback(None)  # the traceback would keep the rows in memory
        return ImageColumn(name)

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Yield the given columns of all rows, batch by batch."""
        # Use the file's column order, because Arrow reads the columns in that order.
        columns = [name for name in self.schema.names if name in columns]
        leaves = [self._file.schema.column(i) for i in range(len(self._file.schema))]
        if self.leaves is not None and self.leaves.column.name in columns:
            index = columns.index(self.leaves.column.name)
            columns[index : index + 1] = self.leaves.paths
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
        in_pixels = any(leaf.max_repetition_level and leaf.converted_type in _BYTE_TYPES for leaf in leaves)
        ahead = _PIXELS_AHEAD if in_pixels else READ_AHEAD
        file = self._open(in_lists, ahead) if in_lists or in_pixels else self._file
        image = None if self._images is None else self._images.name
        large_in_lists = any(image in (None, path.split(".")[0]) for path in in_lists)
        # Lists of binary values are read in larger batches: Arrow copies their dictionary for each of them.
        least = 1 if in_pixels else _MIN_ROWS
        value_bytes = LEVELS + widest if any(leaf.max_repetition_level for leaf in leaves) else 0
        # Read one row group at a time: if a batch spanned two groups and the second were damaged, the rows of
        # the first would be lost.
        for group in range(file.num_row_groups):
            meta = file.metadata.row_group(group)
            usual = meta.num_rows * _BATCH_BYTES // max(1, meta.total_byte_size)
            # Fewer rows if they are large, such as videos: the values of a batch are in memory.
            few = meta.num_rows * _LARGE_BATCH_BYTES // max(1, meta.total_byte_size)
            if large_in_lists:
                self._check_rows(meta, in_lists)
            rows = min(most, max(min(least, max(1, few)), min(_MAX_ROWS, usual)))
            yield from self._group(file, group, columns, rows, (value_bytes, large_in_lists))

    def _check_rows(self, group: pq.RowGroupMetaData, lists: list[str]) -> None:
        """Check the average size of a row: all values of its lists are in memory together."""
        columns = (group.column(index) for index in range(group.num_columns))
        size = sum(column.total_uncompressed_size for column in columns if column.path_in_schema in lists)
        size //= max(1, group.num_rows)
        if COPIES_OF_LIST * size > self._limits.source_memory:
            raise ValueError(
                f"its rows have lists of {size} bytes, of which Arrow keeps {COPIES_OF_LIST} copies: more "
                f"than limits.source_memory={self._limits.source_memory}: store fewer images in a row"
            )

    def _group(
        self, file: ParquetFile, group: int, columns: list[str], rows: int, lists: tuple[int, bool]
    ) -> Iterator[pa.RecordBatch]:
        given = 0
        while True:
            passed = 0
            self._guard.watch(rows, *lists)
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


def _images(
    values: pa.Array, path: tuple[str, ...], shapes: ShapeColumns | None, batch: pa.RecordBatch
) -> Iterator[Iterable[tuple[str, Content]]]:
    """The images of each row, as of `images_in`."""
    plain = is_plain(values.type)
    stated = shapes if shapes and shapes.are_needed(batch, values) else None
    for row, value in enumerate(values):
        found = [("", Content(value.as_buffer()))] if plain else images_in(value, path)
        if stated is None:
            yield found
        else:
            yield [(suffix, stated.as_pixels(content, batch, row)) for suffix, content in found]


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


def _frames_of(shard: Shard, content: Content, member: str, name: str, reading: Reading) -> Iterator[Frame]:
    """The frames of an image of a row: one, or those of a video. `name`: of the column or field with it."""
    if is_video_row(content, name):
        yield from video_of(shard, content, member, reading)
    elif frame_id(shard.source, member, 0) in reading.done:
        yield Frame(shard.source, member, 0, None, done=True)
    elif content.converted is not None:
        yield _converted(shard, content.converted, member, reading)
    elif content.path:
        yield _file_of(shard, content.path, member, reading)
    elif content.image is None:
        yield Frame(shard.source, member, 0, None, error="the image column is null in this row")
    elif len(content.image) > reading.limits.frame_bytes:
        yield Frame(shard.source, member, 0, None, error=too_long(len(content.image), reading))
    else:
        image = content.image
        yield Frame(shard.source, member, 0, image if isinstance(image, bytes) else image.to_pybytes())


def _converted(shard: Shard, stored: Converted, member: str, reading: Reading) -> Frame:
    """The frame of an image that is not stored as encoded bytes."""
    if stored.size > reading.limits.frame_bytes:
        return Frame(shard.source, member, 0, None, error=too_long(stored.size, reading))
    try:
        return Frame(shard.source, member, 0, stored.encoded())
    except UnreadableError as error:
        return Frame(shard.source, member, 0, None, error=str(error))


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
