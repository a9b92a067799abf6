"""The command line: what all commands share. Each command has a module of its own."""

import argparse
import contextlib
import importlib
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from faceq import __version__
from faceq.cli import logs, signals, streams
from faceq.errors import FaceqError
from faceq.messages.masking import mask
from faceq.messages.visible import visible

log = logging.getLogger(__name__)

COMMANDS = {
    "score": ("score", "score frames and write the result table"),
    "query": ("query", "rows of a table that fulfil a condition"),
    "report": ("report", "a table as one HTML page, with faces"),
    "inspect": ("inspect", "score single pictures and look at them"),
    "compact": ("compact", "few large sorted files out of many small ones"),
    "plan": ("plan", "machines, hours and money that a job will take"),
    "evaluate": ("evaluate", "judge the scores, fit their scale"),
    "models": ("models", "list, fetch or check the models"),
    "config": ("settings", "print the settings that a job would use"),
}
"""Commands: their modules in `faceq.cli`, each with `add_arguments(parser)`, and what they do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 failed, 2 wrong usage; 130, 143 or 129 where
    Ctrl-C, SIGTERM or SIGHUP has ended it."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    with streams.guarded() as output, signals.raised() as ending, logs.shown() as shown:
        try:
            options = _options(given, shown)
            output.only_prints = options.only_prints(options)
            return _run(options, ending)
        except streams.ReaderGone:
            return 0  # `| head` has seen enough
        except FaceqError as error:  # of the output of --help
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
        if ending.received is not None:  # whatever its consequences looked like
            name = "Ctrl-C" if ending.received == signal.SIGINT else ending.received.name
            _say(f"stopped by {name}{options.on_interrupt(options)}")
            return ending.status
        if isinstance(error, FaceqError):
            _say(str(error))
            return error.exit_status
        if isinstance(error, OSError):  # of a part of the world that nobody has thought of
            _say(str(error))
            return 1
        if isinstance(error, Exception):  # faceq's own fault
            log.critical("%s: %s", type(error).__name__, error, exc_info=True)
            return 1
        raise


def _say(reason: str) -> None:
    """Why it ends, as the last line of a log that both streams go to."""
    with contextlib.suppress(FaceqError, streams.ReaderGone):  # that it cannot be written either
        sys.stdout.flush()
    log.error("%s", reason)


_EXAMPLES = """a first look:
  faceq score frames/ --out scores/
  faceq query scores/ "serfiq >= 0.6 and dbcnn >= 55"
  faceq report scores/ --out report.html
  faceq query scores/ "serfiq >= 0.6 and dbcnn >= 55" --export-shards good/

`faceq COMMAND --help` has more on each.
"""


class _Parser(argparse.ArgumentParser):
    """A parser of a command, or of all. It takes the flags that all commands have.

    Of what it was given it shows nothing as it is: names of files are escaped, passwords in URLs masked.
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
    """The same where errors are JSON, too."""

    as_json = True


def _options(arguments: list[str], shown: logs.Handler) -> argparse.Namespace:
    shown.as_json = logs.asks_for_json(arguments)
    try:
        options = _parser(arguments, _JsonParser if shown.as_json else _Parser).parse_args(arguments)
    except SystemExit:
        sys.stdout.flush()  # of --help, say
        raise
    shown.configure(options)
    return options


def _parser(arguments: list[str], kind: type[_Parser] = _Parser) -> argparse.ArgumentParser:
    """The parser; commands that `arguments` do not name get no arguments, since their modules take a while to
    import."""
    as_written = argparse.RawDescriptionHelpFormatter
    what = "Score face images at scale: can the face be recognised, does it look good?"
    parser = kind("faceq", description=what, epilog=_EXAMPLES, formatter_class=as_written)
    parser.set_defaults(on_interrupt=lambda options: "", only_prints=lambda options: False)
    parser.add_argument("--version", action="version", version=f"faceq {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary)
        if name in arguments:
            importlib.import_module(f"faceq.cli.{module}").add_arguments(command)
    return parser
