"""Log messages on standard error, as text or as JSON: `-v`, `-q` and `--log-format`.

Only faceq's own loggers are shown. Those of other packages are not changed.
"""

import argparse
import contextlib
import itertools
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from faceq.messages.masking import mask
from faceq.messages.visible import visible

FORMATS = ("text", "json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags for log messages. The parsed options lack flags that are not given, so that they can stand
    before or after the name of the command."""
    group = parser.add_argument_group("messages on standard error")
    absent: Any = argparse.SUPPRESS
    add = group.add_mutually_exclusive_group().add_argument
    add("-v", "--verbose", action="store_true", default=absent, help="more messages, for debugging")
    add("-q", "--quiet", action="store_true", default=absent, help="only warnings and errors, no progress")
    what = "text, or one JSON object per line (default: text)"
    group.add_argument("--log-format", choices=FORMATS, default=absent, help=what)


def asks_for_json(arguments: Sequence[str]) -> bool:
    """Whether a command line requests JSON; the command line may be wrong in other ways."""
    pairs = itertools.pairwise(arguments)
    return "--log-format=json" in arguments or ("--log-format", "json") in pairs


class Handler(logging.Handler):
    """Writes records to the current `sys.stderr`. A job goes on if nobody reads it.

    as_json: one JSON object per line, or text. quiet: only warnings and errors. around: returns the block in
    which a line is written (see `progress_line`). A line of text begins with `faceq: `, unless the record has
    the attribute `bare`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.as_json = self.quiet = False
        self.around: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext

    def configure(self, options: argparse.Namespace) -> None:
        """Apply the flags of the command."""
        self.as_json = getattr(options, "log_format", None) == "json"
        self.quiet = getattr(options, "quiet", False)
        verbose = getattr(options, "verbose", False)
        self.setLevel(logging.WARNING if self.quiet else logging.DEBUG if verbose else logging.INFO)
        options.shown = self

    @property
    def for_people(self) -> bool:
        """Whether progress is shown as text."""
        return not (self.as_json or self.quiet)

    def emit(self, record: logging.LogRecord) -> None:
        line = _as_json(record) if self.as_json else _as_text(record)
        with self.around(), contextlib.suppress(OSError, ValueError):
            print(line, file=sys.stderr, flush=True)


def _as_text(record: logging.LogRecord) -> str:
    if record.exc_info:  # the last line of the traceback repeats the message
        return mask(_traceback(record)).rstrip("\n")
    line = visible(mask(record.getMessage()))
    return line if getattr(record, "bare", False) else f"faceq: {line}"


def _as_json(record: logging.LogRecord) -> str:
    fields: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname,
        "logger": record.name,
        "message": mask(record.getMessage()),
    }
    if record.exc_info:
        fields["traceback"] = mask(_traceback(record))
    if hasattr(record, "progress"):
        fields["progress"] = record.progress
    return json.dumps(fields)


def _traceback(record: logging.LogRecord) -> str:
    assert record.exc_info
    return logging.Formatter().formatException(record.exc_info)


@contextlib.contextmanager
def shown() -> Iterator[Handler]:
    """In the block, faceq's log messages go to standard error: those of level INFO or higher, unless the
    handler is configured otherwise."""
    logger = logging.getLogger("faceq")
    before = logger.level, logger.propagate
    handler = Handler()
    handler.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False  # a handler that another package added to the root logger would repeat them
    try:
        yield handler
    finally:
        logger.level, logger.propagate = before
        logger.removeHandler(handler)
