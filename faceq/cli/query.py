"""`faceq query`: rows of a table on the terminal, in a file, or as shards of their frames."""

import argparse
import logging
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import pyarrow as pa
import rich.console
import rich.markup
import rich.progress
import rich.table

from faceq.cli.arguments import positive
from faceq.cli.settings import add_config_arguments, load_settings
from faceq.errors import UsageError
from faceq.messages.visible import visible
from faceq.storage.settings import S3Settings

log = logging.getLogger(__name__)

ROWS_SHOWN = 20

_QUERY = """Rows of a result table that fulfil a condition (SQL, over the table's columns), or their number,
or what a whole SQL statement over the view `frames` gives."""

_EXAMPLES = """examples:
  faceq query scores/ "serfiq >= 0.6 and dbcnn >= 55"
  faceq query scores/ "status = 'unreadable'" --columns source,member,error
  faceq query scores/ "abs(yaw) < 20" --order-by "dbcnn desc" --limit 5
  faceq query scores/ "serfiq >= 0.6" --count
  faceq query scores/ --sql "select status, count(*) from frames group by status"
  faceq query scores/ "serfiq >= 0.6 and dbcnn >= 55" --export good.parquet
  faceq query scores/ "serfiq >= 0.6 and dbcnn >= 55" --export-shards good/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `faceq query`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = _QUERY, _EXAMPLES
    add = parser.add_argument
    add("table", metavar="TABLE", help="folder or s3:// prefix of a result table")
    add("where", nargs="?", metavar="CONDITION", help='SQL, e.g. "serfiq >= 0.6 and dbcnn >= 55"')
    add("--columns", metavar="A,B,…", help="columns to show (default: the main ones; exports: all)")
    add("--order-by", metavar="SQL", help='e.g. "dbcnn desc, serfiq"')
    add(
        "--limit",
        type=positive,
        metavar="N",
        help=f"at most N rows (default: {ROWS_SHOWN} on the terminal, all in an export)",
    )
    add("--sql", metavar="STATEMENT", help="a whole statement over the view `frames`, in place of the above")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--count", action="store_true", help="print only how many rows there are")
    output.add_argument("--export", metavar="FILE", help="write the rows to a .parquet, .csv or .jsonl file")
    what = "write the frames themselves, with their rows, as WebDataset tars into a folder"
    output.add_argument("--export-shards", metavar="DIR", help=what)
    add_config_arguments(parser)
    parser.set_defaults(run=query, on_interrupt=_how_to_go_on, only_prints=_only_prints)


def query(options: argparse.Namespace) -> int:
    """`faceq query`: print rows or their number, or export them."""
    from faceq.query.export import check_export, export  # noqa: PLC0415 - DuckDB takes a while to import
    from faceq.query.rows import Rows  # noqa: PLC0415 - as above

    if options.sql and (options.where or options.columns or options.order_by or options.limit):
        raise UsageError("query: --sql is a whole statement: put condition, columns, order and limit into it")
    if options.export_shards and (options.sql or options.columns):
        raise UsageError("query: --export-shards takes a CONDITION, and writes the whole row of each frame")
    if options.export_shards and options.order_by and not options.limit:
        raise UsageError("query: --export-shards goes by sources: --order-by says which frames --limit takes")
    if options.export:
        check_export(options.export)
    s3 = load_settings(options).s3
    with Rows(options.table, s3) as rows:
        if options.count:
            print(rows.count(_chosen(rows, options)))
        elif options.export:
            count = export(rows, _chosen(rows, options), options.export, s3)
            print(f"{count:,} rows in {visible(options.export)}")
        elif options.export_shards:
            return _export_shards(rows, options, s3)
        else:
            _show(rows, options)
    return 0


def _how_to_go_on(options: argparse.Namespace) -> str:
    return ": run the same command again to continue where it stopped" if options.export_shards else ""


def _only_prints(options: argparse.Namespace) -> bool:
    return not (options.export or options.export_shards)


def _export_shards(rows: Any, options: argparse.Namespace, s3: S3Settings) -> int:
    from faceq.query import shard_export  # noqa: PLC0415 - as above

    selection = shard_export.Selection(options.where, options.order_by, options.limit)
    total = shard_export.count(rows, selection)
    with rich.progress.Progress(
        console=rich.console.Console(stderr=True), transient=True, disable=not options.shown.for_people
    ) as bar:
        task = bar.add_task("frames", total=total)
        done = shard_export.export_shards(
            rows, selection, options.export_shards, s3, lambda more: bar.advance(task, more)
        )
    print(f"{done.written:,} frames in {visible(options.export_shards)}", end="")
    print(f", {done.already:,} were there before" if done.already else "")
    if done.lost:
        log.warning("%s frames could not be read, the first: %s", f"{done.lost:,}", done.reason)
    return 1 if done.lost else 0


def _chosen(rows: Any, options: argparse.Namespace, columns: Sequence[str] | None = None) -> Any:
    """What the command line asks for, up to its limit."""
    if options.sql:
        return rows.sql(options.sql)
    names = options.columns.split(",") if options.columns else columns
    return rows.chosen(options.where, names, options.order_by, options.limit)


def _show(rows: Any, options: argparse.Namespace) -> None:
    from faceq.query.rows import MAIN_COLUMNS  # noqa: PLC0415 - as above

    if options.sql:
        shown, total = _first(rows.batches(rows.sql(options.sql), 1 << 16))
    else:
        options.limit = options.limit or ROWS_SHOWN
        shown = rows.arrow(_chosen(rows, options, MAIN_COLUMNS))
        total = rows.count(rows.chosen(options.where))
    _print_rows(shown)
    print(f"{len(shown):,} of {total:,} rows")


def _first(batches: Iterable[pa.Table]) -> tuple[pa.Table, int]:
    """The first rows of a stream of tables, and how many rows it has."""
    first: list[pa.Table] = []
    total = 0
    for batch in batches:
        if total < ROWS_SHOWN or not first:
            first.append(batch[: ROWS_SHOWN - total])
        total += len(batch)
    return pa.concat_tables(first) if first else pa.table({}), total


def _print_rows(rows: pa.Table) -> None:
    from faceq.query.rows import display  # noqa: PLC0415 - as above

    terminal = sys.stdout.isatty()
    shown = rich.table.Table(box=None, pad_edge=False)
    for field in rows.schema:
        left = pa.types.is_string(field.type)
        justify: Literal["left", "right"] = "left" if left else "right"
        # A pipe has no width: there a row is a line.
        title = rich.markup.escape(visible(field.name))
        shown.add_column(title, justify=justify, overflow="fold", no_wrap=not terminal)
    for row in zip(*(column.to_pylist() for column in rows.columns), strict=True):
        shown.add_row(*(rich.markup.escape(visible(display(value))) for value in row))
    width = None if terminal else max(80, rich.console.Console(width=1 << 20).measure(shown).maximum)
    rich.console.Console(width=width).print(shown)
