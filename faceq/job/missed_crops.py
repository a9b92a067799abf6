"""A note for jobs that have looked for faces in pictures that may be aligned faces already."""

import numpy as np

from faceq.faces.method import MOST_OBLONG
from faceq.table.runs import Run
from faceq.table.store import Table, status_of

LEAST_FRAMES, LEAST_MISSED, LEAST_SQUARE = 20, 0.5, 0.9
"""A run gets the note if it has at least this number of rows, at least this share of them have no face that
is large enough, and at least this share of these are small square pictures."""

MISSED = ("no_face", "face_too_small")

SMALL = 256
"""Longest side of a small picture, in pixels: training sets of recognisers have 112 to 256."""

_FILES = 50
"""Maximum number of files whose pictures are looked at."""


def notes(table: Table, run: Run) -> list[str]:
    """The note, if the rows of a run that has counted them give reason for it, or nothing."""
    rows, missed = run.rows or 0, sum(run.counts.get(status, 0) for status in MISSED)
    if run.config.get("faces") != "largest" or rows < LEAST_FRAMES or missed < LEAST_MISSED * rows:
        return []
    share = _share_of_small_squares(table, run.run_id)
    if share < LEAST_SQUARE:
        return []
    return [
        f"{missed:,} of {rows:,} frames have no face that is large enough, and {share:.0%} of these are "
        f"square and at most {SMALL} pixels wide: if they are face crops that are already aligned for "
        "recognition, score them into another table with --faces aligned"
    ]


def _share_of_small_squares(table: Table, run_id: str) -> float:
    files = [path for path in table.files_of(run_id) if status_of(path) in MISSED][:_FILES]
    width, height = (
        np.concatenate([table.column(path, name).to_numpy() for path in files])
        for name in ("width", "height")
    )
    longer, shorter = np.maximum(width, height), np.minimum(width, height)
    return float(np.mean((longer <= SMALL) & (longer <= MOST_OBLONG * shorter)))
