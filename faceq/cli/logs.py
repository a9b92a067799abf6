"""What faceq logs, on standard error: as lines for people, or as JSON. `-v`, `-q` and `--log-format`.

Only faceq's own loggers are shown here; those of other packages stay as they are.
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
    """The flags that say what a command reports. Where they are not given, the options lack them: so they can
    stand before the command and after it."""
    group = parser.add_argument_group("messages, on standard error")
    absent: Any = argparse.SUPPRESS
    add = group.add_mutually_exclusive_group().add_argument
    add("-v", "--verbose", action="store_true", default=absent, help="more messages, for finding faults")
    add("-q", "--quiet", action="store_true", default=absent, help="warnings and errors only; no progress")
    what = "text, or one JSON object a line (default: text)"
    group.add_argument("--log-format", choices=FORMATS, default=absent, help=what)


def asks_for_json(arguments: Sequence[str]) -> bool:
    """Whether a command line, which need not be right, asks for JSON."""
    pairs = itertools.pairwise(arguments)
    return "--log-format=json" in arguments or ("--log-format", "json") in pairs


class Handler(logging.Handler):
    """Writes records to standard error, as it is when they come. That nobody reads it stops no job.

    as_json: one JSON object a line, or text. quiet: only warnings and errors are wanted. around: makes the
    block in which a line is written (see `progress_line`). A line of text begins with `faceq: `, unless the
    record has the attribute `bare`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.as_json = self.quiet = False
        self.around: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext

    def configure(self, options: argparse.Namespace) -> None:
        """Do as the flags of the command say."""
        self.as_json = getattr(options, "log_format", None) == "json"
        self.quiet = getattr(options, "quiet", False)
        verbose = getattr(options, "verbose", False)
        self.setLevel(logging.WARNING if self.quiet else logging.DEBUG if verbose else logging.INFO)
        options.shown = self

    @property
    def for_people(self) -> bool:
        """Whether somebody wants to see progress, in words."""
        return not (self.as_json or self.quiet)

    def emit(self, record: logging.LogRecord) -> None:
        line = _as_json(record) if self.as_json else _as_text(record)
        with self.around(), contextlib.suppress(OSError, ValueError):
            print(line, file=sys.stderr, flush=True)


def _as_text(record: logging.LogRecord) -> str:
    if record.exc_info:  # its last line says what the message says
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
    """In the block what faceq logs goes to standard error, from the level INFO on if the handler is not
    configured."""
    logger = logging.getLogger("faceq")
    before = logger.level, logger.propagate
    handler = Handler()
    handler.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False  # or a handler that another package gave the root logger would show it again
    try:
        yield handler
    finally:
        logger.level, logger.propagate = before
        logger.removeHandler(handler)
