"""The option `--filter` of commands that take a condition."""

import argparse
import logging

log = logging.getLogger(__name__)


def add_filter_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--filter`."""
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
