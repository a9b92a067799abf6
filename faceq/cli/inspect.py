"""`faceq inspect`: scores single images and shows what faceq found in them."""

import argparse
import io
import itertools
import json
import logging
import os
from typing import TYPE_CHECKING, Any

from faceq import config
from faceq.cli.models import add_model_arguments, model_settings
from faceq.cli.settings import add_config_arguments, brief, load_settings
from faceq.errors import UsageError
from faceq.messages.visible import visible
from faceq.storage.filesystem import absolute, filesystem, is_remote, path_of
from faceq.storage.outputs import check_output, write_output
from faceq.storage.settings import S3Settings

if TYPE_CHECKING:
    from faceq.sources.frame import Frame

log = logging.getLogger(__name__)

_INSPECT = """Scores a few images without a table and prints the values. If a score is below the recommended
filter, it says which one and why, if the values show a reason. It compares the measures with those of other
faces, and prints the unusual ones. Every face gets both scores, also below the threshold. --out writes the
image with box, landmarks and outline, next to the region that DB-CNN scores and the compared measures. With
--faces all, the boxes of all faces are drawn and numbered, and each has a line with its scores."""

_EXAMPLES = """examples:
  faceq inspect face.jpg
  faceq inspect face.jpg --out annotated.png
  faceq inspect face.jpg --relative-to scores/
  faceq inspect a.jpg b.jpg s3://bucket/c.png --out looks/ --json
"""

_PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""File extensions of annotated images, and Pillow's names of the formats."""

_LONGEST_STEM = 200
"""Maximum bytes of a file name without its extension; file systems allow 255 with it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `faceq inspect`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = _INSPECT, _EXAMPLES
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="images, folders, globs; paths or URIs")
    add(
        "--out",
        metavar="FILE",
        help="annotated image (.png, .jpg, .webp), or a folder for several; a path or a URI",
    )
    add(
        "--relative-to",
        metavar="TABLE",
        help="compare with the faces of this result table (default: with photos of CelebA)",
    )
    add("--json", action="store_true", help="print the rows as JSON, as a table would hold them")
    add("--faces", choices=("largest", "all", "aligned"), help=brief("faces"))
    add_config_arguments(parser)
    add_model_arguments(parser)
    parser.set_defaults(run=inspect, only_prints=lambda options: options.out is None)


def inspect(options: argparse.Namespace) -> int:
    """`faceq inspect`."""
    settings = load_settings(options, {"faces": options.faces, **model_settings(options)})
    frames = _pictures(options.images, settings)
    targets = _targets(options.out, [frame.source for frame in frames], settings.s3)
    from faceq.report import comparison  # noqa: PLC0415 - DuckDB takes a while to import
    from faceq.report.picture import Inspector, face_lines, lines_of  # noqa: PLC0415 - the stages take a while to import

    table = options.relative_to
    reference = comparison.shipped() if table is None else comparison.of_table(table, settings.s3)
    inspector = Inspector(settings)
    looks = inspector(frames)
    for look, target in zip(looks, targets, strict=True):
        if target is not None:
            _save(inspector.annotated(look, reference), target, settings.s3)
    if options.json:
        rows = [look.table_row for look in looks]
        print(json.dumps(rows if len(rows) > 1 else rows[0], indent=1))
        for look, target in zip(looks, targets, strict=True):
            if target is not None:
                log.info("%s: %s", look.row["source"], target, extra={"bare": True})
        return 0
    for look, target in zip(looks, targets, strict=True):
        print(visible(look.row["source"]))
        unusual = comparison.unusual_lines(comparison.standings(look.row, reference), reference)
        for name, value in [*lines_of(look, settings), *face_lines(look), *unusual]:
            print(f"  {name:<9} {visible(value)}")
        if target is not None:
            print(f"  {'saved':<9} {visible(target)}")
    return 0


def _pictures(inputs: list[str], settings: config.Config) -> "list[Frame]":
    """Read the images that the inputs name; UsageError for other kinds of input."""
    from faceq import sources  # noqa: PLC0415 - the readers take a while to import
    from faceq.sources import listing  # noqa: PLC0415 - the readers take a while to import

    shards = listing.list_shards(inputs, settings.s3, any_name=settings.any_name)
    for shard in shards:
        if shard.kind != "picture":
            raise _not_a_picture(shard.source)
    frames = []
    for frame in sources.read_shards(shards, settings.s3, limits=settings.limits):
        if frame.member is not None or frame.timestamp_s is not None:  # its bytes are not those of an image
            raise _not_a_picture(frame.source)
        frames.append(frame)
    if not frames:
        raise UsageError(f"{', '.join(inputs)}: no images here")
    return frames


def _not_a_picture(source: str) -> UsageError:
    return UsageError(f"{source}: not an image: use `faceq score` for shards and videos")


def _targets(out: str | None, sources: list[str], s3: S3Settings) -> list[str | None]:
    """The path of each annotated image."""
    if out is None:
        return [None] * len(sources)
    ending = os.path.splitext(out)[1].lower()
    if ending in _PICTURES:
        if len(sources) > 1:
            raise UsageError(f"{out}: is one file for {len(sources)} images: name a folder")
        check_output(out, s3)
        return [_no_picture(out, sources)]
    filesystem(out, s3)  # raises for a path that is neither local nor on S3
    if ending and not os.path.isdir(path_of(out)):
        raise UsageError(
            f"{out}: name an annotated image {', '.join(_PICTURES)}, or end a folder's name in /"
        )
    if not is_remote(out) and os.path.isfile(path_of(out)):
        raise UsageError(f"{out}: is a file: name a folder, or an image that ends in {', '.join(_PICTURES)}")
    return [_no_picture(f"{out.rstrip('/')}/{name}.png", sources) for name in _names(sources)]


def _no_picture(target: str, sources: list[str]) -> str:
    """The target; UsageError if it is one of the images: writing would destroy it."""
    if _place(target) in map(_place, sources):
        raise UsageError(f"{target}: is one of the input images: name another file or folder for --out")
    return target


def _place(uri: str) -> str:
    return absolute(uri) if is_remote(uri) else os.path.realpath(path_of(uri))


def _names(sources: list[str]) -> list[str]:
    """A unique name for each annotated image, the same for the same images in the same order.

    The first image of a name keeps it; the others get -2, -3, …, but never the name of another image. Names
    that differ only in case count as the same, as on some file systems.
    """
    stems = [os.path.splitext(os.path.basename(source))[0] for source in sources]
    # Room for the number and the extension, and for what is added while the file is being written.
    stems = [stem.encode("utf-8", "replace")[:_LONGEST_STEM].decode("utf-8", "ignore") for stem in stems]
    own = {stem.casefold() for stem in stems}
    used: set[str] = set()
    names = []
    for stem in stems:
        numbered = (f"{stem}-{number}" for number in itertools.count(2))
        free = (name for name in numbered if name.casefold() not in own | used)
        names.append(next(free) if stem.casefold() in used else stem)
        used.add(names[-1].casefold())
    return names


def _save(picture: Any, target: str, s3: S3Settings) -> None:
    from PIL import Image  # noqa: PLC0415 - as above

    file = io.BytesIO()
    try:
        Image.fromarray(picture).save(file, format=_PICTURES[os.path.splitext(target)[1].lower()])
    except (OSError, ValueError) as error:  # larger than the format allows
        raise UsageError(f"{target}: cannot be written: {error}: name a .png file for large images") from None
    write_output(target, file.getvalue(), s3)
