"""`faceq duplicates`: frames of a table that look the same."""

import argparse
import logging

from faceq.cli.filters import add_condition_arguments, filtered
from faceq.cli.settings import add_config_arguments, load_settings
from faceq.messages.visible import visible

log = logging.getLogger(__name__)

_DUPLICATES = """Finds near-duplicates in a result table: frames whose faces have nearly the same difference
hash or embedding. Writes the pairs, or with --group one row for each frame that has a duplicate. Frames with
equal hashes are paired with the best of them only, and only the best one is compared with other hashes."""

_EXAMPLES = """examples:
  faceq duplicates scores/ --out pairs.parquet
  faceq duplicates scores/ "dbcnn >= 55" --by hash:4 --group --out groups.parquet
  faceq duplicates scores/ --by embedding:0.95 --out pairs.csv
  faceq duplicates scores/ --faces --out pairs.parquet
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `faceq duplicates`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = _DUPLICATES, _EXAMPLES
    add_condition_arguments(parser)
    what = "write the list to a .parquet, .csv or .jsonl file; a path or a URI"
    parser.add_argument("--out", metavar="FILE", required=True, help=what)
    parser.add_argument(
        "--by",
        default="hash:2",
        metavar="HOW",
        help="hash:BITS: hashes that differ in at most BITS of 64 bits, 2 without a number; "
        "embedding:COSINE: embeddings whose cosine is at least COSINE, 0.95 without a number "
        "(default: hash:2)",
    )
    what = "compare all faces instead of frames, in tables made with faces: all"
    parser.add_argument("--faces", action="store_true", help=what)
    what = "write connected groups, each with its best frame as the representative, instead of pairs"
    parser.add_argument("--group", action="store_true", help=what)
    add_config_arguments(parser)
    parser.set_defaults(run=duplicates)


def duplicates(options: argparse.Namespace) -> int:
    """`faceq duplicates`: write the pairs or groups of a table to a file."""
    from faceq.query.export import check_export, export  # noqa: PLC0415 - DuckDB takes a while to import
    from faceq.query.faces import needs_tracks  # noqa: PLC0415 - as above
    from faceq.selection.duplicates import find, likeness  # noqa: PLC0415 - as above
    from faceq.selection.limited_rows import limited_rows  # noqa: PLC0415 - as above

    alike = likeness(options.by)
    condition = filtered(options)
    s3 = load_settings(options).s3
    check_export(options.out, s3)
    tracks = needs_tracks(condition or "")
    with limited_rows(options.table, s3, faces=options.faces, tracks=tracks) as rows:
        found = find(rows, condition, alike, options.group)
        export(rows, found.rows, options.out, s3)
    place, what = visible(options.out), rows.view
    if options.group:
        print(f"{found.count:,} groups of {found.grouped:,} of {found.compared:,} {what} in {place}")
        limit = alike.limit if alike.by == "hash" else 1 - alike.limit
        if found.widest > limit:
            log.info(
                "some %s are less alike than --by %s, up to a distance of %.3g: groups are connected, "
                "%s by %s; filter by the column distance if that is too far",
                what,
                options.by,
                found.widest,
                rows.noun,
                rows.noun,
            )
    else:
        print(f"{found.count:,} pairs of {found.compared:,} {what} in {place}")
    return 0
