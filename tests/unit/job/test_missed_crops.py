"""The note that a run's pictures may be aligned faces already."""

import numpy as np
import pytest
from here import score_here
from PIL import Image

from faceq.job import missed_crops
from faceq.storage.settings import S3Settings
from faceq.table.runs import Run
from faceq.table.store import Table


def notes_of(tmp_path, shapes, **settings) -> list[str]:
    """The notes of a run over grey images of these shapes (height, width)."""
    (tmp_path / "in").mkdir()
    for number, shape in enumerate(shapes):
        Image.fromarray(np.full(shape, 128, np.uint8)).save(tmp_path / "in" / f"{number}.png")
    table = Table(score_here(str(tmp_path / "in"), str(tmp_path / "t"), **settings), S3Settings())
    (record,) = table.runs()
    counts, _ = table.counts_and_quantiles()
    run = Run(record["run_id"], "", [], {}, record["config"], "", rows=len(shapes), counts=counts)
    return missed_crops.notes(table, run)


def test_small_square_pictures_without_a_face_may_be_aligned_faces(tmp_path):
    (note,) = notes_of(tmp_path, [(112, 112)] * 19 + [(100, 300)])
    assert note.startswith("20 of 20 frames have no face that is large enough, and 95% of these are square")
    assert note.endswith("with --faces aligned")


@pytest.mark.parametrize(
    ("shapes", "settings"),
    [
        ([(112, 112)] * 19, {}),
        ([(112, 112)] * 15 + [(100, 140)] * 10, {}),
        ([(300, 300)] * 20, {}),
        ([(112, 112)] * 20, {"faces": "aligned", "fiq_threshold": 1}),
    ],
    ids=["few", "not square", "not small", "scored as aligned"],
)
def test_other_pictures_give_no_such_note(tmp_path, shapes, settings):
    assert notes_of(tmp_path, shapes, **settings) == []
