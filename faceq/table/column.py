"""The description of a column of the result table."""

from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True)
class Column:
    """One column of the result table.

    name, type: as in each Parquet file. meaning: what a value says, in Markdown. unit, range: of the numbers;
    empty where there is none. null: when the column is null; `never` if it cannot be.
    """

    name: str
    type: pa.DataType
    meaning: str
    unit: str = ""
    range: str = ""
    null: str = "never"

    @property
    def field(self) -> pa.Field:
        return pa.field(self.name, self.type, nullable=self.null != "never")


NO_FRAME = "`status` is `unreadable`"
NO_FACE = "`status` is `unreadable` or `no_face`"
NO_SERFIQ = "`status` is `unreadable`, `no_face` or `face_too_small`"
NO_DBCNN = "`status` is not `scored`"
