"""Parquet shards with a column of encoded pictures, as streams of frames."""

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from faceq.frames import Frame
from faceq.listing import Shard, printable
from faceq.parquet import ParquetFile
from faceq.sources.reading import Reading, break_of, open_shard, too_long, unique_name
from faceq.storage import READ_AHEAD
from faceq.table import frame_id

IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes", "content", "data")
"""Names by which the image column of a Parquet shard is known, where several columns are binary."""

KEY_COLUMNS = ("key", "id", "path")
"""The first of these that a Parquet shard has names its frames; else the row number does."""

_BATCH_FRAMES = 32


def read_parquet(shard: Shard, reading: Reading) -> Iterator[Frame]:
    """The frames of one shard, in its order."""
    names: Counter[str] = Counter()
    row = 0
    try:
        with open_shard(shard, reading.s3) as stream, ParquetFile(stream, READ_AHEAD) as file:
            image = _image_column(file.schema_arrow)
            names_there = [name for name in file.schema_arrow.names if name != image]
            key = next((name for name in KEY_COLUMNS if name in names_there), None)
            # In the file's order, which is the order they are read in.
            columns = [name for name in file.schema_arrow.names if name in (image, key)]
            # One row group after another: a batch across two would lose the first where the second is broken.
            groups = range(file.num_row_groups)
            batches = (file.iter_batches(_BATCH_FRAMES, [i], columns) for i in groups)
            for batch in itertools.chain.from_iterable(batches):
                keys = _keys(batch[key]) if key else [None] * len(batch)
                for value, name in zip(batch[image], keys, strict=True):
                    member = unique_name(_member_name(row if name is None else name), names)
                    yield _parquet_frame(shard, value, member, reading)
                    row += 1
    except Exception as error:
        yield break_of(shard, error, f"at row {row}", reading)


def _keys(column: pa.Array) -> list[Any]:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    # Text that is not UTF-8 can be had as bytes only; these are not checked.
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    return column.to_pylist()


def _member_name(key: Any) -> str:
    return key.decode("utf-8", "backslashreplace") if isinstance(key, bytes) else printable(str(key))


def _image_column(schema: pa.Schema) -> str:
    images = [field.name for field in schema if _holds_images(field.type)]
    named = [name for name in IMAGE_COLUMNS if name in images]
    if len(images) == 1 or named:
        return named[0] if named else images[0]
    which = f"several binary columns ({', '.join(images)})" if images else "no binary column"
    raise pa.ArrowInvalid(
        f"{which} among {', '.join(schema.names) or 'none'}: call the one with the encoded pictures `image`"
    )


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        # Hugging Face's image feature: a struct of `bytes` and `path`.
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_images(kind.field(index).type)
    if pa.types.is_dictionary(kind):
        return _holds_images(kind.value_type)
    binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(is_kind(kind) for is_kind in (*binary, pa.types.is_fixed_size_binary))


def _parquet_frame(shard: Shard, value: pa.Scalar, member: str, reading: Reading) -> Frame:
    if frame_id(shard.source, member, 0) in reading.done:
        return Frame(shard.source, member, 0, None, done=True)
    content = value.as_py()
    if isinstance(content, dict):
        content = content["bytes"]
    if content is None:
        return Frame(shard.source, member, 0, None, error="the image column is null in this row")
    if len(content) > reading.limits.frame_bytes:
        return Frame(shard.source, member, 0, None, error=too_long(len(content), reading))
    return Frame(shard.source, member, 0, content)
