"""The kinds of sources."""

from typing import Literal

Kind = Literal["picture", "tar", "parquet", "record", "lmdb", "video"]
