"""`faceq query --faces`: one row per face instead of one per frame."""

import hashlib
import json

import pyarrow.parquet as pq
import pytest
from here import score_here

import faceq
from faceq.cli.main import main
from faceq.query.rows import Rows
from faceq.storage.settings import S3Settings
from faceq.table.schema import FACE


def faces_of(table: str, where: str | None = None) -> list[dict]:
    with Rows(table, S3Settings(), faces=True) as rows:
        return rows.arrow(rows.chosen(where, order_by="source, face")).to_pylist()


def test_each_face_is_a_row_with_the_columns_of_its_frame(faces_table):
    frames = {row["source"]: row for row in faceq.read_table(faces_table).to_pylist()}
    rows = faces_of(faces_table)
    assert len(frames) == 3 and len(rows) == 7
    for row in rows:
        frame = frames[row["source"]]
        assert row["n_faces"] == frame["n_faces"] and row["frame_id"] == frame["frame_id"]
        if row["n_faces"] == 1:  # of the run that scored the largest face
            assert frame["faces"] is None and (row["face"], row["main"]) == (0, True)
            face = {**{name: frame.get(name) for name in FACE.names}}
        else:
            face = frame["faces"][row["face"]]
        assert {name: row[name] for name in FACE.names} == face
        assert row["main"] == (face["face_x"] == frame["face_x"])


def test_a_condition_holds_for_faces(faces_table):
    every = faces_of(faces_table)
    least = sorted(row["dbcnn"] for row in every if row["dbcnn"] is not None)[2]
    chosen = faces_of(faces_table, f"dbcnn > {least} and n_faces > 1")
    assert chosen == [row for row in every if row["n_faces"] > 1 and (row["dbcnn"] or 0) > least]
    assert chosen


def test_a_table_of_largest_faces_has_one_row_for_each(tmp_path, photos):
    uri = score_here(str(photos / "t1.jpg"), str(tmp_path / "table"))
    (row,) = faces_of(uri)
    assert (row["face"], row["main"], row["n_faces"], row["track"]) == (0, True, 6, None)


def test_rows_of_faces_are_shown_counted_and_exported(faces_table, tmp_path, capsys):
    assert main(["query", "--faces", faces_table, "n_faces = 6"]) == 0
    shown = capsys.readouterr().out
    assert "6 of 6 rows" in shown and shown.split()[:4] == ["source", "member", "face", "main"]
    assert main(["query", faces_table, "n_faces = 6", "--faces", "--count"]) == 0
    assert capsys.readouterr().out == "6\n"
    for name in ("f.parquet", "f.jsonl", "f.csv"):
        assert main(["query", faces_table, "--faces", "--export", str(tmp_path / name)]) == 0
    exported = pq.read_table(tmp_path / "f.parquet", columns=["face", "dbcnn"]).to_pylist()
    lines = [json.loads(line) for line in (tmp_path / "f.jsonl").read_text().splitlines()]
    assert [row["face"] for row in lines] == [row["face"] for row in exported]
    for line, row in zip(lines, exported, strict=True):
        assert line["dbcnn"] == pytest.approx(row["dbcnn"], rel=1e-5)
    assert len((tmp_path / "f.csv").read_text().splitlines()) == 1 + len(exported) == 8


def test_frames_are_exported_whole_with_their_faces(faces_table, tmp_path):
    assert main(["query", faces_table, "n_faces = 6", "--export", str(tmp_path / "f.parquet")]) == 0
    (row,) = pq.read_table(tmp_path / "f.parquet").to_pylist()
    assert row["faces"] == faceq.read_table(faces_table, "n_faces = 6")["faces"][0].as_py()


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--export-shards", "out"], "--export-shards writes frames: leave out --faces"),
        (["dbcn > 1"], 'there is no column "dbcn": did you mean "dbcnn"?'),
    ],
)
def test_wrong_combinations_say_what_to_write(faces_table, arguments, what, capsys):
    assert main(["query", "--faces", faces_table, *arguments]) == 2
    assert what in capsys.readouterr().err


def test_a_statement_may_use_the_faces_and_the_frames(faces_table, capsys):
    statement = "select count(*) as n, count(distinct face_id), count(distinct frame_id) from faces"
    assert main(["query", faces_table, "--faces", "--sql", statement]) == 0
    assert capsys.readouterr().out.split("\n")[1].split() == ["7", "7", "2"]
    statement = "select (select count(*) from faces) as faces, (select count(*) from frames) as frames"
    assert main(["query", faces_table, "--faces", "--sql", statement]) == 0
    assert capsys.readouterr().out.split("\n")[1].split() == ["7", "3"]
    assert main(["query", faces_table, "--sql", "select count(*) from faces"]) == 2
    assert "faces does not exist" in capsys.readouterr().err


def test_an_id_of_a_face_is_repeatable(faces_table):
    for row in faces_of(faces_table):
        digest = hashlib.md5(f"{row['frame_id']}/{row['face']}".encode()).digest()
        assert row["face_id"] == int.from_bytes(digest[8:], "little") >> 1


def test_python_reads_rows_of_faces(faces_table):
    found = faceq.read_table(faces_table, "n_faces > 1 and not main", ["source", "face"], faces=True)
    assert sorted(found["face"].to_pylist()) == [0, 1, 3, 4, 5]
