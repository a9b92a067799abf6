"""`faceq clips`: the stretches of videos whose frames fulfil a condition."""

import argparse
import logging

from faceq.cli.filters import add_condition_arguments, filtered
from faceq.cli.rows import print_rows
from faceq.cli.settings import add_config_arguments, load_settings
from faceq.messages.visible import visible
from faceq.table.recommended import FILTER

log = logging.getLogger(__name__)

CLIPS_SHOWN = 20

SHOWN = ("source", "member", "start_s", "end_s", "share", "serfiq_mean", "dbcnn_mean", "motion_mean")

_CLIPS = f"""Finds clips in the videos of a result table: stretches of one shot whose frames fulfil a
condition. The default condition is the recommended filter, {FILTER}. A gap of frames that fail or are missing
is bridged if it is short. A stretch that is too long becomes several clips."""

_EXAMPLES = """examples:
  faceq clips scores/ --filter talking-head
  faceq clips scores/ --filter talking-head --out clips.parquet
  faceq clips scores/ "serfiq >= 0.6 and abs(yaw) < 30" --min-seconds 5 --out clips.csv
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `faceq clips`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = _CLIPS, _EXAMPLES
    add_condition_arguments(parser)
    add = parser.add_argument
    add("--out", metavar="FILE", help="write the clips to a .parquet, .csv or .jsonl file; local or s3://")
    what = "minimum time from the first to the last frame of a clip (default: 3)"
    add("--min-seconds", type=float, default=3.0, metavar="S", help=what)
    what = "maximum time from the first to the last frame of a clip (default: 15)"
    add("--max-seconds", type=float, default=15.0, metavar="S", help=what)
    what = "longest gap within a clip (default: 0.5)"
    add("--max-gap", type=float, default=0.5, metavar="S", help=what)
    add_config_arguments(parser)
    parser.set_defaults(run=clips, only_prints=lambda options: options.out is None)


def clips(options: argparse.Namespace) -> int:
    """`faceq clips`: print the clips of a table, or write them to a file."""
    from faceq.query.export import check_export, export  # noqa: PLC0415 - DuckDB takes a while to import
    from faceq.query.rows import Rows  # noqa: PLC0415 - as above
    from faceq.selection.clips import MEMORY, Lengths, find  # noqa: PLC0415 - as above

    lengths = Lengths(options.min_seconds, options.max_seconds, options.max_gap)
    condition = filtered(options)
    if options.out:
        check_export(options.out)
    s3 = load_settings(options).s3
    with Rows(options.table, s3, memory_limit=MEMORY) as rows:
        found = find(rows, condition, lengths)
        if options.out:
            export(rows, rows.sql(f"FROM {rows.name_of(found)}"), options.out, s3)
    if not options.out:
        print_rows(found.select(SHOWN)[:CLIPS_SHOWN])
    seconds = sum(found["end_s"].to_numpy() - found["start_s"].to_numpy())
    more = f" in {visible(options.out)}" if options.out else ""
    print(f"{len(found):,} clips, {seconds:,.1f} s{more}")
    if not len(found):
        log.info(
            "no stretch is long enough: try a smaller --min-seconds or a larger --max-gap; faceq explain "
            "says which part of the condition rejects most frames"
        )
    return 0
