"""`faceq select`: the best different frames of each group."""

import argparse
import logging
from typing import Any

import rich.console

from faceq.cli.arguments import positive
from faceq.cli.export_pictures import add_picture_arguments, export_frames, how_to_resume, pictures_of
from faceq.cli.filters import add_condition_arguments, filtered
from faceq.cli.rows import print_rows
from faceq.cli.settings import add_config_arguments, load_settings
from faceq.messages.visible import visible
from faceq.table.recommended import FILTER

log = logging.getLogger(__name__)

ROWS_SHOWN = 20

SHOWN = ("source", "member", "frame_index", "face", "group", "rank", "bin", "serfiq", "dbcnn", "yaw", "pitch")

_SELECT = f"""Selects the best frames of each group that differ from each other. A frame must fulfil the
condition; the default condition is the recommended filter, {FILTER}. Frames are chosen one after the other:
each time the best one that is distinct from all chosen ones of its group. With --faces, faces are chosen
instead of frames, in tables made with faces: all."""

_EXAMPLES = """examples:
  faceq select scores/ --per source --top 10 --distinct hash --out best.parquet
  faceq select scores/ --per extra.identity --top 20 --distinct embedding:0.8 --out people.csv
  faceq select scores/ --top 1000 --balance yaw:5,pitch:3 --distinct hash --export-shards best/
  faceq select scores/ --faces --per track --top 5 --distinct hash --export-shards people/ --crop aligned
  faceq select scores/ --filter portrait --per shot --top 1 --by sharpness --total 500 --out covers.jsonl
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `faceq select`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = _SELECT, _EXAMPLES
    add_condition_arguments(parser)
    add = parser.add_argument
    what = "write the chosen rows to a .parquet, .csv or .jsonl file; a path or a URI"
    add("--out", metavar="FILE", help=what)
    what = "write the chosen frames, or crops of the faces, with their rows as WebDataset tars into a folder"
    add("--export-shards", metavar="DIR", help=what)
    add_picture_arguments(parser)
    add("--faces", action="store_true", help="select faces instead of frames, in tables made with faces: all")
    what = (
        "what a group is: source, shot, extra.KEY, cluster or, with --faces, track (default: the whole table "
        "is one group)"
    )
    add("--per", metavar="GROUP", help=what)
    add("--clusters", metavar="FILE", help="with --per cluster: the file of faceq cluster")
    add("--top", type=positive, metavar="N", help="at most N frames per group (default: all)")
    what = "SQL, higher is better (default: the geometric mean of both scores, sqrt(serfiq * dbcnn / 100))"
    add("--by", metavar="EXPR", help=what)
    what = (
        "hash:BITS: chosen frames of a group differ in at least BITS of 64 bits of dhash, 8 without a "
        "number; embedding:COSINE: their embeddings have at most this cosine, 0.95 without a number"
    )
    add("--distinct", metavar="BY", help=what)
    what = "angles and their numbers of bins, such as yaw:5,pitch:3: as many of each bin as possible"
    add("--balance", metavar="BINS", help=what)
    what = "at most N frames of all groups: first the best of each group, then the second of each, …"
    add("--total", type=positive, metavar="N", help=what)
    add("--seed", type=int, default=0, metavar="N", help="order of frames with equal scores (default: 0)")
    add_config_arguments(parser)
    parser.set_defaults(run=select, on_interrupt=how_to_resume, only_prints=_only_prints)


def select(options: argparse.Namespace) -> int:
    """`faceq select`: print the chosen rows, write them to a file, or export their frames."""
    from faceq.query.export import check_export, export  # noqa: PLC0415 - DuckDB takes a while to import
    from faceq.query.faces import needs_tracks  # noqa: PLC0415 - as above
    from faceq.query.shard_export import Selection  # noqa: PLC0415 - as above
    from faceq.selection.limited_rows import limited_rows  # noqa: PLC0415 - as above
    from faceq.selection.select import find  # noqa: PLC0415 - as above
    from faceq.selection.select_options import options as checked  # noqa: PLC0415 - as above

    pictures = pictures_of(options)
    condition = filtered(options)
    texts = (options.per, options.top, options.by, options.distinct, options.balance, options.total)
    wanted = checked(*texts, options.seed, options.clusters, options.faces)
    s3 = load_settings(options).s3
    if options.out:
        check_export(options.out, s3)
    # What is printed has no column `track`; whole rows have it.
    tracks = bool(options.out or options.export_shards) or needs_tracks(
        condition or "", wanted.by, wanted.per or ""
    )
    with limited_rows(options.table, s3, faces=options.faces, tracks=tracks) as rows:
        people = rich.console.Console(stderr=True, quiet=not options.shown.for_people)
        with people.status(f"choosing {rows.view}"):
            found = find(rows, condition, wanted, options.clusters, s3)
            if options.out:
                export(rows, found.rows, options.out, s3, found.metadata)
        if not (options.out or options.export_shards):
            shown = rows.arrow(found.rows.limit(ROWS_SHOWN))
            shown = shown.select([name for name in SHOWN if name in shown.column_names])
            empty = [name for name in shown.column_names if shown[name].null_count == len(shown) > 0]
            print_rows(shown.drop_columns(empty))
        _print_summary(found.choice, wanted, options, rows)
        if options.export_shards:
            selection = Selection(found.record["where"], choice=found.key)
            total = len(found.choice.frames)
            return export_frames(rows, selection, total, options, pictures, s3, found.rows)
    return 0


def _print_summary(choice: Any, wanted: Any, options: argparse.Namespace, rows: Any) -> None:
    """Print the numbers of the selection."""
    place = f" in {visible(options.out)}" if options.out else ""
    groups = f"{choice.groups:,}"
    if choice.short:
        groups += f", {choice.short:,} of them with fewer than {wanted.top:,} to choose"
    lines = {
        "groups": groups if wanted.per else "",
        "candidates": f"{choice.candidates:,}",
        "chosen": f"{len(choice.frames):,}{place}",
        "too similar": f"{choice.similar:,}" if wanted.distinct else "",
        "not needed": f"{choice.beyond:,}" if wanted.top or wanted.total else "",
    }
    for name, text in lines.items():
        if text:
            print(f"{name:<13}{text}")
    for name, count in choice.without.items():
        if count:
            what = f"{count:,} {rows.view}"
            log.warning("%s that fulfil the condition are left out: no %s", what, name)
    if choice.short and not wanted.per:
        log.warning("there are only %s %s to choose", f"{len(choice.frames):,}", rows.view)
    if not choice.candidates:
        log.info(
            "no %s is a candidate: faceq explain says which part of the condition rejects most frames",
            rows.noun,
        )


def _only_prints(options: argparse.Namespace) -> bool:
    return not (options.out or options.export_shards)
