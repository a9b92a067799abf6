"""Selections of faces: each face of a frame is a candidate, in groups, bins, exports and the report."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from exported import samples
from here import score_here

import faceq
from faceq.cli.main import main
from faceq.errors import UsageError
from faceq.selection.select import METADATA_KEY

ANY = "face_x is not null"
"""A condition that all faces fulfil."""


@pytest.fixture(scope="module")
def table(faces_table) -> str:
    return faces_table


def faces_of(table: str, where: str = ANY) -> list[dict[str, Any]]:
    return faceq.read_table(table, where, faces=True).to_pylist()


def test_the_best_faces_of_each_picture_are_chosen(table):
    found = faceq.select(table, ANY, per="source", top=2, by="serfiq", faces=True).to_pylist()
    known = {row["face_id"]: row for row in faces_of(table)}
    for name, count in (("t1.jpg", 2), ("Tom_Hanks_54745.png", 1)):
        chosen = [row for row in found if row["source"].endswith(name)]
        best = sorted((row["serfiq"] for row in known.values() if row["source"].endswith(name)), reverse=True)
        assert [row["serfiq"] for row in chosen] == best[:count]
        assert [row["rank"] for row in chosen] == list(range(1, count + 1))
    for row in found:
        assert {name: row[name] for name in known[row["face_id"]]} == known[row["face_id"]]
    assert any(not row["main"] for row in found)


def test_faces_of_one_picture_are_distinct(table):
    found = faceq.select(table, "n_faces = 6", by="serfiq", distinct="hash:1", faces=True)
    assert sorted(found["face"].to_pylist()) == [0, 1, 2, 3, 4, 5]
    (row,) = faceq.select(table, ANY, by="serfiq", distinct="hash:64", faces=True).to_pylist()
    assert row["serfiq"] == max(face["serfiq"] for face in faces_of(table))


def test_a_face_without_a_score_is_left_out(table, tmp_path, capsys):
    below = [row for row in faces_of(table) if row["dbcnn"] is None]
    out = tmp_path / "best.parquet"
    assert main(["select", table, ANY, "--faces", "--out", str(out)]) == 0
    shown, warned = capsys.readouterr()
    assert shown.splitlines()[0].split() == ["candidates", str(7 - len(below))]
    assert (f"{len(below)} faces that fulfil the condition are left out" in warned) == bool(below)
    stored = pq.read_table(out)
    assert {"face_id", "face", "main", "track"} <= set(stored.column_names)
    assert json.loads(stored.schema.metadata[METADATA_KEY])["faces"] is True


def test_a_condition_may_ask_for_frames(table):
    where = "frame_id in (select frame_id from frames where n_faces > 1 and serfiq > 0) and not main"
    found = faceq.select(table, where, by="face_w", top=1, faces=True).to_pylist()
    others = faces_of(table, "n_faces > 1 and not main")
    assert [row["face_w"] for row in found] == [max(row["face_w"] for row in others)]


def test_the_chosen_faces_are_exported_as_crops(table, tmp_path, capsys):
    arguments = ["select", table, ANY, "--faces", "--per", "source", "--top", "2", "--by", "serfiq"]
    folder = tmp_path / "best"
    assert main([*arguments, "--export-shards", str(folder)]) == 2
    assert "add --crop face or --crop aligned" in capsys.readouterr().err
    assert main([*arguments, "--export-shards", str(folder), "--crop", "aligned:256"]) == 0
    assert "3 faces in" in capsys.readouterr().out
    pictures, rows = samples(folder)
    chosen = faceq.select(table, ANY, per="source", top=2, by="serfiq", faces=True).to_pylist()
    assert pictures.keys() == {row["face_id"] for row in chosen}
    assert {(row["face"], row["rank"]) for row in rows.values()} == {
        (row["face"], row["rank"]) for row in chosen
    }
    assert main([*arguments, "--export-shards", str(folder), "--crop", "aligned:256"]) == 0
    assert "3 were exported before" in capsys.readouterr().out


def test_the_report_shows_the_chosen_faces(table, tmp_path):
    best, page = tmp_path / "best.parquet", tmp_path / "report.html"
    arguments = ["--faces", "--per", "source", "--by", "serfiq", "--balance", "yaw:3", "--top", "5"]
    assert main(["select", table, ANY, *arguments, "--out", str(best)]) == 0
    for faces in ([], ["--faces"]):
        assert main(["report", table, "--out", str(page), "--selection", str(best), *faces]) == 0
        shown = page.read_text()
        assert "6 of 7 candidates are chosen" in shown
        assert "of 7 candidates; stronger cells have more faces" in shown
        assert shown.count('alt="Face, rank') == 6


def test_a_selection_of_faces_that_are_not_there_is_refused(table, tmp_path, capsys):
    """A table of the same pictures with only their largest faces."""
    best, page = tmp_path / "best.parquet", tmp_path / "report.html"
    assert main(["select", table, "n_faces = 6", "--faces", "--out", str(best)]) == 0
    (source,) = {row["source"] for row in faces_of(table, "n_faces = 6")}
    largest = score_here(source, str(tmp_path / "largest"))
    assert main(["report", largest, "--out", str(page), "--selection", str(best)]) == 2
    assert "5 of its 6 faces are not in" in capsys.readouterr().err
    assert not page.exists()


@pytest.fixture(scope="module")
def clusters(table, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clusters") / "people.parquet"
    rows = faceq.read_table(table, "n_faces = 6", ["face_id", "face", "frame_id"], faces=True)
    pq.write_table(rows.rename_columns({"face": "cluster"}), path)
    return path


def test_people_of_another_table_are_those_of_the_same_faces(table, clusters, tmp_path):
    """In a table of largest faces, position 0 is another person than in the list."""
    (main_face,) = faces_of(table, "n_faces = 6 and main")
    largest = score_here(main_face["source"], str(tmp_path / "largest"))
    (found,) = faceq.select(largest, ANY, per="cluster", clusters=str(clusters), faces=True).to_pylist()
    assert found["face"] == 0 and found["group"] == str(main_face["face"]) != "0"


def test_clusters_are_of_faces(table, clusters):
    found = faceq.select(
        table, ANY, per="cluster", clusters=str(clusters), by="serfiq", faces=True
    ).to_pylist()
    assert [(row["group"], row["face"]) for row in found] == [(str(i), i) for i in range(6)]


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"per": "cluster"}, "is a list of all faces: add --faces"),
        ({"per": "track", "faces": True}, "no face .* has a track: only faces in videos have one"),
        ({"where": "nofaces > 2", "faces": True}, 'there is no column "nofaces": did you mean "n_faces"'),
        ({"by": "source", "faces": True}, "expected a number for each face, not VARCHAR"),
        ({"per": "shot", "faces": True}, "no face .* has a shot"),
    ],
)
def test_wrong_options_are_errors(table, clusters, wanted, reason):
    if wanted.get("per") == "cluster":
        wanted = {**wanted, "clusters": str(clusters)}
    with pytest.raises(UsageError, match=reason):
        faceq.select(table, **{"where": ANY, "by": "serfiq", **wanted})


def test_clusters_of_frames_are_refused_for_faces(table, tmp_path):
    path = tmp_path / "people.parquet"
    rows = faceq.read_table(table, None, ["frame_id", "n_faces"]).rename_columns({"n_faces": "cluster"})
    pq.write_table(rows, path)
    with pytest.raises(UsageError, match="faceq cluster TABLE --faces --out FILE"):
        faceq.select(table, ANY, per="cluster", clusters=str(path), by="serfiq", faces=True)
