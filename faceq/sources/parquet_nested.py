"""Find the images of a Parquet file that does not have one encoded image or video in each row of a column.

The images and videos may be in lists or in fields of structs, and images may be pixels or base64 text.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import pyarrow as pa

from faceq.sources.arrays import FlatPixels, Pixels
from faceq.sources.base64_text import Base64Text
from faceq.sources.parquet_columns import IMAGE_COLUMNS, PROBED, VIDEO_COLUMNS, NoImageColumnError
from faceq.sources.parquet_shapes import ShapeColumns
from faceq.sources.parquet_types import could_hold_images, is_byte, is_bytes, is_list, is_text, numbers_in
from faceq.sources.parquet_values import Content, column_of, images_in
from faceq.sources.sniff import is_video, kind_of_bytes

NAMES = (*IMAGE_COLUMNS, "images", "frames", "pixels", "pixel_values")
"""Names that identify the images if several columns or fields have some, in order of precedence."""

_PROBED_IN_A_ROW = 4

_Form = Literal["encoded", "pixels", "text", "numbers"]


@dataclass(frozen=True)
class ImageColumn:
    """Where the images of a file are: a column, and the names of the struct fields in it that lead to them,
    also through lists."""

    name: str
    path: tuple[str, ...] = ()

    @property
    def last_name(self) -> str:
        return (self.name, *self.path)[-1]

    def __str__(self) -> str:
        return ".".join((self.name, *self.path))


@dataclass
class _Candidate:
    """A column that may have images or videos. images, videos: how many of its first values are images or
    videos; seen: how many values were looked at."""

    column: ImageColumn
    form: _Form
    images: int = 0
    videos: int = 0
    seen: int = 0

    @property
    def has_images(self) -> bool:
        return 2 * self.images > self.seen

    @property
    def has_videos(self) -> bool:
        return 2 * self.videos > self.seen


def find(
    schema: pa.Schema,
    batches: Callable[[list[str]], Iterator[pa.RecordBatch]],
    reads_base64: bool,
    otherwise: NoImageColumnError,
) -> ImageColumn:
    """The column with the images, or else the one with videos. Encoded images take precedence over pixels,
    and these over base64.

    Args:
        schema: of the file.
        batches: reads the columns of the given names from the first row on.
        reads_base64: text may be images.
        otherwise: the error if there are no such images.

    Raises:
        NoImageColumnError: there are no images or videos, or several columns have some and none of them has a
            known name.
    """
    # A column called `image` is the one that was meant: others do not take its place.
    meant = [name for name in IMAGE_COLUMNS[:2] if name in schema.names] or schema.names
    shapes = ShapeColumns.of(schema)
    candidates = [
        candidate
        for column in schema
        if column.name in meant and schema.names.count(column.name) == 1
        for candidate in _candidates(
            column.type, ImageColumn(column.name), None if column.name in VIDEO_COLUMNS else shapes
        )
    ]
    probed = [candidate for candidate in candidates if candidate.form != "numbers"]
    _probe(probed, schema, batches)
    forms: tuple[_Form, ...] = ("encoded", "pixels", *(("text",) if reads_base64 else ()))
    for form in forms:
        chosen = _chosen([candidate for candidate in probed if candidate.form == form], schema)
        if chosen is not None:
            return chosen
    videos = [candidate.column for candidate in probed if candidate.has_videos]
    if videos:
        return _one_of(videos, (*VIDEO_COLUMNS, *NAMES), "videos", schema)
    raise _without_images(candidates, reads_base64) or otherwise


def _candidates(kind: pa.DataType, column: ImageColumn, shapes: ShapeColumns | None) -> Iterator[_Candidate]:
    numbers = numbers_in(kind)
    if numbers and numbers[0] > 1:
        form: _Form = "pixels" if pa.types.is_uint8(numbers[1]) else "numbers"
        yield _Candidate(column, form)
    elif isinstance(kind, pa.BaseExtensionType):
        yield from _candidates(kind.storage_type, column, shapes)
    elif pa.types.is_dictionary(kind):
        yield from _candidates(kind.value_type, column, shapes)
    elif pa.types.is_struct(kind):
        yield from _in_struct(kind, column)
    elif is_bytes(kind) or (numbers and is_byte(numbers[1])):
        yield _Candidate(column, "pixels" if shapes and not column.path else "encoded")
    elif is_list(kind):
        yield from _candidates(kind.value_type, column, None)
    elif is_text(kind):
        yield _Candidate(column, "text")


def _in_struct(kind: pa.StructType, column: ImageColumn) -> Iterator[_Candidate]:
    names = [kind.field(index).name for index in range(kind.num_fields)]
    if could_hold_images(kind):
        yield _Candidate(column, "encoded")
        return
    for index, name in enumerate(names):
        if names.count(name) == 1:
            yield from _candidates(
                kind.field(index).type, ImageColumn(column.name, (*column.path, name)), None
            )


def _probe(
    candidates: list[_Candidate],
    schema: pa.Schema,
    batches: Callable[[list[str]], Iterator[pa.RecordBatch]],
) -> None:
    """Look at the first values of the candidates."""
    shapes = ShapeColumns.of(schema)
    names = {candidate.column.name for candidate in candidates}
    rows = 0
    for batch in batches([*names, *(shapes.names if shapes else ())]) if names else ():
        for candidate in candidates:
            _look(candidate, batch, shapes)
        rows += len(batch)
        if rows >= PROBED:
            break


def _look(candidate: _Candidate, batch: pa.RecordBatch, shapes: ShapeColumns | None) -> None:
    column, path = column_of(batch, candidate.column.name, candidate.column.path)
    if candidate.form != "pixels" or (shapes and not shapes.are_needed(batch, column)):
        shapes = None
    for row, value in enumerate(column):
        for _, content in islice(images_in(value, path), _PROBED_IN_A_ROW):
            stored = shapes.as_pixels(content, batch, row) if shapes else content
            if stored.image is not None or stored.converted is not None:
                candidate.seen += 1
                candidate.images += _is_image(stored, candidate.column.last_name in NAMES)
                candidate.videos += is_video(stored.head)


def _is_image(content: Content, has_known_name: bool) -> bool:
    stored = content.converted
    if isinstance(stored, Base64Text):
        return stored.is_image
    if isinstance(stored, Pixels | FlatPixels):
        return stored.is_colour or has_known_name
    return kind_of_bytes(content.head) == "picture"


def _chosen(candidates: list[_Candidate], schema: pa.Schema) -> ImageColumn | None:
    """The one with images, or the one that has no values at all but a known name; None if there is none."""
    images = [candidate.column for candidate in candidates if candidate.has_images]
    if images:
        return _one_of(images, NAMES, "images", schema)
    empty = [candidate.column for candidate in candidates if not candidate.seen]
    return next((column for name in NAMES for column in empty if column.last_name == name), None)


def _one_of(columns: list[ImageColumn], names: Iterable[str], what: str, schema: pa.Schema) -> ImageColumn:
    """The first one with one of the names, in order of precedence; else the only one."""
    known = [column for name in names for column in columns if column.last_name == name]
    if not known and len(columns) > 1:
        raise NoImageColumnError(
            f"several columns contain {what} ({', '.join(map(str, columns))}); the columns are "
            f"{', '.join(schema.names)}: rename the column to read to `image`"
        )
    return (known or columns)[0]


def _without_images(candidates: list[_Candidate], reads_base64: bool) -> NoImageColumnError | None:
    """The error that says what to do about images that are not read."""
    for candidate in candidates:
        if candidate.form == "text" and candidate.images and candidate.has_images and not reads_base64:
            return NoImageColumnError(
                f"no binary column with images: `{candidate.column}` has images as base64 text: read them "
                "with --set read.encoding=base64"
            )
    for candidate in candidates:
        if candidate.form == "numbers" and candidate.column.last_name in NAMES:
            return NoImageColumnError(
                f"no binary column with images: `{candidate.column}` has arrays of numbers that are not "
                "uint8: store the pixels as uint8, from 0 to 255, or store encoded images"
            )
    return None
