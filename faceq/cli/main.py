"""The entry point of the command line. Each command has its own module."""

import argparse
import contextlib
import importlib
import logging
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from faceq import __version__
from faceq.cli import logs, signals, streams
from faceq.errors import FaceqError
from faceq.messages.masking import mask
from faceq.messages.visible import visible
from faceq.table.recommended import FILTER

log = logging.getLogger(__name__)

COMMANDS = {
    "score": ("score", "score frames and write the result table"),
    "query": ("query", "show, count or export the rows of a table"),
    "explain": ("explain", "count the rows that each part of a condition rejects"),
    "select": ("select", "select the best different frames of each person, video or group"),
    "clips": ("clips", "find stretches of videos whose frames fulfil a condition"),
    "duplicates": ("duplicates", "find frames that look the same"),
    "cluster": ("people", "group the faces of a table by person"),
    "report": ("report", "write an HTML page about a table"),
    "inspect": ("inspect", "score single images and show what was found"),
    "compact": ("compact", "copy a table into few large sorted files"),
    "plan": ("plan", "estimate the machines, hours and cost of a job"),
    "evaluate": ("evaluate", "evaluate the scores, or fit their scale"),
    "models": ("models", "list, download or verify the models"),
    "config": ("settings", "print the settings that a job would use"),
}
"""Commands: their modules in `faceq.cli`, each with `add_arguments(parser)`, and their summaries."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 failed, 2 wrong usage; 130, 143 or 129 if Ctrl-C,
    SIGTERM or SIGHUP has ended it.

    Args:
        arguments: None: those of this process, which then exits.
    """
    started = time.monotonic()
    given = sys.argv[1:] if arguments is None else list(arguments)
    with (
        streams.guarded() as output,
        signals.raised(leaving=arguments is None) as ending,
        logs.shown() as shown,
    ):
        try:
            options = _options(given, shown)
            options.started = started
            output.only_prints = options.only_prints(options)
            return _run(options, ending)
        except streams.ReaderGone:
            return 0  # as after `| head`
        except FaceqError as error:  # raised by the output of --help
            _say(str(error))
            return error.exit_status
        except signals.Interrupted:
            return ending.status


def _run(options: argparse.Namespace, ending: signals.Ending) -> int:
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        status = run(options)
        sys.stdout.flush()
        return status
    except BaseException as error:
        if ending.received is None and not isinstance(error, Exception):
            raise
        status, reason = _outcome(options, error, ending)
        options.on_failure(options, status, reason)
        if ending.received is not None or isinstance(error, FaceqError | OSError):
            _say(reason)
        else:  # a bug of faceq
            log.critical("%s", reason, exc_info=error)
        return status


def _outcome(options: argparse.Namespace, error: BaseException, ending: signals.Ending) -> tuple[int, str]:
    """The exit status of a command that an error has ended, and the reason."""
    if ending.received is not None:  # the error may be a consequence of the signal
        name = "Ctrl-C" if ending.received == signal.SIGINT else ending.received.name
        return ending.status, f"stopped by {name}{options.on_interrupt(options)}"
    if isinstance(error, FaceqError):
        return error.exit_status, str(error)
    if isinstance(error, OSError):  # a failure of the system that is not handled elsewhere
        return 1, str(error)
    return 1, f"{type(error).__name__}: {error}"


def _say(reason: str) -> None:
    """Log why the command ends, after all output: as the last line if both streams go to the same file."""
    with contextlib.suppress(FaceqError, streams.ReaderGone):  # standard output may fail, too
        sys.stdout.flush()
    log.error("%s", reason)


_EXAMPLES = f"""examples:
  faceq score frames/ --out scores/
  faceq query scores/ "{FILTER}"
  faceq report scores/ --out report.html
  faceq query scores/ "{FILTER}" --export-shards good/

`faceq COMMAND --help` describes a command.
"""


class _Parser(argparse.ArgumentParser):
    """The parser of a command, or of the whole command line, with the flags that all commands have.

    In its error messages, special characters in file names are escaped and passwords in URLs are masked.
    """

    as_json = False

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        logs.add_arguments(self)

    def error(self, message: str) -> NoReturn:
        if self.as_json:
            log.error("%s", message)
            sys.exit(2)
        super().error(visible(mask(message)))


class _JsonParser(_Parser):
    """The same, with errors in JSON."""

    as_json = True


def _options(arguments: list[str], shown: logs.Handler) -> argparse.Namespace:
    shown.as_json = logs.asks_for_json(arguments)
    try:
        parser = _parser(arguments, _JsonParser if shown.as_json else _Parser)
        options, left = parser.parse_known_args(arguments)
        _take_late(options, left)
        if left:
            parser.error(f"unrecognized arguments: {' '.join(left)}")
    except SystemExit:
        sys.stdout.flush()  # after --help
        raise
    shown.configure(options)
    return options


def _take_late(options: argparse.Namespace, left: list[str]) -> None:
    """Take a CONDITION or a list of identities that stands behind a flag, as in `query TABLE --faces
    CONDITION`: argparse looks for it only right after TABLE. left: what argparse has not recognised; emptied
    if it is taken."""
    for name in ("where", "identities"):
        if len(left) == 1 and not left[0].startswith("-") and getattr(options, name, "") is None:
            setattr(options, name, left.pop())


def _parser(arguments: list[str], kind: type[_Parser] = _Parser) -> argparse.ArgumentParser:
    """The parser. Only a command that `arguments` names gets its arguments: the modules of the others take a
    while to import."""
    as_written = argparse.RawDescriptionHelpFormatter
    what = "Scores face images at scale: can the face be recognised, does it look good?"
    parser = kind("faceq", description=what, epilog=_EXAMPLES, formatter_class=as_written)
    parser.set_defaults(on_interrupt=lambda options: "", only_prints=lambda options: False)
    parser.set_defaults(on_failure=lambda options, status, reason: None)
    parser.add_argument("--version", action="version", version=f"faceq {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary)
        if name in arguments:
            importlib.import_module(f"faceq.cli.{module}").add_arguments(command)
    return parser
