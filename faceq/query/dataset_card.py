"""The README.md of an export of frames: its dataset card for the Hugging Face library `datasets`."""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import yaml

OTHER = "bin"
"""The extension of content that is not an image."""

_DTYPES = {"float": "float32", "double": "float64"}
"""Names of Arrow types that differ in the library `datasets`; all others are the same."""

_CARD = """
# Frames of a faceq result table

Each sample in the tars is an image and its row of the table (`.json`). Images have the same bytes as in their
source. Frames of videos are lossless PNGs.

```python
from datasets import load_dataset

frames = load_dataset("path/to/this/folder", split="train")
```

Written by `faceq query --export-shards`. It is rewritten when the same command adds frames.
"""


def dataset_card(endings: Iterable[str], columns: pa.Schema) -> str:
    """The README.md of an export. It tells the Hugging Face library `datasets` where the tars are, and the
    type of every column.

    Args:
        endings: file extensions of the images. Each becomes a column, which is null in samples with another
            extension.
        columns: columns of the rows.
    """
    pictures = [{"name": each, "dtype": "binary" if each == OTHER else "image"} for each in endings]
    row = {"name": "json", "struct": [_feature(column) for column in columns]}
    strings = [{"name": name, "dtype": "string"} for name in ("__key__", "__url__")]
    about = {
        "configs": [{"config_name": "default", "data_files": "*.tar"}],
        "dataset_info": {"features": [*pictures, row, *strings]},
    }
    return f"---\n{yaml.safe_dump(about, sort_keys=False)}---\n{_CARD}"


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
