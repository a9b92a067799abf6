"""What commands that export frames have in common: the arguments for the images, the export, its result."""

import argparse
import logging
from typing import TYPE_CHECKING, Any

from faceq.cli.progress_bar import progress_bar
from faceq.errors import UsageError
from faceq.messages.visible import visible
from faceq.storage.settings import S3Settings

if TYPE_CHECKING:
    from faceq.query.export_pictures import ExportPictures
    from faceq.query.shard_export import Exported, Selection

log = logging.getLogger(__name__)


def add_picture_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--crop` and `--format`, which go with `--export-shards`."""
    what = (
        "with --export-shards: frame (default), face[:MARGIN]: the square around the face, or "
        "aligned[:SIZE]: 112 as for recognisers (default), or 256, 512 or 1024 in FFHQ's alignment"
    )
    parser.add_argument("--crop", metavar="CROP", help=what)
    what = (
        "with --export-shards: keep: the original bytes (default for frames), png (default for crops), webp: "
        "both lossless, jpeg:QUALITY or webp:QUALITY"
    )
    parser.add_argument("--format", metavar="FORMAT", help=what)


def pictures_of(options: argparse.Namespace) -> "ExportPictures | None":
    """The images that the command line requests; None if it exports no frames. Raises UsageError."""
    if not options.export_shards:
        if options.crop or options.format:
            raise UsageError("--crop and --format need --export-shards DIR")
        return None
    from faceq.query.export_pictures import ExportPictures  # noqa: PLC0415 - OpenCV takes a while to import

    pictures = ExportPictures(options.crop or "frame", options.format)
    if options.faces:
        pictures.check_faces()
    return pictures


def export_frames(
    rows: Any,
    selection: "Selection",
    total: int,
    options: argparse.Namespace,
    pictures: "ExportPictures | None",
    s3: S3Settings,
    given: Any = None,
) -> int:
    """Export frames or faces into the folder of `--export-shards`, and print how many. Returns the exit
    status."""
    from faceq.query import shard_export  # noqa: PLC0415 - DuckDB takes a while to import

    assert pictures is not None
    folder = options.export_shards
    with progress_bar(options.shown, rows.view, total) as advance:
        done = shard_export.export_shards(rows, selection, folder, s3, advance, pictures, given)
    return _print_exported(done, folder, rows.view)


def how_to_resume(options: argparse.Namespace) -> str:
    """What to do after an interrupt."""
    return ": run the same command again to continue" if options.export_shards else ""


def _print_exported(done: "Exported", folder: str, what: str) -> int:
    """Print what an export to a folder has written, and warn about what is missing. Returns the exit
    status."""
    from faceq.sources.samples import MOST_SIDECARS  # noqa: PLC0415 - imports readers

    print(f"{done.written:,} {what} in {visible(folder)}", end="")
    print(f"; {done.already:,} were exported before" if done.already else "", end="")
    print(f"; {done.faceless:,} without a face were left out" if done.faceless else "")
    if done.lost:
        log.warning("%s %s could not be read, the first: %s", f"{done.lost:,}", what, done.reason)
    if done.lost_sidecars:
        log.warning(
            "%s sidecars were not written: a frame can have at most %d of them, of 256 MiB together",
            f"{done.lost_sidecars:,}",
            MOST_SIDECARS,
        )
    return 1 if done.lost or done.lost_sidecars else 0
