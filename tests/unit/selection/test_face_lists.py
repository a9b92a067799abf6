"""Duplicates, people and selections among all faces of frames."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from face_rows import face, group, write_faces, write_groups
from here import score_here
from PIL import Image
from places import PHOTOS

import faceq
from faceq.cli.main import main
from faceq.errors import UsageError
from faceq.selection.duplicate_schema import group_columns, pair_columns
from faceq.selection.people_schema import people_columns

WHO = np.eye(8, dtype=np.float32)
"""Embeddings of eight people."""


@pytest.fixture(scope="module")
def twice(tmp_path_factory) -> str:
    """A photo of six people and a smaller copy of it."""
    folder = tmp_path_factory.mktemp("twice")
    (folder / "in").mkdir()
    photo = Image.open(PHOTOS / "t1.jpg")
    photo.save(folder / "in" / "a.png")
    photo.resize((photo.width * 9 // 10, photo.height * 9 // 10)).save(folder / "in" / "b.png")
    return score_here(str(folder / "in"), str(folder / "table"), faces="all", embeddings=True)


def test_people_of_a_group_are_found_again(twice, tmp_path):
    people = tmp_path / "people.parquet"
    assert main(["cluster", twice, "--faces", "--out", str(people)]) == 0
    found = pq.read_table(people).to_pylist()
    assert len(found) == 12
    assert sorted(row["cluster"] for row in found) == sorted([*range(6)] * 2)
    for row, other in zip(found[::2], found[1::2], strict=True):
        assert row["cluster"] == other["cluster"] and row["frame_id"] != other["frame_id"]
    wanted = {"per": "cluster", "clusters": str(people), "top": 1, "by": "dbcnn", "faces": True}
    best = faceq.select(twice, "dbcnn is not null", **wanted)
    assert best["group"].to_pylist() == list("012345")
    known = {row["face_id"]: row["cluster"] for row in found}
    assert [known[number] for number in best["face_id"].to_pylist()] == list(range(6))


def test_only_one_copy_of_each_face_is_distinct(twice):
    wanted = {"by": "serfiq", "distinct": "embedding:0.8", "faces": True}
    found = faceq.select(twice, "serfiq is not null", **wanted).to_pylist()
    every = faceq.read_table(twice, faces=True).to_pylist()
    assert len(found) == 6 and found[0]["serfiq"] == max(row["serfiq"] for row in every)


def test_each_face_of_a_copy_is_a_duplicate(twice, tmp_path, capsys):
    pairs = faceq.duplicates(twice, by="embedding:0.8", faces=True).to_pylist()
    assert len(pairs) == 6
    assert all(pair["frame_id_a"] != pair["frame_id_b"] for pair in pairs)
    assert {pair["face_id_a"] for pair in pairs}.isdisjoint(pair["face_id_b"] for pair in pairs)
    out = tmp_path / "groups.csv"
    assert main(["duplicates", twice, "--faces", "--group", "--by", "embedding:0.8", "--out", str(out)]) == 0
    assert "6 groups of 12 of 12 faces in" in capsys.readouterr().out
    assert len(faceq.duplicates(twice, by="embedding:0.8")) == 1  # of frames: their main faces


def test_lists_of_faces_have_the_columns_of_the_reference(tmp_path):
    rows = [group(name, [{"dhash": 1, "embedding": WHO[0]}, {"dhash": 90}]) for name in "ab"]
    table = write_groups(tmp_path / "table", rows)
    for found, columns in (
        (faceq.duplicates(table, faces=True), pair_columns(faces=True)),
        (faceq.duplicates(table, group=True, faces=True), group_columns(faces=True)),
        (faceq.cluster(table, cosine=0.5, faces=True), people_columns(faces=True)),
    ):
        assert found.schema.names == [column.name for column in columns]
        assert found.schema.types == [column.type for column in columns]


def test_equal_faces_of_one_frame_are_duplicates(tmp_path):
    """Such as in a mosaic."""
    rows = [group("a", [{"dhash": 1}, {"dhash": 1, "dbcnn": 70.0}, {"dhash": 2**40 - 1}])]
    table = write_groups(tmp_path / "table", rows)
    (pair,) = faceq.duplicates(table, faces=True).to_pylist()
    assert (pair["face_a"], pair["face_b"], pair["distance"]) == (1, 0, 0.0)
    found = faceq.select(table, "true", distinct="hash", faces=True)
    assert sorted(found["face"].to_pylist()) == [1, 2]


def test_faces_of_one_frame_are_different_people(tmp_path):
    """Twins stand beside each other in both photos."""
    near = WHO[1] * 0.3 + WHO[0] * 0.95
    twins = [{"embedding": WHO[0]}, {"embedding": near / np.linalg.norm(near)}]
    table = write_groups(tmp_path / "table", [group("a", twins), group("b", twins[::-1])])
    found = faceq.cluster(table, cosine=0.5, faces=True).to_pylist()
    people = {(row["source"], row["face"]): row["cluster"] for row in found}
    a, b = ("/photos/a.jpg", "/photos/b.jpg")
    assert people[a, 0] == people[b, 1] != people[a, 1] == people[b, 0]
    assert None not in people.values()


def test_the_default_threshold_counts_the_faces_of_each_photo(tmp_path, capsys):
    """600 photos of two people are as many as 1,200 portraits."""
    rows = [group(f"{i:03}", [{"embedding": WHO[0]}, {"embedding": WHO[1]}]) for i in range(600)]
    alone = [face(f"{i:04}", embedding=WHO[0]) for i in range(1200)]
    every, portraits = write_groups(tmp_path / "two", rows), write_faces(tmp_path / "one", alone)
    out = str(tmp_path / "people.csv")
    assert main(["cluster", every, "--faces", "--out", out]) == 0
    threshold = capsys.readouterr().out.splitlines()[-1]
    assert main(["cluster", portraits, "--out", out]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == threshold
    assert "false match rate 8.3e-04" in threshold


def test_rows_of_a_run_without_all_faces_count_as_one_face(tmp_path):
    older = [face("c", embedding=WHO[2], dhash=5, face_x=1.0, face_y=1.0, face_w=9.0, face_h=9.0)]
    mixed = group("a", [{"embedding": WHO[2], "dhash": 5}, {"embedding": WHO[3], "dhash": -1}])
    table = write_groups(tmp_path / "table", [mixed, *older])
    (pair,) = faceq.duplicates(table, faces=True).to_pylist()
    assert {pair["source_a"], pair["source_b"]} == {"/photos/a.jpg", "/photos/c.jpg"}
    assert (pair["face_a"], pair["face_b"]) == (0, 0)
    found = faceq.cluster(table, cosine=0.5, faces=True)
    assert found["cluster"].to_pylist() == [0, 0, None]


def test_faces_without_landmarks_cannot_be_aligned(tmp_path, capsys):
    table = write_groups(tmp_path / "table", [group("a", [{}, {"landmarks": [1.0] * 10}])])
    arguments = ["select", table, "true", "--faces", "--export-shards", str(tmp_path / "out")]
    assert main([*arguments, "--crop", "aligned"]) == 2
    assert "1 of the chosen faces have no `landmarks`" in capsys.readouterr().err


def test_faces_without_values_are_left_out(tmp_path):
    empty = {"status": "unreadable", "dbcnn": None, "serfiq": None}
    table = write_groups(tmp_path / "table", [group("a", [{"embedding": WHO[0], "dhash": 1}, empty])])
    assert len(faceq.cluster(table, cosine=0.5, faces=True)) == 1
    assert len(faceq.duplicates(table, faces=True)) == 0
    assert faceq.select(table, "true", faces=True)["face"].to_pylist() == [0]


def test_the_best_face_of_each_track_is_chosen(tmp_path):
    """Two people beside each other in a video; a picture has no tracks."""
    rows = []
    for index in range(12):
        left = {"dhash": 3, "embedding": WHO[0], "face_x": 10.0, "dbcnn": 50.0 + index}
        right = {"dhash": -4, "embedding": WHO[1], "face_x": 400.0, "dbcnn": 80.0 - index}
        given = {"frame_id": 1000 + index, "source": "/v.mp4", "frame_index": index, "shot": 0}
        rows.append(group("v", [left, right], timestamp_s=index / 10, width=640, height=360, **given))
    table = write_groups(tmp_path / "table", [*rows, group("a", [{"dhash": 3}])])
    found = faceq.select(table, "true", per="track", top=1, by="dbcnn", faces=True).to_pylist()
    assert [(row["group"], row["track"], row["frame_index"], row["face"]) for row in found] == [
        ("/v.mp4: track 0", 0, 11, 0),
        ("/v.mp4: track 1", 1, 0, 1),
    ]
    assert len(faceq.duplicates(table, "track = 1", faces=True)) == 11
    assert len(faceq.cluster(table, "track = 0", cosine=0.5, faces=True)) == 12


def test_a_list_of_frames_has_no_tracks(tmp_path):
    table = write_groups(tmp_path / "table", [group("a", [{"dhash": 3}])])
    with pytest.raises(UsageError, match="--per track needs --faces"):
        faceq.select(table, "true", per="track")
