"""The command line: what all commands share, and `faceq score` and `faceq models`."""

import argparse
import contextlib
import math
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from faceq import __version__
from faceq.cli import signals, streams
from faceq.cli.evaluate import add_evaluate_arguments
from faceq.cli.inspect import add_inspect_arguments
from faceq.cli.models import add_model_arguments, add_models_arguments, model_settings
from faceq.cli.query import add_query_arguments, positive
from faceq.cli.report import add_report_arguments
from faceq.cli.settings import add_config_arguments, add_config_command, brief, load_settings
from faceq.errors import FaceqError
from faceq.job import capacity
from faceq.messages.masking import mask
from faceq.messages.visible import visible


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 failed, 2 wrong usage; 130, 143 or 129 where
    Ctrl-C, SIGTERM or SIGHUP has ended it."""
    with streams.guarded() as output, signals.raised() as ending:
        try:
            options = _options(arguments)
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
        if isinstance(error, Exception):  # faceq's own fault: Python would print the secrets in it
            sys.stderr.write(mask(traceback.format_exc()))
            return 1
        raise


_EXAMPLES = """a first look:
  faceq score frames/ --out scores/
  faceq query scores/ "serfiq >= 0.6 and dbcnn >= 55"
  faceq report scores/ --out report.html
  faceq query scores/ "serfiq >= 0.6 and dbcnn >= 55" --export-shards good/

`faceq COMMAND --help` has more on each.
"""


def _say(reason: str) -> None:
    """Why it ends, as the last line of a log that both streams go to."""
    with contextlib.suppress(FaceqError, streams.ReaderGone):  # that it cannot be written either
        sys.stdout.flush()
    streams.say(reason)


class _Parser(argparse.ArgumentParser):
    """A parser that escapes and masks what it was given: names of files, or a password in a URL."""

    def error(self, message: str) -> NoReturn:
        super().error(visible(mask(message)))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    try:
        return _parser().parse_args(arguments)
    except SystemExit:
        sys.stdout.flush()  # of --help, say
        raise


def _parser() -> argparse.ArgumentParser:
    as_written = argparse.RawDescriptionHelpFormatter
    what = "Score face images at scale: can the face be recognised, does it look good?"
    parser = _Parser("faceq", description=what, epilog=_EXAMPLES, formatter_class=as_written)
    parser.set_defaults(on_interrupt=lambda options: "", only_prints=lambda options: False)
    parser.add_argument("--version", action="version", version=f"faceq {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add_score_arguments(commands.add_parser("score", help="score frames and write the result table"))
    add_query_arguments(commands.add_parser("query", help="rows of a table that fulfil a condition"))
    add_report_arguments(commands.add_parser("report", help="a table as one HTML page, with faces"))
    add_inspect_arguments(commands.add_parser("inspect", help="score single pictures and look at them"))
    _add_compact_arguments(
        commands.add_parser("compact", help="few large sorted files out of many small ones")
    )
    _add_plan_arguments(commands.add_parser("plan", help="machines, hours and money that a job will take"))
    add_evaluate_arguments(commands.add_parser("evaluate", help="judge the scores, fit their scale"))
    add_models_arguments(commands.add_parser("models", help="list, fetch or check the models"))
    add_config_command(commands.add_parser("config", help="print the settings that a job would use"))
    return parser


_SCORE = """Score every face frame of the input: can it be recognised (SER-FIQ), how good does it look
(DB-CNN). One row per frame goes into a Parquet table; run again, it goes on where it stopped."""

_SCORE_EXAMPLES = """examples:
  faceq score frames/ --out scores/
  faceq score clips/*.mp4 --out scores/ --fps 2
  faceq score s3://bucket/shards/ --out s3://bucket/scores --config job.yaml
  faceq score frames/ --out scores/ --fiq-threshold 0   (every face to the end: filter later)
"""


def add_score_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of a scoring job, for `faceq score` and `jobs/score.py` alike."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = _SCORE, _SCORE_EXAMPLES
    add = parser.add_argument
    what = "pictures, videos, .tar(.gz) or .parquet shards, folders, globs; local or s3://"
    add("input", nargs="*", metavar="INPUT", help=what)
    what = f"{brief('manifest')} (repeatable)"
    add("--manifest", action="append", metavar="FILE", help=what)
    add("--out", metavar="TABLE", help=brief("out"))
    add_config_arguments(parser)
    add_model_arguments(parser)
    add("--fiq-threshold", type=float, metavar="X", help=f"{brief('fiq_threshold')} (default: 0.5)")
    add("--embeddings", action="store_true", default=None, help=brief("embeddings"))
    add("--fps", type=float, metavar="X", help=brief("video.fps"))
    add("--every", type=int, metavar="K", help=brief("video.every"))
    add("--limit", type=positive, metavar="N", help=brief("limit"))
    add("--any-name", action="store_true", default=None, help=brief("any_name"))
    add("--retry-unreadable", action="store_true", help="try frames again that have a row as unreadable")
    add("--overwrite", action="store_true", help="remove the table that is there first")
    parser.set_defaults(run=score, on_interrupt=_how_to_go_on)


def score(options: argparse.Namespace) -> int:
    """`faceq score`: run the job and print its summary."""
    sampling = {"fps": options.fps, "every": options.every}
    settings = load_settings(
        options,
        {
            "input": options.input or None,
            "manifest": options.manifest,
            "out": options.out,
            "fiq_threshold": options.fiq_threshold,
            "embeddings": options.embeddings,
            "video": {key: value for key, value in sampling.items() if value is not None} or None,
            "limit": options.limit,
            "any_name": options.any_name,
            **model_settings(options),
        },
    )
    from faceq.job import pipeline, summary  # noqa: PLC0415 - Ray takes seconds to import

    done = pipeline.score(settings, options.overwrite, options.retry_unreadable)
    print(summary.text(done))
    return 0


def _how_to_go_on(options: argparse.Namespace) -> str:
    without = " without --overwrite" if options.overwrite else ""
    return f": run the same command{without} again to continue where it stopped"


_COMPACT = """Writes the table of a finished job again, as few large files, sorted by score inside each
status: a query then reads only what it needs. The old table stays as it is; the new one is a whole one, in
which the job can go on."""

_COMPACT_EXAMPLES = """examples:
  faceq compact scores/ --out scores-compact/
  faceq compact s3://bucket/scores --out s3://bucket/scores-compact
"""


def _add_compact_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = _COMPACT, _COMPACT_EXAMPLES
    add = parser.add_argument
    add("table", metavar="TABLE", help="folder or s3:// prefix of a result table whose job has finished")
    add("--out", metavar="TABLE2", required=True, help="folder or s3:// prefix of the new table")
    add_config_arguments(parser)
    parser.set_defaults(run=run_compact)


def run_compact(options: argparse.Namespace) -> int:
    """`faceq compact`: write a table's rows into few large files."""
    from faceq.query import compact  # noqa: PLC0415 - DuckDB takes a while to import

    rows, before, after = compact.compact(options.table, options.out, load_settings(options).s3)
    print(f"{rows:,} rows in {after:,} files, before {before:,}: {visible(options.out)}")
    return 0


_PLAN = """Prints how many machines score that many frames in how many hours, what that costs, and which part
of a machine is the bottleneck. The figures are reasoned, not measured: docs/capacity.md says from what."""

_PLAN_EXAMPLES = """examples:
  faceq plan --frames 10000000 --gpu g5
  faceq plan --frames 10000000 --gpu g6.16xlarge --price-per-hour 3.40 --preset insightface
"""


def _add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = _PLAN, _PLAN_EXAMPLES
    add = parser.add_argument
    add("--frames", type=positive, required=True, metavar="N", help="frames to score")
    sizes = ", ".join(machine.name for machine in capacity.MACHINES)
    what = f"machine on AWS: {', '.join(capacity.CLASSES)}, or one of the sizes {sizes}"
    add("--gpu", required=True, metavar="TYPE", help=what)
    add("--price-per-hour", type=_price, metavar="X", help="of one machine, in any currency")
    add("--preset", choices=capacity.COSTS, default="embedded", help="set of models (embedded)")
    parser.set_defaults(run=run_plan, only_prints=lambda options: True)


def _price(text: str) -> float:
    try:
        price = float(text)
    except ValueError:
        price = math.nan
    if not (price >= 0 and math.isfinite(price)):
        raise argparse.ArgumentTypeError(f"must be an amount of money, 0 or more, not {text!r}")
    return price


def run_plan(options: argparse.Namespace) -> int:
    """`faceq plan`: print what a job will take."""
    print(capacity.text(options.frames, options.gpu, options.price_per_hour, options.preset))
    return 0
