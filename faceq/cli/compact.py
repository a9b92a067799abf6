"""`faceq compact`: copies a table into few large files."""

import argparse

from faceq.cli.settings import add_config_arguments, load_settings
from faceq.messages.visible import visible

_COMPACT = """Copies the table of a finished job into few large files that are sorted by score within each
status, so that queries read less. The old table stays as it is. The copy is a complete table: `faceq score`
can add new frames to it."""

_COMPACT_EXAMPLES = """examples:
  faceq compact scores/ --out scores-compact/
  faceq compact s3://bucket/scores --out s3://bucket/scores-compact
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `faceq compact`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = _COMPACT, _COMPACT_EXAMPLES
    add = parser.add_argument
    add("table", metavar="TABLE", help="folder or URI of the result table of a finished job")
    add("--out", metavar="TABLE2", required=True, help="folder or URI of the new table")
    add_config_arguments(parser)
    parser.set_defaults(run=run_compact)


def run_compact(options: argparse.Namespace) -> int:
    """`faceq compact`: copy a table's rows into few large files."""
    from faceq.query import compact  # noqa: PLC0415 - DuckDB takes a while to import

    rows, before, after = compact.compact(options.table, options.out, load_settings(options).s3)
    print(f"{rows:,} rows in {after:,} files ({before:,} before): {visible(options.out)}")
    return 0
