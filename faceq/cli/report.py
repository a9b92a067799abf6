"""`faceq report`: writes one HTML page about a table."""

import argparse

import rich.console

from faceq.cli.settings import add_config_arguments, load_settings
from faceq.messages.visible import visible

_REPORT = """Writes one HTML page about a result table. It shows counts by status, histograms, the worst
sources, errors, sample faces, videos over time, and two sliders that show what a threshold keeps. With
--selection, it also shows what a selection took and left. --faces writes a page about faces, for tables made
with faces: all: it counts each face instead of each frame, and leaves out errors and videos. The page opens
without a network. Faces and frames are read from the sources of the table."""

_EXAMPLES = """examples:
  faceq report scores/ --out report.html
  faceq report s3://bucket/scores --out report.html --no-images
  faceq report scores/ --out report.html --selection best.parquet
  faceq report scores/ --out faces.html --faces
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `faceq report`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = _REPORT, _EXAMPLES
    add = parser.add_argument
    add("table", metavar="TABLE", help="folder or URI of a result table")
    add("--out", metavar="FILE", default="report.html", help="path or URI of the page (default: report.html)")
    add("--faces", action="store_true", help="a page about faces: each face counts instead of each frame")
    add("--no-images", action="store_true", help="leave out all images of faces and frames")
    what = "also show this selection: the .parquet file that faceq select --out has written"
    add("--selection", metavar="FILE", help=what)
    add_config_arguments(parser)
    parser.set_defaults(run=report)


def report(options: argparse.Namespace) -> int:
    """`faceq report`."""
    s3 = load_settings(options).s3
    from faceq.report.page import build  # noqa: PLC0415 - DuckDB and matplotlib take a while to import
    from faceq.storage.outputs import check_output, write_output  # noqa: PLC0415 - as above

    check_output(options.out, s3)
    people = rich.console.Console(stderr=True, quiet=not options.shown.for_people)
    with people.status("reading the table"):
        page = build(
            options.table, s3, not options.no_images, options.selection, per_face=options.faces
        ).encode()
    write_output(options.out, page, s3)
    print(f"{visible(options.out)}: {len(page) / 1e6:.1f} MB, opens in any browser")
    return 0
