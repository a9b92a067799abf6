"""`faceq explain`: which parts of a condition reject how many rows of a table."""

import argparse
import dataclasses
import json

import rich.console
import rich.markup
import rich.table

from faceq.cli.filters import add_condition_arguments, filtered
from faceq.cli.settings import add_config_arguments, load_settings
from faceq.messages.visible import visible
from faceq.storage.outputs import check_output, write_output
from faceq.table.recommended import FILTER

_EXPLAIN = f"""Counts the rows of a result table that fail each part of a condition. AND joins the parts.
"fails alone" counts the rows that fail only this part: they would pass without it. "no value" counts the
rows for which the part is null; they count as failing. The default condition is the recommended filter,
{FILTER}. --faces counts the faces of the frames instead of the frames, in tables made with
faces: all."""

_EXAMPLES = """examples:
  faceq explain scores/
  faceq explain scores/ "serfiq >= 0.6 and dbcnn >= 55 and abs(yaw) < 20"
  faceq explain scores/ --faces "serfiq >= 0.6 and face_w >= 100"
  faceq explain scores/ --filter portrait --json why.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `faceq explain`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = _EXPLAIN, _EXAMPLES
    add_condition_arguments(parser)
    parser.add_argument("--faces", action="store_true", help="count faces instead of frames")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers as JSON; a path or a URI")
    add_config_arguments(parser)
    parser.set_defaults(run=explain, only_prints=lambda options: options.json is None)


def explain(options: argparse.Namespace) -> int:
    """`faceq explain`."""
    from faceq.query import conditions  # noqa: PLC0415 - DuckDB takes a while to import
    from faceq.query.faces import needs_tracks  # noqa: PLC0415 - as above
    from faceq.query.rows import Rows  # noqa: PLC0415 - as above

    condition = filtered(options) or FILTER
    s3 = load_settings(options).s3
    if options.json:
        check_output(options.json, s3)
    tracks = needs_tracks(condition)
    with Rows(options.table, s3, faces=options.faces, tracks=tracks) as rows:
        found = conditions.explain(rows, condition)
    shown = rich.table.Table(box=None, pad_edge=False)
    shown.add_column("condition", overflow="fold")
    for title in ("fails", "fails alone", "no value"):
        shown.add_column(title, justify="right", no_wrap=True)
    for part in found.parts:
        counts = (f"{count:,}" for count in (part.fails, part.fails_alone, part.no_value))
        shown.add_row(rich.markup.escape(visible(part.condition)), *counts)
    rich.console.Console().print(shown)
    print(f"{found.passing:,} of {found.rows:,} {'faces' if options.faces else 'rows'} pass")
    if options.json:
        of = {"table": options.table, "faces": options.faces, "condition": condition}
        numbers = {**of, **dataclasses.asdict(found)}
        write_output(options.json, (json.dumps(numbers, indent=1) + "\n").encode(), s3)
        print(visible(options.json))
    return 0
