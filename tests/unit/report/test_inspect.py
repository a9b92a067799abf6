"""`faceq inspect`: its values are those of a table, and its image shows them."""

import io
import json
import subprocess
import sys

import boto3
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps
from places import PHOTOS, ROOT
from real_s3 import BUCKET

import faceq
from faceq import config
from faceq.cli import inspect, main
from faceq.report import comparison, panels, picture
from faceq.sources import frame
from faceq.storage.settings import S3Settings

LICENCE = ROOT / "LICENSE"
PORTRAIT = PHOTOS / "Tom_Hanks_54745.png"


@pytest.fixture(scope="module")
def inspector() -> picture.Inspector:
    return picture.Inspector(config.Config())


@pytest.fixture(scope="module")
def look(inspector) -> picture.Inspected:
    return inspector([frame.Frame(str(PORTRAIT), None, 0, PORTRAIT.read_bytes())])[0]


def test_the_values_are_those_of_a_job(capsys):
    assert main.main(["inspect", str(PORTRAIT), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    (scored,) = faceq.score_images([PORTRAIT], fiq_threshold=0).to_pylist()
    assert {**row, "run_id": ""} == {**scored, "run_id": ""}


def test_the_picture_shows_box_outline_and_landmarks_at_their_places(inspector, look):
    drawn = inspector.annotated(look, comparison.shipped())
    assert drawn.shape[0] == picture.SIDE
    row, scale = look.row, picture.SIDE / look.row["height"]
    x, y = round(row["face_x"] * scale), round(row["face_y"] * scale)
    middle = round((row["face_x"] + row["face_w"] / 2) * scale)
    assert tuple(drawn[y, middle]) == picture.BOX_COLOUR and x < middle
    eye = np.round(np.array(row["landmarks"][:2]) * scale).astype(int)
    assert tuple(drawn[eye[1], eye[0]]) == picture.LANDMARK_COLOUR
    ys, xs = np.nonzero((drawn == picture.OUTLINE_COLOUR).all(axis=2)[:, : round(row["width"] * scale)])
    face = np.array([xs.min(), ys.min(), xs.max(), ys.max()]) / scale
    box = np.array(
        [row["face_x"], row["face_y"], row["face_x"] + row["face_w"], row["face_y"] + row["face_h"]]
    )
    assert np.abs(face - box).max() < 0.25 * row["face_h"]


def test_all_faces_have_numbered_boxes_and_a_line_each(capsys, tmp_path):
    photo, out = PHOTOS / "t1.jpg", tmp_path / "six.png"
    arguments = ["inspect", str(photo), "--faces", "all", "--set", "fiq_threshold=0.95"]
    assert main.main([*arguments, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    lines = [line for line in shown.splitlines() if line.startswith("  face ")]
    assert [line.split()[1] for line in lines[1:]] == ["0", "1", "2", "3", "4", "5"]
    assert sum("the main face" in line for line in lines) == 1
    assert all("serfiq 0." in line and "dbcnn " in line for line in lines[1:])
    assert main.main([*arguments, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    (scored,) = faceq.score_images([photo], faces="all", fiq_threshold=0.95).to_pylist()
    assert {**row, "run_id": ""} == {**scored, "run_id": ""}
    assert {face["status"] for face in row["faces"]} == {"scored", "below_fiq"}
    for line, face in zip(lines[1:], row["faces"], strict=True):
        assert f", {face['status']}, serfiq {face['serfiq']:.3f}, dbcnn " in line
        assert ("(null in a table)" in line) == (face["dbcnn"] is None)
        assert face["dbcnn"] is None or f"dbcnn {face['dbcnn']:.1f}" in line
    drawn, scale = np.array(Image.open(out)), picture.SIDE / row["height"]
    for face in row["faces"]:
        left, middle = (face[f"face_{side}"] + face[f"face_{size}"] / 2 * at for side, size, at in SIDES)
        edge = drawn[round(middle * scale), round(left * scale) - 1 : round(left * scale) + 2]
        assert (np.abs(edge.astype(int) - picture.BOX_COLOUR).max(axis=1) < 60).any()
        x, y = round(face["face_x"] * scale), round(face["face_y"] * scale)
        label = drawn[y - 12 : y, x : x + 10].reshape(-1, 3)
        assert (label == picture.BOX_COLOUR).all(axis=1).sum() > 40 and (label.max(axis=1) < 60).any()


@pytest.mark.parametrize(("x", "y"), [(0, 0), (90, 0), (90, 20)])
def test_the_number_of_a_face_at_an_edge_is_inside_the_image(x, y):
    """A box of 10 pixels is narrower than its number."""
    face = {"face_x": x, "face_y": y, "face_w": 10, "face_h": 10}
    inside, middle = (np.full((100, 100, 3), picture.BOX_COLOUR, np.uint8) for _ in range(2))
    picture._draw_numbers(inside, 1.0, [{"face_w": None}] * 100 + [face])
    picture._draw_numbers(middle, 1.0, [{"face_w": None}] * 100 + [{**face, "face_x": 40, "face_y": 40}])
    of_text = [(drawn != picture.BOX_COLOUR).any(axis=2).sum() for drawn in (inside, middle)]
    assert of_text[0] == of_text[1] > 20


SIDES = (("x", "w", 0), ("y", "h", 1))
"""The middle of the left side of a box."""


def test_the_part_that_dbcnn_ignores_is_dark_and_the_rest_is_unchanged(look):
    seen = picture.scored_pixels(look.crop, look.outline, "mask")
    inside = picture.geometry.polygon_mask(look.outline, 256).astype(bool)
    assert 0.1 < inside.mean() < 0.9
    assert (seen[inside] == look.crop[inside]).all()
    assert seen[~inside].mean() < 0.3 * look.crop[~inside].mean() + 1


def test_the_image_shows_what_another_region_leaves_out(look):
    inside = picture.geometry.polygon_mask(look.outline, 256).astype(bool)
    assert np.array_equal(picture.scored_pixels(look.crop, look.outline, "crop"), look.crop)
    black = picture.scored_pixels(look.crop, look.outline, "black_out")
    assert black[~inside].max() == 0 and (black[inside] == look.crop[inside]).all()


LONG = [
    ("status", "scored"),
    ("landmarks", "confidence 0.95, alignment error 3.6 pixels"),
    ("pose", "a " * 90),
]


@pytest.mark.parametrize(("lines", "crop"), [(LONG, 0), (LONG, 200), ([*LONG, ("error", "no" * 1000)], 200)])
def test_all_text_of_the_panel_is_inside_it(lines, crop):
    text = panels.fitted_text(lines, crop)
    assert text.height + crop <= picture.SIDE and len(text.entries) == len(lines)
    font, left = ImageFont.load_default(text.size), 5 * text.size
    assert (
        max(font.getlength(line) for _, values in text.entries for line in values) + left < picture.SIDE / 2
    )
    assert max(font.getlength(name) for name, _ in text.entries) < left


@pytest.mark.parametrize("size", [(384, 384), (1024, 1024), (200, 400)])
def test_the_last_line_of_the_panel_is_drawn(inspector, size, astronaut, monkeypatch):
    """A face for which all lines are shown."""
    blurred = ImageOps.fit(Image.fromarray(astronaut), size, centering=(0.4, 0)).filter(
        ImageFilter.GaussianBlur(size[0] / 100)
    )
    blurred.save(file := io.BytesIO(), "PNG")
    (look,) = inspector([frame.Frame("a.png", None, 0, file.getvalue())])
    lines = picture.lines_of(look, config.Config())
    scored = picture.scored_pixels(look.crop, look.outline, "mask")
    panel, drawn = texts_of(lambda: panels.value_panel(lines, scored), monkeypatch)
    assert lines[-1][0] == "why low"
    words = " ".join(text for _, text in drawn).split()
    assert " ".join(words).endswith(lines[-1][1]) and max(top for top, _ in drawn) < panels.SIDE - 20
    assert (panel[-8:] == panel[-1, -1]).all() and (panel[:, -8:] == panel[-1, -1]).all()


def test_the_measures_are_listed_beside_the_picture_the_worst_first(inspector, look, monkeypatch):
    reference = comparison.shipped()
    found = comparison.standings(look.row, reference)
    panel, drawn = texts_of(lambda: panels.measure_panel(found, reference), monkeypatch)
    names = [text for _, text in drawn if text in comparison.WORSE]
    assert names == [standing.name for standing in found] and len(names) == len(comparison.WORSE)
    assert max(top for top, _ in drawn) < panels.SIDE - 20
    assert (panel[:, -8:] == panel[-1, -1]).all() and (panel[-8:] == panel[-1, -1]).all()
    annotated = inspector.annotated(look, reference)
    assert np.array_equal(annotated[:, -panels.SIDE // 2 :], panel)


def texts_of(draw, monkeypatch) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """A panel, and the texts that it draws, each with its top."""
    drawn, plain = [], ImageDraw.ImageDraw.text

    def recorded(self, place, text, *rest, **options):
        drawn.append((place[1], text))
        return plain(self, place, text, *rest, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", recorded)
    return draw(), drawn


@pytest.mark.parametrize(
    ("content", "status"), [(b"<html>", "unreadable"), (PHOTOS / "mask_blue.jpg", "no_face")]
)
def test_images_without_a_score_are_inspected_too(tmp_path, content, status, capsys):
    path = tmp_path / "a.jpg"
    path.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    assert main.main(["inspect", str(path), "--out", str(tmp_path / "look.png")]) == 0
    assert status in capsys.readouterr().out
    assert Image.open(tmp_path / "look.png").height == picture.SIDE


def test_a_very_flat_picture_is_drawn_no_wider_than_the_widest(tmp_path):
    Image.new("RGB", (100, 1), (200, 10, 10)).save(tmp_path / "strip.png")
    assert main.main(["inspect", str(tmp_path / "strip.png"), "--out", str(tmp_path / "look.png")]) == 0
    look = np.asarray(Image.open(tmp_path / "look.png"))
    assert look.shape[:2] == (picture.SIDE, picture.WIDEST + picture.SIDE // 2)
    assert tuple(look[10, picture.WIDEST // 2]) == (200, 10, 10)


def test_several_pictures_go_into_a_folder(s3, tmp_path, capsys):
    boto3.client("s3").upload_file(str(PORTRAIT), BUCKET, "inspect/Tom_Hanks_54745.png")
    images = [str(PORTRAIT), f"{s3}/inspect/Tom_Hanks_54745.png"]
    assert main.main(["inspect", *images, "--out", str(tmp_path / "looks")]) == 0
    one, other = (Image.open(path) for path in sorted((tmp_path / "looks").iterdir()))
    assert np.array_equal(np.asarray(one), np.asarray(other))
    assert capsys.readouterr().out.count("\n  serfiq ") == 2


@pytest.mark.parametrize(("place", "made"), [("looks/", "looks/Tom_Hanks_54745.png"), ("a.jpg", "a.jpg")])
def test_an_output_on_s3_is_written_only_there(s3, tmp_path, monkeypatch, place, made):
    monkeypatch.chdir(tmp_path)
    assert main.main(["inspect", str(PORTRAIT), "--out", f"{s3}/inspected/{place}"]) == 0
    stored = boto3.client("s3").get_object(Bucket=BUCKET, Key=f"inspected/{made}")["Body"].read()
    assert Image.open(io.BytesIO(stored)).height == picture.SIDE
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/no/such.jpg"], "there is no such file"),
        ([__file__], "unknown file extension"),
        ([str(PORTRAIT), "--out", "/no/folder/a.png"], "there is no folder /no/folder"),
        ([str(PORTRAIT), "--out", "a.gif"], "name an annotated image .png"),
        ([str(PORTRAIT), "--out", __file__ + "/a.png"], "there is no folder"),
        ([str(PORTRAIT), "--out", "ftp://host/looks/"], "only local paths and "),
        ([str(PORTRAIT), str(PHOTOS / "t1.jpg"), "--out", str(LICENCE)], "LICENSE: is a file"),
        ([str(PORTRAIT), str(PHOTOS / "t1.jpg"), "--out", "a.png"], "is one file for 2 images"),
        ([str(PORTRAIT), "--preset", "nope"], "unknown preset"),
    ],
)
def test_a_mistake_is_one_line_before_a_model_is_loaded(arguments, said):
    command = [sys.executable, "-X", "importtime", "-m", "faceq", "inspect", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    message = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 2 and len(message) == 1 and said in message[0]
    assert "| torch\n" not in done.stderr


def named(*paths: str) -> list[str]:
    targets = inspect._targets("looks/", [f"/in/{path}" for path in paths], S3Settings())
    return [target.removeprefix("looks/").removesuffix(".png") for target in targets]


def test_images_whose_names_collide_have_their_own_outputs():
    assert named("a/x.jpg", "b/x.jpg", "x.png") == ["x", "x-2", "x-3"]
    assert named("x.jpg", "x.png", "x-2.jpg", "x-2.png") == ["x", "x-3", "x-2", "x-2-2"]
    assert named("x-2.jpg", "x.jpg", "x.png", "x-3.jpg") == ["x-2", "x", "x-4", "x-3"]
    assert named("a/X.jpg", "b/x.jpg") == ["X", "x-2"]  # one file on file systems that ignore case
    long = named(*(f"{i}/{'ü' * 125}{i}.jpg" for i in range(12)))
    assert len(set(long)) == 12 and max(len(name.encode()) for name in long) < 210


def test_colliding_pictures_are_all_written_and_named(tmp_path, capsys):
    for place, side in (("a", 40), ("b", 60), ("c", 80)):
        (tmp_path / place).mkdir()
        Image.new("RGB", (side, 40), (side, 10, 10)).save(tmp_path / place / "x.png")
    Image.new("RGB", (100, 40)).save(tmp_path / "c" / "x-2.png")
    pictures = [str(tmp_path / place) for place in ("a", "b", "c")]
    assert main.main(["inspect", *pictures, "--out", str(tmp_path / "looks"), "--json"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert len({Image.open(path).width for path in (tmp_path / "looks").iterdir()}) == len(said) == 4
    written = [line.split(": ")[-1] for line in said if "/looks/" in line]
    assert sorted(written) == sorted(map(str, (tmp_path / "looks").iterdir()))


@pytest.mark.parametrize("out", ["", "a.png", "link.png"])
def test_an_output_never_replaces_its_input(tmp_path, out, capsys):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    assert main.main(["inspect", str(tmp_path / "a.png"), "--out", str(tmp_path / out)]) == 2
    assert "is one of the input images" in capsys.readouterr().err
    assert (tmp_path / "a.png").read_bytes() == before
