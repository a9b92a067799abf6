"""README.md of an export of frames: its dataset card, as Hugging Face's datasets read it."""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import yaml

OTHER = "bin"
"""The ending of bytes that are no picture."""

_DTYPES = {"float": "float32", "double": "float64"}
"""What Hugging Face's datasets call some types of Arrow's; the others have the same names there."""

_CARD = """
# Frames of a faceq result table

Each sample of the tars is a picture, byte for byte as it was in its source, and its row of the table
(`.json`).

```python
from datasets import load_dataset

frames = load_dataset("path/to/this/folder", split="train")
```

Written by `faceq query --export-shards`, and written anew when the same command adds frames.
"""


def dataset_card(endings: Iterable[str], columns: pa.Schema) -> str:
    """README.md of an export, as Hugging Face's datasets read it: the tars, and the type of every column.

    Args:
        endings: those of the pictures, each a column that is null where a sample has another one.
        columns: of the rows.
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
    """A column in the words of Hugging Face's datasets."""
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
