"""Made-up tables with several faces per frame are like those of a job."""

import numpy as np
import pytest

import faceq
from faceq.query.rows import Rows
from faceq.storage.settings import S3Settings
from faceq.table.schema import FACE, SCHEMA
from jobs.training import synthetic


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> tuple[str, str]:
    """The same 51,000 frames with all faces and with the largest one; a video of them is damaged."""
    folder = tmp_path_factory.mktemp("synthetic")
    synthetic.write(folder / "all", 51_000, all_faces=True)
    synthetic.write(folder / "largest", 51_000)
    return str(folder / "all"), str(folder / "largest")


def test_the_frames_are_those_of_a_table_without_faces(tables):
    names = [name for name in SCHEMA.names if name != "n_faces"]
    every, largest = (faceq.read_table(table).select(names).sort_by("frame_id") for table in tables)
    assert every.equals(largest)


def test_each_list_is_like_that_of_a_job(tables):
    rows = faceq.read_table(tables[0]).to_pylist()
    assert {row["status"] for row in rows} == {
        *("scored", "below_fiq", "face_too_small"),
        *("no_face", "unreadable"),
    }
    most = 0
    for row in rows:
        faces = row["faces"]
        assert (faces is None) == (row["status"] == "unreadable")
        if faces is None:
            continue
        assert bool(faces) == (row["status"] != "no_face") and len(faces) <= row["n_faces"]
        if faces:
            flat = {name: row.get(name) for name in FACE.names if name != "track"}
            assert {name: faces[0][name] for name in flat} == flat
        areas = [face["face_w"] * face["face_h"] for face in faces]
        assert areas == sorted(areas, reverse=True)
        assert len({face["track"] for face in faces}) == len(faces)
        for face in faces[1:]:
            assert face["face_w"] >= 40 and (face["dbcnn"] is None) == (face["status"] == "below_fiq")
            points = np.reshape(face["landmarks"], (5, 2))
            low = np.array([face["face_x"], face["face_y"]])
            assert (low >= 0).all() and (low + face["face_w"] <= (row["width"], row["height"])).all()
            assert (np.abs(points - low - face["face_w"] / 2) < face["face_w"] * 0.6).all()
        most = max(most, len(faces))
    assert most == 4


def test_a_track_stays_in_its_shot_and_video(tables):
    with Rows(tables[0], S3Settings(), faces=True) as rows:
        faces = rows.arrow(rows.chosen("track is not null"))
    shots = {(row["source"], row["track"]): set() for row in faces.select(["source", "track"]).to_pylist()}
    for row in faces.select(["source", "track", "shot"]).to_pylist():
        shots[row["source"], row["track"]].add(row["shot"])
    assert all(len(numbers) == 1 for numbers in shots.values())
    assert len(shots) > 4 * 102  # more tracks than shots
