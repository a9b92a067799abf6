"""`faceq evaluate` with identities of single faces, in photos of several people."""

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from here import score_here
from PIL import Image
from videos import write_video

import faceq
from faceq.cli.main import main
from faceq.errors import UsageError
from faceq.evaluation import identities
from faceq.models.fetch import FetchOptions
from faceq.storage.settings import S3Settings
from faceq.table.store import Table

STORAGE = S3Settings()
IN_GROUP = (0, 3)
"""Positions of the faces of t1.jpg that the mosaic shows again."""


@pytest.fixture(scope="module")
def folder(photos, tmp_path_factory) -> Path:
    """A photo of six people, a portrait, a mosaic of the portrait and two of the six, and a video of it."""
    folder = tmp_path_factory.mktemp("people")
    (folder / "in").mkdir()
    for name in ("t1.jpg", "Tom_Hanks_54745.png"):
        (folder / "in" / name).write_bytes((photos / name).read_bytes())
    group = Image.open(photos / "t1.jpg").convert("RGB")
    faces = faceq.score_images([np.asarray(group)], faces="all")["faces"][0].as_py()
    parts = [Image.open(photos / "Tom_Hanks_54745.png").convert("RGB")]
    for place in IN_GROUP:
        x, y, w, h = (faces[place][f"face_{side}"] for side in "xywh")
        parts.append(group.crop(tuple(map(round, (x - w / 4, y - h / 4, x + 5 * w / 4, y + 5 * h / 4)))))
    mosaic = np.hstack([np.asarray(part.resize((240, 240))) for part in parts])
    Image.fromarray(mosaic).save(folder / "in" / "mosaic.png")
    write_video(folder / "in" / "clip.mp4", [mosaic] * 3)
    return folder


@pytest.fixture(scope="module")
def table(folder) -> Table:
    uri = score_here(str(folder / "in"), str(folder / "table"), faces="all", embeddings=True)
    return Table(uri, STORAGE)


@pytest.fixture(scope="module")
def people(table) -> dict[tuple[str, int | None], str]:
    """The person of each face, by the name of its photo and its position."""
    found = faceq.read_table(table.uri, "timestamp_s is null", faces=True).to_pylist()
    names = ("tom", *(f"group{place}" for place in IN_GROUP))
    known = {
        ("mosaic.png", row["face"]): names[int(row["face_x"] // 240)]
        for row in found
        if row["source"].endswith("mosaic.png")
    }
    assert sorted(known.values()) == sorted(names)
    return {
        **known,
        **{("t1.jpg", place): f"group{place}" for place in IN_GROUP},
        ("Tom_Hanks_54745.png", None): "tom",
    }


def write_list(path: Path, people: dict[tuple[str, int | None], str]) -> str:
    with open(path, "w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["image", "face", "identity"])
        lines.writerows((image, "" if face is None else face, who) for (image, face), who in people.items())
    return str(path)


def known_in(table: Table, path: str) -> list[tuple[str, int, str]]:
    known = identities.known_faces(table, path, STORAGE, faces=True)
    columns = (known.rows["image"].to_pylist(), known.rows["face"].to_pylist(), known.people)
    return [(image, face, known.names[who]) for image, face, who in zip(*columns, strict=True)]


def test_each_face_gets_its_person(table, people, tmp_path):
    found = known_in(table, write_list(tmp_path / "list.csv", people))
    assert {(image, face): who for image, face, who in found} == {
        (image, face or 0): who for (image, face), who in people.items()
    }
    assert len(found) == 6


def test_each_face_is_aligned_by_its_own_landmarks(table, people, tmp_path):
    """Embedded again from the frames, each face has the embedding of its own element in `faces`."""
    known = identities.known_faces(table, write_list(tmp_path / "list.csv", people), STORAGE, faces=True)
    crops = np.stack(list(identities.aligned_faces(known.rows, table, STORAGE)))
    again = identities.embeddings_of(crops, table, FetchOptions())
    kept = identities.known_embeddings(table, known, STORAGE, FetchOptions())
    assert np.allclose(again, kept, atol=1e-5)
    cosines = kept @ kept.T
    same = known.people[:, None] == known.people
    pairs = ~np.eye(len(same), dtype=bool)
    assert cosines[same & pairs].min() > 0.6 and cosines[~same].max() < 0.3


def test_frames_are_read_again_if_a_face_has_no_embedding(table, people, tmp_path):
    known = identities.known_faces(table, write_list(tmp_path / "list.csv", people), STORAGE, faces=True)
    kept = known.rows["embedding"].to_pylist()
    holes = pa.array([None, *kept[1:]], known.rows["embedding"].type)
    place = known.rows.column_names.index("embedding")
    partly = identities.Known(known.rows.set_column(place, "embedding", holes), known.people, known.names, 0)
    again = identities.known_embeddings(table, partly, STORAGE, FetchOptions())
    assert np.allclose(again, np.array(kept), atol=1e-5)


def test_a_face_with_the_label_of_another_is_suspicious(table, people, tmp_path, capsys):
    right = write_list(tmp_path / "right.csv", people)
    assert main(["evaluate", "labels", "--faces", table.uri, right]) == 0
    assert "0 of 6 faces resemble another label" in capsys.readouterr().out
    first, second = (("t1.jpg", place) for place in IN_GROUP)
    swapped = {**people, first: people[second], second: people[first]}
    out = tmp_path / "suspects.csv"
    wrong = write_list(tmp_path / "wrong.csv", swapped)
    assert main(["evaluate", "labels", "--faces", table.uri, wrong, "--out", str(out)]) == 0
    with open(out) as file:
        rows = list(csv.DictReader(file))
    suspects = {(Path(row["source"]).name, int(row["face"])) for row in rows if float(row["suspicion"]) > 0}
    assert {first, second} <= suspects and "Tom_Hanks_54745.png" not in dict(suspects)


def test_errors_and_thresholds_are_those_of_faces(table, people, tmp_path, capsys):
    listed = write_list(tmp_path / "list.csv", {**people, ("t1.jpg", 99): "nobody"})
    assert main(["evaluate", "edc", "--faces", table.uri, listed]) == 0
    printed = capsys.readouterr().out
    assert "6 faces of 3 people; 1 faces of the list have no scored face" in printed
    assert "3 genuine pairs, 12 impostor pairs" in printed


def test_a_main_face_may_be_listed_twice_as_one_person(table, people, tmp_path):
    """t1.jpg's main face is not the first one."""
    main_face = faceq.read_table(table.uri, "main and source like '%t1.jpg'", ["face"], faces=True)["face"][
        0
    ].as_py()
    twice = {**people, ("t1.jpg", None): "group2", ("t1.jpg", main_face): "group2"}
    assert ("t1.jpg", main_face, "group2") in known_in(table, write_list(tmp_path / "list.csv", twice))
    assert len(known_in(table, str(tmp_path / "list.csv"))) == 7
    twice["t1.jpg", main_face] = "another"
    path = write_list(tmp_path / "list.csv", twice)
    with pytest.raises(
        UsageError, match=f"main face of t1.jpg is face {main_face}: one line says that it is group2"
    ):
        known_in(table, path)


def test_without_faces_the_main_face_counts(table, people, tmp_path, caplog):
    only = {place: who for place, who in people.items() if place[0] != "mosaic.png"}
    del only["t1.jpg", IN_GROUP[0]]
    path = write_list(tmp_path / "list.csv", {**only, ("clip.mp4", None): "tom"})
    known = identities.known_faces(table, path, STORAGE)
    assert "its column face is used only with --faces" in caplog.text
    landmarks = dict(zip(known.rows["image"].to_pylist(), known.rows["landmarks"].to_pylist(), strict=True))
    main_face = faceq.read_table(table.uri, "source like '%t1.jpg'", ["landmarks"])["landmarks"][0].as_py()
    assert landmarks["t1.jpg"] == main_face and "face" not in known.rows.column_names


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("image,identity\na.jpg,x\n", "no column face; found image, identity"),
        ("image,face,identity\na.jpg,first,x\n", "line 2: face is 'first': write its position in `faces`"),
        ("image,face,identity\na.jpg,-1,x\n", "line 2: face is '-1'"),
        ("image,face,identity\na.jpg,12345678901234567890,x\n", "write its position"),
        ("image,face,identity\na.jpg,1,x\na.jpg,1,y\n", "line 3: face 1 of a.jpg is y here, but x"),
        (
            "image,face,identity\nclip.mp4,1,x\nt1.jpg,1,y\n",
            "clip.mp4 is a video: a position in `faces` means",
        ),
        ("image,face,identity\nt1.jpg,1,x\n", "1 scored faces in"),
    ],
)
def test_lists_that_do_not_fit_are_refused(table, tmp_path, lines, said, capsys):
    (tmp_path / "list.csv").write_text(lines)
    assert main(["evaluate", "labels", "--faces", table.uri, str(tmp_path / "list.csv")]) == 2
    assert said in capsys.readouterr().err


def test_two_people_in_one_image_need_the_flag(table, people, tmp_path, capsys):
    path = write_list(tmp_path / "list.csv", people)
    assert main(["evaluate", "edc", table.uri, path]) == 2
    assert "for several people in an image, add a column face, and --faces" in capsys.readouterr().err
    assert main(["evaluate", "edc", table.uri, "--faces", "--identity", "extra.who"]) == 2
    assert "--identity names one person for each frame" in capsys.readouterr().err


def test_the_scale_is_fitted_to_all_faces(table, capsys, monkeypatch):
    monkeypatch.setattr("faceq.evaluation.calibration.MIN_FACES", 10)
    faces = faceq.read_table(table.uri, "serfiq_raw is not null", ["serfiq_raw"], faces=True)["serfiq_raw"]
    assert main(["evaluate", "calibrate", "--faces", table.uri]) == 0
    printed = capsys.readouterr().out
    median = float(np.median(faces.to_numpy()))
    assert f"{len(faces)} faces: serfiq 0.5" in printed and f"The median serfiq_raw, {median:.4f}" in printed
    assert main(["evaluate", "calibrate", table.uri]) == 2
    assert "6 faces have a serfiq_raw" in capsys.readouterr().err
