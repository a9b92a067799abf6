"""`faceq cluster`: the faces of a table by person."""

import argparse

from faceq.cli.filters import add_condition_arguments, filtered
from faceq.cli.settings import add_config_arguments, load_settings
from faceq.messages.visible import visible

_CLUSTER = """Groups the faces of a result table by person, by their embeddings (faceq score --embeddings),
without knowing who they are. Method: average linkage; the mean cosine between the faces of two people is
below the threshold. The default threshold is the cosine at which the recogniser takes one in N pairs of
different people for one person, where N is the number of images and videos, at least 1,000."""

_EXAMPLES = """examples:
  faceq cluster scores/ --out people.parquet
  faceq cluster scores/ "serfiq >= 0.6" --out people.csv
  faceq cluster scores/ --faces --out people.parquet
  faceq cluster scores/ --cosine 0.45 --out people.parquet
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `faceq cluster`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = _CLUSTER, _EXAMPLES
    add_condition_arguments(parser)
    what = "write one row per face to a .parquet, .csv or .jsonl file; a path or a URI"
    parser.add_argument("--out", metavar="FILE", required=True, help=what)
    what = "group all faces of each frame, in tables made with faces: all; those of one frame stay apart"
    parser.add_argument("--faces", action="store_true", help=what)
    what = (
        "the threshold, -1 to 1; higher: smaller and purer groups (default: by the recogniser's error rate)"
    )
    parser.add_argument("--cosine", type=float, metavar="X", help=what)
    add_config_arguments(parser)
    parser.set_defaults(run=cluster)


def cluster(options: argparse.Namespace) -> int:
    """`faceq cluster`: write the person of each face to a file."""
    from faceq.query.export import check_export, export  # noqa: PLC0415 - DuckDB takes a while to import
    from faceq.query.faces import needs_tracks  # noqa: PLC0415 - as above
    from faceq.selection.limited_rows import limited_rows  # noqa: PLC0415 - as above
    from faceq.selection.people import check_cosine, find  # noqa: PLC0415 - as above

    check_cosine(options.cosine)
    condition = filtered(options)
    s3 = load_settings(options).s3
    check_export(options.out, s3)
    tracks = needs_tracks(condition or "")
    with limited_rows(options.table, s3, faces=options.faces, tracks=tracks) as rows:
        found = find(rows, condition, options.cosine)
        export(rows, found.rows, options.out, s3)
    print(f"{found.faces:,} faces: {found.people:,} people with at least two faces; ", end="")
    print(f"{found.alone:,} faces belong to nobody; in {visible(options.out)}")
    source = "" if found.fmr is None else f", the false match rate {found.fmr:.1e} of the recogniser"
    print(f"threshold: cosine {found.cosine:.3f}{source}")
    return 0
