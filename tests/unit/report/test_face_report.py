"""`faceq report --faces`: the page about faces."""

import base64
import io
import re

import numpy as np
import pytest
from here import score_here
from PIL import Image

from faceq.cli.main import main
from faceq.query.rows import Rows
from faceq.report import page as report
from faceq.report.faces import BEYOND, sample, thumbnail
from faceq.storage.settings import S3Settings

MEASURES = [column.name for column in report.DRAWN]


def words_of(html: str) -> str:
    """The text of a page, without its script."""
    body = re.sub(r"<(script|style|title).*?</\1>", " ", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


@pytest.fixture(scope="module")
def page(faces_table) -> str:
    return report.build(faces_table, S3Settings(), per_face=True)


def test_the_page_counts_faces(page, faces_table):
    words = words_of(page)
    assert "7 faces in 2 frames from 2 sources" in words and "Faces by status" in words
    assert "1 of the runs scored one face of each frame" in words
    assert "1 frame in which no face was found" in words
    assert re.search(r"scored 7 100\.0%", words) and "no_face" not in words
    with Rows(faces_table, S3Settings(), faces=True) as rows:
        counts = report.count(rows)
        passing = rows.count(rows.chosen("serfiq >= 0.6 and dbcnn >= 55"))
    assert counts.rows == 7 and int(counts.grid[60:, 55:].sum()) == passing
    assert "faceq query --faces ${quoted(data.table)}" in page
    for chart in re.findall(r"Histogram of \w+ over \d+ \w+", page):
        assert re.search(r"over [1-7] faces", chart)


def test_sections_about_frames_are_left_out(page):
    titles = re.findall(r"<h2[^>]*>([^<]+)", page)
    assert "Videos" not in titles and "Most common errors" not in titles
    assert "Why faces fail" in titles and "Head pose" in titles
    assert "shows what belongs to frames: errors, videos over time" in words_of(page)


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))), np.float32)


def test_each_sample_shows_its_face(faces_table):
    with Rows(faces_table, S3Settings(), faces=True) as rows:
        shown = sample(rows, report.SCALES, MEASURES, S3Settings())
        wanted = rows.arrow(rows.chosen("n_faces > 1")).to_pylist()
    photo = Image.open(wanted[0]["source"]).convert("RGB")
    middles = {}
    for row in wanted:
        x, y, w, h = (row[f"face_{side}"] for side in "xywh")
        side = max(w, h)  # the middle of the thumbnail, without its margin
        around = (x + (w - side) / 2, y + (h - side) / 2, x + (w + side) / 2, y + (h + side) / 2)
        middles[row["serfiq"]] = np.asarray(
            photo.crop(tuple(map(round, around))).resize((65, 65)), np.float32
        )
    found = {face.serfiq: face for faces in shown.by_score.values() for face in faces}
    assert set(middles) < set(found) and shown.lost == 0
    for serfiq, face in found.items():
        if serfiq not in middles:
            continue
        middle = pixels(face.picture)[12:77, 12:77]
        unlike = {other: np.abs(middle - its).mean() for other, its in middles.items()}
        assert min(unlike, key=unlike.get) == serfiq and unlike[serfiq] < 12


def test_the_ends_of_a_measure_are_faces_of_one_photo(faces_table, monkeypatch):
    monkeypatch.setattr("faceq.report.faces._GROUPS", 1 << 40)  # no two of the faces are in one group
    with Rows(faces_table, S3Settings(), faces=True) as rows:
        ends = sample(rows, report.SCALES, ["yaw"], S3Settings()).by_measure["yaw"]
        yaws = sorted(rows.arrow(rows.chosen(columns=["yaw"]))["yaw"].to_pylist())
    assert [value for value, _ in ends.lowest] == yaws[:4]
    assert [value for value, _ in ends.highest] == yaws[:-5:-1]


def test_a_face_at_the_edge_is_in_the_middle_of_its_thumbnail():
    frame = np.zeros((100, 200, 3), np.uint8)
    frame[40:60, 180:] = (250, 0, 0)
    found = pixels(thumbnail(frame, [180, 40, 20, 20], centred=True))
    assert found[44, 44, 0] > 200 and found[44, 20, 0] > 200
    assert np.abs(found[:, 85:] - BEYOND).max() < 12
    moved = pixels(thumbnail(frame, [180, 40, 20, 20]))
    assert moved[44, 80, 0] > 200 and moved[44, 10, 0] < 60


def test_the_page_of_frames_says_how_many_faces_it_leaves_out(faces_table, photos, tmp_path):
    words = words_of(report.build(faces_table, S3Settings(), with_pictures=False))
    assert "3 frames from" in words
    assert "Only the main face of each frame counts here. The frames have 5 further faces:" in words
    largest = score_here(str(photos / "t1.jpg"), str(tmp_path / "table"))
    assert "further face" not in words_of(report.build(largest, S3Settings(), with_pictures=False))
    assert "1 faces in 1 frame" in words_of(report.build(largest, S3Settings(), False, per_face=True))


def test_a_table_without_faces_has_a_page(photos, tmp_path, capsys):
    uri = score_here(str(photos / "mask_blue.jpg"), str(tmp_path / "table"), faces="all")
    assert main(["report", "--faces", uri, "--out", str(tmp_path / "r.html")]) == 0
    assert "0 faces in 0 frames" in words_of((tmp_path / "r.html").read_text())


def test_a_selection_of_frames_is_not_one_of_faces(faces_table, tmp_path, capsys):
    best = str(tmp_path / "best.parquet")
    assert main(["select", faces_table, "n_faces > 0", "--by", "face_w", "--out", best]) == 0
    assert main(["report", "--faces", faces_table, "--selection", best]) == 2
    assert "is a selection of frames: leave out --faces" in capsys.readouterr().err
