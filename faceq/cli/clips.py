"""`faceq clips`: the stretches of videos whose frames fulfil a condition."""

import argparse
import logging
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from faceq.cli.filters import add_condition_arguments, filtered
from faceq.cli.progress_bar import progress_bar
from faceq.cli.rows import print_rows
from faceq.cli.settings import add_config_arguments, load_settings
from faceq.errors import UsageError
from faceq.messages.visible import visible
from faceq.storage.settings import S3Settings
from faceq.table.recommended import FILTER

log = logging.getLogger(__name__)

CLIPS_SHOWN = 20

SHOWN = ("source", "member", "track", "start_s", "end_s", "share", "serfiq_mean", "dbcnn_mean", "motion_mean")

_CLIPS = f"""Finds clips in the videos of a result table: stretches of one shot whose frames fulfil a
condition. The default condition is the recommended filter, {FILTER}. A gap of frames that fail or are missing
is bridged if it is short. A stretch that is too long becomes several clips. With --per track, a clip follows
one face, and the condition is one on this face. --cut writes each clip as a video."""

_EXAMPLES = """examples:
  faceq clips scores/ --filter talking-head
  faceq clips scores/ --filter talking-head --out clips.parquet
  faceq clips scores/ "serfiq >= 0.6 and abs(yaw) < 30" --min-seconds 5 --out clips.csv
  faceq clips scores/ --filter talking-head --cut clips/
  faceq clips scores/ --filter talking-head --cut faces/ --crop face
  faceq clips scores/ "serfiq >= 0.6" --per track --cut people/ --crop face
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `faceq clips`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = _CLIPS, _EXAMPLES
    add_condition_arguments(parser)
    add = parser.add_argument
    output = parser.add_mutually_exclusive_group()
    what = "write the list of clips to a .parquet, .csv or .jsonl file; a path or a URI"
    output.add_argument("--out", metavar="FILE", help=what)
    what = "write each clip as a video into a local folder, with the list clips.parquet"
    output.add_argument("--cut", metavar="DIR", help=what)
    what = "minimum time from the first to the last frame of a clip (default: 3)"
    add("--min-seconds", type=float, default=3.0, metavar="S", help=what)
    what = "maximum time from the first to the last frame of a clip (default: 15)"
    add("--max-seconds", type=float, default=15.0, metavar="S", help=what)
    what = "track: find the clips of each face that is followed through a shot"
    add("--per", choices=("track",), help=what)
    what = "longest gap within a clip (default: 0.5)"
    add("--max-gap", type=float, default=0.5, metavar="S", help=what)
    add(
        "--cut-mode",
        choices=("encode", "copy"),
        help="encode: exact ends, H.264 and AAC (default); copy: without encoding, from a key frame on",
    )
    what = "cut out a square that follows the face instead of the whole frame"
    add("--crop", choices=("face",), help=what)
    add("--crop-size", type=int, metavar="N", help="side of the square in pixels (default: 512)")
    add_config_arguments(parser)
    parser.set_defaults(run=clips, on_interrupt=_how_to_resume, only_prints=_only_prints)


def clips(options: argparse.Namespace) -> int:
    """`faceq clips`: print the clips of a table, write them to a file, or cut them out."""
    from faceq.query.export import check_export, export  # noqa: PLC0415 - DuckDB takes a while to import
    from faceq.selection.clips import Lengths, clip_rows, find  # noqa: PLC0415 - as above

    lengths = Lengths(options.min_seconds, options.max_seconds, options.max_gap)
    condition = filtered(options)
    _check_combination(options)
    way = _way(options) if options.cut else None
    s3 = load_settings(options).s3
    if options.out:
        check_export(options.out, s3)
    with clip_rows(options.table, s3, options.per) as rows:
        found = find(rows, condition, lengths)
        if options.out:
            export(rows, rows.sql(f"FROM {rows.name_of(found)}"), options.out, s3)
        if way:
            selection = {"condition": condition, **vars(lengths), "per": options.per}
            found = _cut(rows, found, way, selection, options, s3)
    if not (options.out or options.cut):
        shown = [name for name in SHOWN if name in found.column_names]
        print_rows(found.select(shown)[:CLIPS_SHOWN])
    lost = []
    if options.cut:
        lost = found.filter(pc.is_valid(found["error"])).select(["source", "member", "error"]).to_pylist()
        found = found.filter(pc.is_null(found["error"]))
    seconds = sum(found["end_s"].to_numpy() - found["start_s"].to_numpy())
    place = options.out or options.cut
    print(f"{len(found):,} clips, {seconds:,.1f} s{f' in {visible(place)}' if place else ''}")
    if lost:
        first = lost[0]
        name = first["source"] if first["member"] is None else f"{first['source']}: {first['member']}"
        log.warning("%s clips could not be cut, the first: %s: %s", f"{len(lost):,}", name, first["error"])
    elif not len(found):
        log.info(
            "no stretch is long enough: try a smaller --min-seconds or a larger --max-gap; faceq explain%s "
            "says which part of the condition rejects most %s",
            *((" --faces", "faces") if options.per else ("", "frames")),
        )
    return 1 if lost else 0


def _check_combination(options: argparse.Namespace) -> None:
    """UsageError for flags that need others."""
    if not options.cut and (options.cut_mode or options.crop or options.crop_size is not None):
        raise UsageError("clips: --cut-mode, --crop and --crop-size need --cut DIR")
    if options.crop_size is not None and not options.crop:
        raise UsageError("clips: --crop-size needs --crop face")


def _how_to_resume(options: argparse.Namespace) -> str:
    return ": run the same command again to continue" if options.cut else ""


def _only_prints(options: argparse.Namespace) -> bool:
    return not (options.out or options.cut)


def _way(options: argparse.Namespace) -> Any:
    """How clips are cut. UsageError before the table is read if this is not possible."""
    from faceq.selection.cut_folder import CutFolder  # noqa: PLC0415 - PyAV takes a while to import
    from faceq.selection.cutting import Way  # noqa: PLC0415 - as above

    CutFolder(options.cut)
    size = 512 if options.crop_size is None else options.crop_size
    return Way(options.cut_mode or "encode", options.crop, size)


def _cut(
    rows: Any,
    found: pa.Table,
    way: Any,
    selection: dict[str, object],
    options: argparse.Namespace,
    s3: S3Settings,
) -> pa.Table:
    from faceq.selection.cutting import cut  # noqa: PLC0415 - PyAV takes a while to import

    with progress_bar(options.shown, "clips", len(found)) as advance:
        return cut(rows, found, options.cut, way, selection, s3, advance)
