"""Extract the images from the values of a Parquet file's image column."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from faceq.sources import arrays
from faceq.sources.arrays import Pixels
from faceq.sources.base64_text import Base64Text
from faceq.sources.parquet_types import is_byte, numbers_in
from faceq.sources.sniff import ENOUGH, kind_of_bytes

_BYTES = {pa.BinaryScalar, pa.LargeBinaryScalar, pa.BinaryViewScalar, pa.FixedSizeBinaryScalar}
_LISTS = (
    *(pa.ListScalar, pa.LargeListScalar, pa.FixedSizeListScalar),
    *(pa.ListViewScalar, pa.LargeListViewScalar),
)
_PATHS = (pa.StringScalar, pa.LargeStringScalar, pa.DictionaryScalar)


class Converted(Protocol):
    """An image that is stored in another form than as encoded bytes.

    size: bytes of the image, roughly.
    """

    @property
    def size(self) -> int: ...

    def encoded(self) -> bytes:
        """The image for `decode`. Raises UnreadableError if it is not one."""


class Content(NamedTuple):
    """An image in a row, or what the row has in its place.

    image: the encoded bytes. path: the file that contains the image, if the row has no bytes. converted: the
    image, if it is stored in another form.
    """

    image: pa.Buffer | bytes | None = None
    path: str | None = None
    converted: Converted | None = None

    @property
    def size(self) -> int:
        """Bytes of the image, roughly."""
        return len(self.image or b"") if self.converted is None else self.converted.size

    @property
    def head(self) -> bytes:
        """The first bytes of the image, enough to tell its kind; none if it is not stored as bytes."""
        return bytes(memoryview(self.image or b"")[:ENOUGH])


def column_of(batch: pa.RecordBatch, name: str, path: tuple[str, ...]) -> tuple[pa.Array, tuple[str, ...]]:
    """The values at a path of struct fields in a column, down to the first list; and the rest of the path."""
    return _at(batch[name], path)


def images_in(value: pa.Scalar, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Content]]:
    """The images in one value, one by one. A value without an image gives one empty content.

    Args:
        value: of a column of which `could_hold_images` is true, of arrays of uint8, or of base64 text.
        path: names of the struct fields that lead from the items of a list to their images.

    Yields:
        What to append to the name of the row, and the image. It is `#` and the position in the list, from 0
        and counting nulls; nothing if the list has only one image. Nulls in lists are no images.
    """
    if type(value) in _BYTES:  # checked first because it is by far the most frequent case
        yield "", Content(value.as_buffer())
    elif not value.is_valid:
        yield "", Content()
    elif isinstance(value, pa.StructScalar):
        yield from _images_in_struct(value)
    elif isinstance(value, _LISTS):
        yield from _images_in_list(value, path)
    elif isinstance(value, pa.FixedShapeTensorScalar) and arrays.is_pixels(value.type):
        yield from _images_in_tensor(value)
    elif isinstance(value, pa.StringScalar):
        yield "", Content(converted=Base64Text(value.as_buffer()))
    else:  # an extension type or a dictionary
        yield from images_in(value.value, path)


def only_image_in(value: pa.Scalar) -> Content:
    """The image in a value; an empty content if there are none or several."""
    found = images_in(value)
    _, content = next(found)
    return content if next(found, None) is None else Content()


def _images_in_struct(value: pa.StructScalar) -> Iterator[tuple[str, Content]]:
    for suffix, content in images_in(value["bytes"]):
        if content.image is None and content.converted is None:
            path = value.get("path")
            yield suffix, Content(path=path.as_py()) if isinstance(path, _PATHS) else content
        else:
            yield suffix, content


def _images_in_tensor(value: pa.FixedShapeTensorScalar) -> Iterator[tuple[str, Content]]:
    count = arrays.images_in_tensor(value.type)
    if count is None:
        yield "", Content(converted=Pixels(value))
        return
    for index in range(count):
        yield f"#{index}" if count > 1 else "", Content(converted=Pixels(value, index))


def _images_in_list(value: pa.Scalar, path: tuple[str, ...]) -> Iterator[tuple[str, Content]]:
    if is_byte(value.type.value_type):
        values = value.values
        plain = values.to_numpy(zero_copy_only=not values.null_count).astype("uint8")
        yield "", Content(plain.tobytes())
        return
    if _is_one_array(value):
        yield "", Content(converted=Pixels(value))
        return
    values, path = _at(value.values, path)
    there: Sequence[int] = range(len(values))
    if values.null_count:
        there = np.flatnonzero(pc.is_valid(values).to_numpy(zero_copy_only=False)).tolist()
    if not there:
        yield "", Content()
    for index in there:
        where = f"#{index}" if len(there) > 1 else ""
        for suffix, content in images_in(values[index], path):
            yield where + suffix, content


def _is_one_array(value: pa.Scalar) -> bool:
    """Whether nested lists of uint8 are the pixels of one image, not a list of images."""
    if isinstance(value.type.value_type, pa.StructType) or pa.types.is_dictionary(value.type.value_type):
        return False
    axes, kind = numbers_in(value.type) or (0, None)
    if axes not in (2, 3) or kind != pa.uint8() or len(value.values) == 0:
        return False
    first = value.values
    for _ in range(axes - 2):
        first = first.flatten()
    # A list of encoded images that are lists of bytes looks the same. An image of one row of pixels does not
    # exist in practice.
    start = next((list_.values[:ENOUGH] for list_ in first if list_.is_valid), None)
    if start is None or (axes == 2 and len(value.values) == 1):
        return False
    return kind_of_bytes(start.to_numpy(zero_copy_only=False).astype("uint8").tobytes()) is None


def _at(values: pa.Array, path: tuple[str, ...]) -> tuple[pa.Array, tuple[str, ...]]:
    while path and pa.types.is_struct(values.type):
        values, path = pc.struct_field(values, path[0]), path[1:]
    return values, path
