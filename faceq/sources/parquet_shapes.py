"""Columns of a Parquet file that state the shape of images stored as flat pixels."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from faceq.sources.arrays import FlatPixels
from faceq.sources.parquet_types import is_list, is_plain
from faceq.sources.parquet_values import Content
from faceq.sources.sniff import ENOUGH, kind_of_bytes

_USUAL = (b"\xff\xd8\xff", b"\x89PNG")
"""How most images begin."""


@dataclass(frozen=True)
class ShapeColumns:
    """The columns `height`, `width` and, if there is one, `channels`; or the column `shape`, the shape of an
    array. names: of these columns."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, schema: pa.Schema) -> "ShapeColumns | None":
        """Those of a file; None if it has none."""

        def has(name: str) -> bool:
            return schema.names.count(name) == 1 and pa.types.is_integer(schema.field(name).type)

        if has("height") and has("width"):
            return cls(("height", "width", "channels") if has("channels") else ("height", "width"))
        if schema.names.count("shape") == 1:
            kind = schema.field("shape").type
            if is_list(kind) and pa.types.is_integer(kind.value_type):
                return cls(("shape",))
        return None

    def are_needed(self, batch: pa.RecordBatch, values: pa.Array) -> bool:
        """Whether some of these values in a batch may be pixels."""
        if not set(self.names) <= set(batch.schema.names):
            return False  # a column that cannot be read is not in the batch
        if not is_plain(values.type):
            return True
        # To check all at once takes less time than to look at each of them.
        usual = [pc.fill_null(pc.starts_with(values, start), True) for start in _USUAL]
        return not pc.all(pc.or_(*usual)).as_py()

    def as_pixels(self, content: Content, batch: pa.RecordBatch, row: int) -> Content:
        """The content of a row, as pixels if its bytes are no file and the row has a shape."""
        image = content.image
        if image is None:
            return content
        head = bytes(memoryview(image)[:ENOUGH])
        if kind_of_bytes(head) is not None:
            return content
        axes: tuple[str, ...] | None = None
        if self.names == ("shape",):
            shape = batch["shape"][row].as_py()
        else:
            shape = [batch[name][row].as_py() for name in self.names]
            has_channels = shape[2:] and shape[2] is not None
            shape, axes = (shape, ("h", "w", "c")) if has_channels else (shape[:2], ("h", "w"))
        if not shape or None in shape:
            return content
        return Content(converted=FlatPixels(image, tuple(shape), axes))
