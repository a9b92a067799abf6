"""`faceq score`: the job."""

import argparse
import time
from dataclasses import replace

from faceq.cli.arguments import positive
from faceq.cli.models import add_model_arguments, model_settings
from faceq.cli.settings import add_config_arguments, brief, load_settings
from faceq.config import Config
from faceq.errors import UsageError

_SCORE = """Scores every face frame of the input: can the face be recognised (SER-FIQ), does it look good
(DB-CNN)? Writes one row per frame into a Parquet table. Run the same command again to resume: frames
that have a row are not scored again."""

_SCORE_EXAMPLES = """examples:
  faceq score frames/ --out scores/
  faceq score frames/ --out scores/ --dry-run             (what would be read, what is already done)
  faceq score clips/*.mp4 --out scores/ --fps 2
  faceq score s3://bucket/shards/ --out s3://bucket/scores --config job.yaml
  faceq score frames/ --out scores/ --fiq-threshold 0     (every face gets both scores; filter later)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `faceq score`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = _SCORE, _SCORE_EXAMPLES
    add = parser.add_argument
    what = "paths or URIs of images, videos, tars, Parquet, RecordIO and LMDB shards, or of folders; globs"
    add("input", nargs="*", metavar="INPUT", help=what)
    what = f"{brief('manifest')} (repeatable)"
    add("--manifest", action="append", metavar="FILE", help=what)
    add("--out", metavar="TABLE", help=brief("out"))
    what = "list what would be read and what is already done; score nothing, load no model"
    add("--dry-run", action="store_true", help=what)
    add_config_arguments(parser)
    add_model_arguments(parser)
    add("--fiq-threshold", type=float, metavar="X", help=f"{brief('fiq_threshold')} (default: 0.5)")
    add("--faces", choices=("largest", "all", "aligned"), help=brief("faces"))
    add("--measures", choices=("all", "none"), help=brief("measures"))
    add("--embeddings", action="store_true", default=None, help=brief("embeddings"))
    add("--fps", type=float, metavar="X", help=brief("video.fps"))
    add("--every", type=int, metavar="K", help=brief("video.every"))
    add("--limit", type=positive, metavar="N", help=brief("limit"))
    add("--metrics-port", type=int, metavar="N", help=brief("metrics_port"))
    add("--any-name", action="store_true", default=None, help=brief("any_name"))
    add("--retry-unreadable", action="store_true", help="score frames again whose row is `unreadable`")
    add("--overwrite", action="store_true", help="first remove the existing table")
    what = "write a summary as JSON, also if the job fails or is stopped; replaces the file"
    add("--summary", metavar="FILE", help=what)
    parser.set_defaults(run=score, reporter=None, summary_file=None)
    parser.set_defaults(on_interrupt=_how_to_resume, only_prints=lambda options: options.dry_run)
    parser.set_defaults(on_failure=_summarise_failure)


def score(options: argparse.Namespace) -> int:
    """`faceq score`: run the job and print its summary, or only list the input."""
    settings = _settings(options)
    if options.dry_run:
        if options.summary:
            raise UsageError("--summary: a dry run scores nothing: leave out --summary or --dry-run")
        from faceq.job import dry_run  # noqa: PLC0415 - OpenCV takes a while to import

        print(dry_run.text(dry_run.survey(settings, options.overwrite, options.retry_unreadable)))
        return 0
    from faceq.cli.progress_line import ProgressLine  # noqa: PLC0415 - Ray takes seconds to import
    from faceq.cli.summary_file import SummaryFile  # noqa: PLC0415 - as above
    from faceq.job import pipeline, progress, summary  # noqa: PLC0415 - as above

    if options.summary:
        options.summary_file = SummaryFile(options.summary, settings)
    options.reporter = ProgressLine(options.shown) if options.shown.for_people else progress.LogReporter()
    before = time.monotonic() - options.started
    done = pipeline.score(settings, options.overwrite, options.retry_unreadable, options.reporter)
    done = replace(done, before_seconds=done.before_seconds + before)
    print(summary.text(done))
    if options.summary_file:
        options.summary_file.done(done)
    return 0


def _settings(options: argparse.Namespace) -> Config:
    sampling = {"fps": options.fps, "every": options.every}
    return load_settings(
        options,
        {
            "input": options.input or None,
            "manifest": options.manifest,
            "out": options.out,
            "fiq_threshold": options.fiq_threshold,
            "faces": options.faces,
            "measures": options.measures,
            "embeddings": options.embeddings,
            "video": {key: value for key, value in sampling.items() if value is not None} or None,
            "limit": options.limit,
            "any_name": options.any_name,
            "metrics_port": options.metrics_port,
            **model_settings(options),
        },
    )


def _summarise_failure(options: argparse.Namespace, status: int, reason: str) -> None:
    if options.summary_file:
        options.summary_file.failed(status, reason, options.reporter.last if options.reporter else None)


def _how_to_resume(options: argparse.Namespace) -> str:
    if options.dry_run:
        return ""
    without = " without --overwrite" if options.overwrite else ""
    last = options.reporter.last if options.reporter else None
    rows = "" if last is None else f"{last.written:,} rows written; "
    return f": {rows}run the same command{without} again to continue"
