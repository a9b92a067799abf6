"""`faceq score`: the job."""

import argparse

from faceq.cli.arguments import positive
from faceq.cli.models import add_model_arguments, model_settings
from faceq.cli.settings import add_config_arguments, brief, load_settings

_SCORE = """Score every face frame of the input: can it be recognised (SER-FIQ), how good does it look
(DB-CNN). One row per frame goes into a Parquet table; run again, it goes on where it stopped."""

_SCORE_EXAMPLES = """examples:
  faceq score frames/ --out scores/
  faceq score clips/*.mp4 --out scores/ --fps 2
  faceq score s3://bucket/shards/ --out s3://bucket/scores --config job.yaml
  faceq score frames/ --out scores/ --fiq-threshold 0   (every face to the end: filter later)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `faceq score`."""
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
    from faceq.cli.progress_line import ProgressLine  # noqa: PLC0415 - Ray takes seconds to import
    from faceq.job import pipeline, summary  # noqa: PLC0415 - as above

    line = ProgressLine(options.shown) if options.shown.for_people else None
    done = pipeline.score(settings, options.overwrite, options.retry_unreadable, line)
    print(summary.text(done))
    return 0


def _how_to_go_on(options: argparse.Namespace) -> str:
    without = " without --overwrite" if options.overwrite else ""
    return f": run the same command{without} again to continue where it stopped"
