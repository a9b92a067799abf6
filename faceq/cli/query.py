"""`faceq query`: shows the rows of a table, or exports them or their frames."""

import argparse
import logging
import re
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from faceq.cli.arguments import positive
from faceq.cli.export_pictures import add_picture_arguments, export_frames, how_to_resume, pictures_of
from faceq.cli.filters import add_condition_arguments, filtered
from faceq.cli.rows import print_rows
from faceq.cli.settings import add_config_arguments, load_settings
from faceq.errors import UsageError
from faceq.messages.visible import visible
from faceq.storage.settings import S3Settings
from faceq.table.recommended import FILTER, UNREADABLE

log = logging.getLogger(__name__)

ROWS_SHOWN = 20

_QUERY = """Shows, counts or exports the rows of a result table that fulfil a condition. The condition is SQL
over the table's columns. --faces applies it to each face of the frames, in tables made with faces: all. --sql
runs a whole statement over the view `frames` instead, or, with --faces, over `faces`."""

_EXAMPLES = f"""examples:
  faceq query scores/ "{FILTER}"
  faceq query scores/ "{UNREADABLE}" --columns source,member,error
  faceq query scores/ "abs(yaw) < 20" --order-by "dbcnn desc" --limit 5
  faceq query scores/ "{FILTER}" --count
  faceq query scores/ "dbcnn >= 40" --faces
  faceq query scores/ "dbcnn >= 40" --faces --export-shards people/ --crop aligned
  faceq query scores/ --sql "select status, count(*) from frames group by status"
  faceq query scores/ "{FILTER}" --export good.parquet
  faceq query scores/ "{FILTER}" --export-shards good/
  faceq query scores/ "{FILTER}" --export-shards faces/ --crop aligned:512 --format webp
"""

BEST_OF_EACH = (
    "frame_id in (select frame_id from frames where status = 'scored' "
    "qualify row_number() over (partition by source order by dbcnn desc) <= 5)"
)
"""A condition that holds a whole statement: the five best frames of each source."""

SCORES = ("serfiq", "dbcnn")

_VIDEO_COLUMNS = ("frame_index", "timestamp_s")
"""Columns that are shown only if the rows have video frames."""

_FACE_COLUMNS = ("face", "main")
"""Columns that are shown with --faces."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `faceq query`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = _QUERY, _EXAMPLES
    add_condition_arguments(parser)
    add = parser.add_argument
    add("--columns", metavar="A,B,…", help="columns to show (default: the main ones; in exports: all)")
    add("--order-by", metavar="SQL", help='e.g. "dbcnn desc, serfiq"')
    add(
        "--limit",
        type=positive,
        metavar="N",
        help=f"at most N rows (default: {ROWS_SHOWN} on the terminal, all in an export)",
    )
    add("--faces", action="store_true", help="one row for each face instead of each frame")
    add("--sql", metavar="STATEMENT", help="a whole SELECT over the view `frames` or `faces`")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--count", action="store_true", help="print only the number of rows")
    output.add_argument("--export", metavar="FILE", help="write the rows to a .parquet, .csv or .jsonl file")
    what = "write the frames, or crops of the faces, with their rows as WebDataset tars into a folder"
    output.add_argument("--export-shards", metavar="DIR", help=what)
    add_picture_arguments(parser)
    add_config_arguments(parser)
    parser.set_defaults(run=query, on_interrupt=how_to_resume, only_prints=_only_prints)


def query(options: argparse.Namespace) -> int:
    """`faceq query`: print rows or their number, or export them."""
    from faceq.query.export import check_export, export  # noqa: PLC0415 - DuckDB takes a while to import
    from faceq.query.rows import Rows  # noqa: PLC0415 - as above

    _check_combination(options)
    pictures = pictures_of(options)
    options.where = filtered(options)
    s3 = load_settings(options).s3
    if options.export:
        check_export(options.export, s3)
    status = 0
    with Rows(options.table, s3, faces=options.faces, tracks=_needs_tracks(options)) as rows:
        if options.count:
            print(rows.count(_chosen(rows, options)))
        elif options.export:
            count = export(rows, _chosen(rows, options), options.export, s3)
            print(f"{count:,} rows in {visible(options.export)}")
        elif options.export_shards:
            status = _export_shards(rows, options, pictures, s3)
        else:
            _show(rows, options)
        if not options.faces and _names_track(options) and rows.lacks_tracks():
            log.warning(
                "`track` is null in the `faces` of frames until faceq compact has filled it in: use --faces, "
                "or the table that faceq compact writes"
            )
    return status


def _needs_tracks(options: argparse.Namespace) -> bool:
    """Whether the command line names `track`, or asks for all columns."""
    from faceq.query.faces import statement_needs_tracks  # noqa: PLC0415 - PyArrow takes a while to import

    if options.sql:
        return statement_needs_tracks(options.sql)
    exports_all = options.export_shards or (options.export and not options.columns)
    return exports_all or _names_track(options)


def _names_track(options: argparse.Namespace) -> bool:
    from faceq.query.faces import needs_tracks  # noqa: PLC0415 - PyArrow takes a while to import

    texts = (options.where, options.columns, options.order_by, options.sql)
    return needs_tracks(*(text or "" for text in texts))


def _check_combination(options: argparse.Namespace) -> None:
    """UsageError for flags that exclude each other; it says what to write instead."""
    if options.export_shards and options.sql:
        raise UsageError(
            "query: --export-shards takes a CONDITION, not --sql: a condition may hold a statement, such as "
            f'"{BEST_OF_EACH}"'
        )
    if options.export_shards and options.columns:
        raise UsageError(
            "query: --export-shards writes the whole row of each frame: leave out --columns; to export some "
            "columns without the frames, use --export"
        )
    if options.export_shards and options.order_by and not options.limit:
        raise UsageError(
            "query: --export-shards writes frames in the order of their sources: leave out --order-by, or "
            "add --limit N to take the first N frames in that order"
        )
    if options.sql:
        parts = {
            "the condition": options.where,
            "--filter": options.filter,
            "--columns": options.columns,
            "--order-by": options.order_by,
            "--limit": options.limit,
        }
        given = [name for name, value in parts.items() if value]
        if given:
            raise UsageError(
                f"query: --sql is a whole statement: put {', '.join(given)} into it, such as "
                '"select source, dbcnn from frames where serfiq >= 0.6 order by dbcnn desc limit 5"'
            )


def _only_prints(options: argparse.Namespace) -> bool:
    return not (options.export or options.export_shards)


def _export_shards(rows: Any, options: argparse.Namespace, pictures: Any, s3: S3Settings) -> int:
    from faceq.query import shard_export  # noqa: PLC0415 - as above

    selection = shard_export.Selection(options.where, options.order_by, options.limit)
    total = shard_export.count(rows, selection, pictures)
    return export_frames(rows, selection, total, options, pictures, s3)


def _chosen(rows: Any, options: argparse.Namespace, columns: Sequence[str] | None = None) -> Any:
    """The rows that the command line requests, up to its limit."""
    if options.sql:
        return rows.sql(options.sql)
    names = options.columns.split(",") if options.columns else columns
    return rows.chosen(options.where, names, options.order_by, options.limit)


def _show(rows: Any, options: argparse.Namespace) -> None:
    from faceq.query.rows import MAIN_COLUMNS  # noqa: PLC0415 - as above

    if options.sql:
        found = rows.sql(options.sql)
        shown, total = _first(rows.batches(found, 1 << 16))
        shown = shown if total else rows.arrow(found.limit(0))
    else:
        options.limit = options.limit or ROWS_SHOWN
        source, member, *others = MAIN_COLUMNS
        columns = (source, member, *_VIDEO_COLUMNS, *(_FACE_COLUMNS if options.faces else ()), *others)
        shown = rows.arrow(_chosen(rows, options, columns))
        if not options.columns:
            shown = _without_video_columns(shown)
        total = rows.count(rows.chosen(options.where))
    print_rows(shown)
    print(f"{len(shown):,} of {total:,} rows")
    ranges = _ranges(rows, options.where) if options.where and not (total or options.faces) else ""
    if ranges:
        log.info("no row fulfils the condition; in this table, %s", ranges)


def _ranges(rows: Any, where: str) -> str:
    """The range of each score that a condition names, where there are values."""
    from faceq.query.rows import display  # noqa: PLC0415 - as above

    named = [score for score in SCORES if re.search(rf"\b{score}\b", where, re.IGNORECASE)]
    if not named:
        return ""
    columns = ", ".join(f"min({score}), max({score})" for score in named)
    ends = rows.arrow(rows.sql(f"select {columns} from frames")).to_pydict().values()
    pairs = zip(*[(end[0] for end in ends)] * 2, strict=True)
    found = [(score, low, high) for score, (low, high) in zip(named, pairs, strict=True) if high is not None]
    return ", ".join(f"{score} is between {display(low)} and {display(high)}" for score, low, high in found)


def _without_video_columns(rows: pa.Table) -> pa.Table:
    """The rows; without the columns of video frames if all rows are of images."""
    of_images = pc.and_(pc.equal(rows["frame_index"], 0), pc.is_null(rows["timestamp_s"]))
    return rows.drop_columns(list(_VIDEO_COLUMNS)) if pc.all(of_images, min_count=0).as_py() else rows


def _first(batches: Iterable[pa.Table]) -> tuple[pa.Table, int]:
    """The first rows of a stream of tables, and its number of rows."""
    first: list[pa.Table] = []
    total = 0
    for batch in batches:
        if total < ROWS_SHOWN or not first:
            first.append(batch[: ROWS_SHOWN - total])
        total += len(batch)
    return pa.concat_tables(first) if first else pa.table({}), total
