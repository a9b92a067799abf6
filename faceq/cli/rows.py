"""Rows of a table, printed for people."""

import sys
from typing import Literal

import pyarrow as pa
import rich.console
import rich.markup
import rich.table

from faceq.messages.visible import visible


def print_rows(rows: pa.Table) -> None:
    """Print rows as a table. A pipe has no width: each row is one line there."""
    from faceq.query.rows import display  # noqa: PLC0415 - DuckDB takes a while to import

    terminal = sys.stdout.isatty()
    shown = rich.table.Table(box=None, pad_edge=False)
    for field in rows.schema:
        left = pa.types.is_string(field.type)
        justify: Literal["left", "right"] = "left" if left else "right"
        title = rich.markup.escape(visible(field.name))
        shown.add_column(title, justify=justify, overflow="fold", no_wrap=not terminal)
    for row in zip(*(column.to_pylist() for column in rows.columns), strict=True):
        shown.add_row(*(rich.markup.escape(visible(display(value))) for value in row))
    width = None if terminal else max(80, rich.console.Console(width=1 << 20).measure(shown).maximum)
    rich.console.Console(width=width).print(shown)
