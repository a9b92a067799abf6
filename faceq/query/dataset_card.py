"""The README.md of an export of frames: its dataset card for the Hugging Face library `datasets`."""

import textwrap
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import yaml

OTHER = "bin"
"""The extension of content that is not an image."""

ROW = "faceq.json"
"""The extension of the row of a frame."""

_SIDECARS = {
    **dict.fromkeys(("txt", "text", "transcript"), "string"),
    **dict.fromkeys(("cls", "cls2", "index", "inx", "id"), "int64"),
    **dict.fromkeys(("json", "jsn", "npy", "ten", "tb", "mp", "msg", "cbor"), "json"),
}
"""Types of sidecars by their last extension, as the library `datasets` parses them. Its type `json` has any
lists and objects. Others remain bytes, unless the library parses them into objects that it cannot store."""

_UNKNOWN = ("npz", "pth", "gz", "bz2", "xz", "zst", "lz4")
"""Last extensions of sidecars that the library parses or unpacks into something of unknown type. It leaves
out columns that the card does not name."""

_DTYPES = {"float": "float32", "double": "float64"}
"""Names of Arrow types that differ in the library `datasets`; all others are the same."""

ORIGINAL_BYTES = (
    "Images and sidecars have the same bytes as in their source. Frames of videos are lossless PNGs."
)
"""What the images of an export are by default."""

_CARD = """
# Frames of a faceq result table

Each sample in the tars is an image, its row of the table (`.faceq.json`), and the sidecars that it had in its
{rest}

```python
from datasets import load_dataset

frames = load_dataset("path/to/this/folder", split="train")
```

Written by faceq's `--export-shards`. It is rewritten when the same command adds frames.
"""


def dataset_card(
    endings: Iterable[str], sidecars: Iterable[str], columns: pa.Schema, images: str = ORIGINAL_BYTES
) -> str:
    """The README.md of an export. It tells the Hugging Face library `datasets` where the tars are, and the
    type of every column.

    Args:
        endings: file extensions of the images. Each becomes a column, which is null in samples with another
            extension.
        sidecars: extensions of the sidecars, with the same effect.
        columns: columns of the rows.
        images: what the images are.
    """
    pictures = [{"name": each, "dtype": "binary" if each == OTHER else "image"} for each in endings]
    files = [
        {"name": each, "dtype": _SIDECARS.get(_last(each), "binary")}
        for each in sidecars
        if _last(each) not in _UNKNOWN
    ]
    row = {"name": ROW, "struct": [_feature(column) for column in columns]}
    strings = [{"name": name, "dtype": "string"} for name in ("__key__", "__url__")]
    types = {
        "configs": [{"config_name": "default", "data_files": "*.tar"}],
        "dataset_info": {"features": [*pictures, *files, row, *strings]},
    }
    text = _CARD.format(rest=textwrap.fill(f"source. {images}", 110))
    return f"---\n{yaml.safe_dump(types, sort_keys=False)}---\n{text}"


def _last(extension: str) -> str:
    return extension.rpartition(".")[2]


def _feature(column: pa.Field) -> dict[str, Any]:
    """A column as a feature of the library `datasets`."""
    kind = column.type
    if pa.types.is_list(kind):
        inner = _feature(kind.value_field)
        return {
            "name": column.name,
            "list": inner.get("dtype") or inner.get("struct") or {"list": inner["list"]},
        }
    if pa.types.is_struct(kind):
        return {"name": column.name, "struct": [_feature(part) for part in kind]}
    return {"name": column.name, "dtype": _DTYPES.get(str(kind), str(kind))}
