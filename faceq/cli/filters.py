"""The arguments of commands that take a table and a condition."""

import argparse
import logging

from faceq.table.recommended import FILTER

log = logging.getLogger(__name__)


def add_condition_arguments(parser: argparse.ArgumentParser) -> None:
    """Add TABLE, CONDITION and `--filter`."""
    parser.add_argument("table", metavar="TABLE", help="folder or URI of a result table")
    parser.add_argument("where", nargs="?", metavar="CONDITION", help=f'SQL, e.g. "{FILTER}"')
    what = "a named condition: portrait, talking-head, recognition, or one of filters.yaml in this folder"
    parser.add_argument("--filter", metavar="NAME", help=what)


def filtered(options: argparse.Namespace) -> str | None:
    """The condition of the command line: `--filter` and the condition, joined by AND; None if there is
    neither. The condition of the filter is logged."""
    if not options.filter:
        return options.where
    from faceq.query.filters import condition_of  # noqa: PLC0415 - imports YAML

    condition = condition_of(options.filter)
    log.info("--filter %s: %s", options.filter, condition)
    # Each of them may end in a comment.
    return f"({condition}\n) and ({options.where}\n)" if options.where else condition
