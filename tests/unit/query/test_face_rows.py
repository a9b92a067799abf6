"""`faceq query --faces`: one row per face instead of one per frame."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from exported import samples
from here import score_here
from places import PHOTOS

import faceq
from faceq.cli.main import main
from faceq.faces import geometry
from faceq.query import drawn_picture
from faceq.query.rows import Rows
from faceq.sources.decode.image import decode
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
        (["--export-shards", "out"], "add --crop face or --crop aligned"),
        (["dbcn > 1"], 'there is no column "dbcn": did you mean "dbcnn"?'),
        (["--sql", "select face from frames"], "in --sql use the view `faces`"),
    ],
)
def test_wrong_combinations_say_what_to_write(faces_table, arguments, what, capsys):
    assert main(["query", "--faces", faces_table, *arguments]) == 2
    assert what in capsys.readouterr().err


@pytest.mark.parametrize("name", ["track", "face_id", "face", "main"])
def test_a_column_of_faces_without_the_flag_is_an_error_that_names_it(faces_table, name, capsys):
    assert main(["query", faces_table, f"{name} = 1"]) == 2
    assert f'frames have no column "{name}", but faces do: add --faces' in capsys.readouterr().err


def test_a_condition_may_stand_behind_flags(faces_table, capsys):
    assert main(["query", faces_table, "--faces", "--count", "n_faces = 6"]) == 0
    assert main(["query", "--count", faces_table, "--faces", "n_faces = 1"]) == 0
    assert capsys.readouterr().out == "6\n1\n"


@pytest.mark.parametrize("left", [["n_faces = 6", "main"], ["--fases"]])
def test_what_is_no_condition_behind_flags_is_an_error(faces_table, left, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["query", faces_table, "--faces", *left])
    assert ended.value.code == 2
    assert f"unrecognized arguments: {' '.join(left)}" in capsys.readouterr().err


@pytest.fixture(scope="module")
def crops(faces_table, tmp_path_factory) -> Path:
    """An export of the crops of all faces."""
    folder = tmp_path_factory.mktemp("crops") / "all"
    assert main(["query", faces_table, "--faces", "--export-shards", str(folder), "--crop", "aligned"]) == 0
    return folder


def test_each_face_is_exported_as_a_crop_with_its_row(faces_table, crops):
    pictures, rows = samples(crops)
    known = {row["face_id"]: row for row in faces_of(faces_table)}
    assert rows.keys() == pictures.keys() == known.keys() and len(rows) == 7
    for number, row in rows.items():
        for name in ("face", "main", "landmarks", "dbcnn", "source"):
            assert row[name] == known[number][name]
        frame = decode(Path(row["source"]).read_bytes(), 1 << 30)
        points = np.array(known[number]["landmarks"], np.float32).reshape(5, 2)
        assert (decode(pictures[number], 1 << 30) == geometry.align(frame, points)).all()


def test_the_main_faces_have_the_crops_that_their_frames_have(faces_table, crops, tmp_path):
    """Frames without a face have none."""
    assert main(["query", faces_table, "--export-shards", str(tmp_path), "--crop", "aligned"]) == 0
    of_frames, _ = samples(tmp_path)
    of_faces, rows = samples(crops)
    mains = {row["frame_id"]: of_faces[number] for number, row in rows.items() if row["main"]}
    assert mains == of_frames


def test_a_frame_is_read_once_for_all_its_faces(faces_table, tmp_path, monkeypatch):
    opened: list[str] = []
    read = drawn_picture.decode
    monkeypatch.setattr(drawn_picture, "decode", lambda *args: opened.append("") or read(*args))
    where = ["n_faces = 6", "--order-by", "face", "--limit", "4"]
    arguments = ["--faces", "--export-shards", str(tmp_path), "--crop", "face:0.2", "--format", "jpeg:90"]
    assert main(["query", faces_table, *where, *arguments]) == 0
    _, rows = samples(tmp_path)
    assert sorted(row["face"] for row in rows.values()) == [0, 1, 2, 3]
    # The rows that are written first are read for themselves.
    assert len(opened) <= 2


def test_an_export_of_faces_is_completed_and_not_mixed_with_one_of_frames(
    faces_table, crops, tmp_path, capsys
):
    folder = shutil.copytree(crops, tmp_path / "again")
    names = [path.name for path in sorted(folder.glob("*.tar"))]
    arguments = ["query", faces_table, "--export-shards", str(folder), "--crop", "aligned"]
    assert main([*arguments, "--faces"]) == 0
    assert "0 faces in" in (shown := capsys.readouterr().out) and "7 were exported before" in shown
    assert [path.name for path in sorted(folder.glob("*.tar"))] == names
    assert main(arguments) == 2
    assert "faces was True, is now False" in capsys.readouterr().err


def test_faces_of_a_picture_that_is_gone_are_counted(tmp_path, capsys):
    shutil.copy(PHOTOS / "t1.jpg", tmp_path / "t1.jpg")
    uri = score_here(str(tmp_path / "t1.jpg"), str(tmp_path / "table"), faces="all")
    (tmp_path / "t1.jpg").write_bytes((PHOTOS / "Tom_Hanks_54745.png").read_bytes())
    arguments = ["query", uri, "--faces", "--export-shards", str(tmp_path / "out"), "--crop", "face"]
    assert main(arguments) == 1
    shown, warned = capsys.readouterr()
    assert "0 faces in" in shown
    assert "6 faces could not be read" in warned and "score it again" in " ".join(warned.split())


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
        box = "/".join(str(round(row[f"face_{side}"])) for side in "xywh")
        digest = hashlib.md5(f"{row['frame_id']}/{box}".encode()).digest()
        assert row["face_id"] == int.from_bytes(digest[8:], "little") >> 1


def test_python_reads_rows_of_faces(faces_table):
    found = faceq.read_table(faces_table, "n_faces > 1 and not main", ["source", "face"], faces=True)
    assert sorted(found["face"].to_pylist()) == [0, 1, 3, 4, 5]
