"""Pictures that are aligned faces already: the setting `faces: aligned`."""

import io
import json
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from here import score_here
from model_files import landmarks_106
from PIL import Image
from records import identities, write_records
from videos import write_video

import faceq
from faceq import config
from faceq.cli.main import main
from faceq.errors import UsageError
from faceq.faces import geometry, region
from faceq.sources.frame import Frame, to_table
from faceq.stages.chosen_models import choose, comparison_record
from faceq.stages.find_face import FindFace
from faceq.storage.settings import S3Settings
from faceq.table import comparable
from faceq.table.schema import pixels, schema
from faceq.table.store import Table
from jobs import demo

pytestmark = pytest.mark.usefixtures("models_loaded_once")

ALIGNED = {"faces": "aligned", "fiq_threshold": 0}


def png(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def photos_rows() -> list[tuple[np.ndarray, dict]]:
    """The demo's eight faces in 384-pixel frames, and their rows."""
    photos = list(demo.source_faces().values())
    return list(zip(photos, faceq.score_images(photos, fiq_threshold=0).to_pylist(), strict=True))


@pytest.fixture(scope="module")
def crops(photos_rows) -> list[np.ndarray]:
    """The same faces, aligned, (112, 112, 3)."""
    return [
        geometry.align(photo, np.array(row["landmarks"], np.float32).reshape(5, 2))
        for photo, row in photos_rows
    ]


@pytest.fixture(scope="module")
def stage() -> FindFace:
    settings = config.build(ALIGNED)
    return FindFace(settings, choose(settings))


def found_in(stage: FindFace, pictures: list[np.ndarray]) -> pa.Table:
    return stage(to_table([Frame(str(at), None, 0, png(picture)) for at, picture in enumerate(pictures)]))


def test_the_recogniser_sees_the_picture_itself(crops, photos_rows, stage):
    rows = faceq.score_images(map(png, crops), **ALIGNED).to_pylist()
    for row, (_, photo) in zip(rows, photos_rows, strict=True):
        assert row["serfiq_raw"] == photo["serfiq_raw"] and row["dhash"] == photo["dhash"]
        assert (row["status"], row["n_faces"], row["det_score"]) == ("scored", 1, None)
        assert [row[f"face_{side}"] for side in "xywh"] == [0, 0, 112, 112]
        assert np.allclose(row["landmarks"], geometry.ALIGNED_LANDMARKS.ravel())
        assert row["dbcnn"] is not None and 0.3 < row["mask_coverage"] < 0.6
    seen = pixels(found_in(stage, crops), "aligned", np.arange(len(crops)), (112, 112, 3))
    assert np.array_equal(seen, np.stack(crops))


def test_pose_measures_and_outline_are_those_of_the_face_and_not_of_the_template(crops, photos_rows, stage):
    rows = faceq.score_images(map(png, crops), **ALIGNED).to_pylist()
    for name, most in (("yaw", 5), ("luminance_mean", 0.04), ("eyes_open", 0.02), ("align_error", 0.7)):
        away = [abs(row[name] - photo[name]) for row, (_, photo) in zip(rows, photos_rows, strict=True)]
        assert max(away) < most, (name, away)
    assert np.ptp([row["yaw"] for row in rows]) > 10
    settings = config.Config()
    find = FindFace(settings, choose(settings))._find
    for crop, (photo, row) in zip(crops, photos_rows, strict=True):
        matrix = geometry.similarity(np.array(row["landmarks"]).reshape(5, 2), geometry.ALIGNED_LANDMARKS)
        outlines = geometry.from_frame(find(photo).dense.points, matrix), stage._find(crop).dense.points
        expected, found = (geometry.polygon_mask(each[region.FACE_OVAL], 112) > 0 for each in outlines)
        assert (expected & found).sum() > 0.85 * (expected | found).sum()


def test_a_picture_of_another_size_is_scaled_to_the_template(crops, photos_rows):
    double = [cv2.resize(crop, (224, 224), interpolation=cv2.INTER_NEAREST) for crop in crops]
    rows = faceq.score_images(map(png, double), **ALIGNED).to_pylist()
    # Averaged over 2 x 2 pixels, the doubled picture is the picture itself.
    for row, (_, photo) in zip(rows, photos_rows, strict=True):
        assert row["serfiq_raw"] == photo["serfiq_raw"]
        (left_eye, *_) = np.reshape(row["landmarks"], (5, 2))
        assert np.allclose(left_eye, 2 * geometry.ALIGNED_LANDMARKS[0] + 0.5, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "status", "error"),
    [
        ((40, 40), "scored", None),
        ((40, 41), "scored", None),
        ((39, 39), "face_too_small", None),
        ((96, 112), "unreadable", "is 96x112 pixels, but `faces: aligned` needs square pictures"),
        ((250, 112), "unreadable", "is 250x112 pixels, but `faces: aligned` needs square pictures"),
    ],
)
def test_the_size_and_shape_of_the_picture_decide_whether_it_is_scored(crops, size, status, error):
    picture = cv2.resize(crops[0], size, interpolation=cv2.INTER_AREA)
    (row,) = faceq.score_images([png(picture)], **ALIGNED).to_pylist()
    assert row["status"] == status and (row["error"] or "").startswith(error or "")
    assert (row["yaw"] is None) == (row["face_w"] is None) == (status == "unreadable")


def test_a_picture_without_a_face_is_scored_but_looks_unlike_a_face(crops):
    noise = np.random.default_rng(1).integers(0, 256, (112, 112, 3), np.uint8)
    other, face = faceq.score_images([noise, crops[0]], **ALIGNED).to_pylist()
    assert other["status"] == "scored"
    assert other["face_confidence"] < 0.6 and face["face_confidence"] > 0.9


def test_a_face_of_another_template_has_a_large_align_error(photos_rows, crops):
    """As with insightface's crops of 128 pixels, which show more below and beside the face."""
    wider = []
    for photo, row in photos_rows:
        target = (geometry.ALIGNED_LANDMARKS + np.array([8, 0])) * 112 / 128
        matrix = geometry.similarity(np.array(row["landmarks"]).reshape(5, 2), target)
        wider.append(geometry.warp(photo, matrix, 112))
    rows = faceq.score_images([*crops, *wider], **ALIGNED).to_pylist()
    errors = [row["align_error"] for row in rows]
    assert max(errors[: len(crops)]) < 8.5 < min(errors[len(crops) :])


def test_the_rows_of_pictures_together_are_those_of_pictures_one_by_one(crops, stage):
    settings = config.build({**ALIGNED, "find_face": {"mini_batch": 8, "num_cpus": 2}})
    together = FindFace(settings, choose(settings), batched=True)
    pictures = [*crops, crops[0][:80], cv2.resize(crops[1], (30, 30))]
    for one, other in zip(
        found_in(stage, pictures).to_pylist(), found_in(together, pictures).to_pylist(), strict=True
    ):
        for name in ("status", "error", "width", "n_faces", "landmarks", "aligned", "dhash", "det_score"):
            assert one[name] == other[name], name
        if one["crop"]:
            away = np.frombuffer(one["crop"], np.uint8).astype(int) - np.frombuffer(other["crop"], np.uint8)
            assert np.abs(away).max() <= 1


@pytest.mark.parametrize("preset", ["insightface", "cafi"])
def test_landmarks_without_the_five_give_a_pose_and_no_made_up_measures(preset, crops, tmp_path):
    marks = str(landmarks_106(tmp_path / "2d106det.onnx"))
    settings = config.build({**ALIGNED, "preset": preset, "models": {"landmarks": marks}})
    rows = found_in(FindFace(settings, choose(settings)), crops[:3]).to_pylist()
    assert len({row["yaw"] for row in rows}) == 3
    for row, crop in zip(rows, crops, strict=False):
        assert row["aligned"] == crop.tobytes()
        assert row["align_error"] is row["eye_distance"] is row["det_score"] is None
        assert row["head_size"] > 0.3 and row["luminance_mean"] > 0
        side = region.FRAME_SIDE if preset == "cafi" else geometry.CROP_SIZE
        assert len(row["crop"]) == side * side * 3


def test_every_kind_of_source_can_hold_aligned_faces(crops, tmp_path):
    folder = tmp_path / "in"
    names = [f"{number}.png" for number in range(len(crops))]
    demo.write_shards(folder / "tars", zip(names, map(png, crops), strict=True))
    pq.write_table(pa.table({"id": names, "image": list(map(png, crops))}), folder / "rows.parquet")
    (folder / "one.png").write_bytes(png(crops[0]))
    write_video(folder / "clip.mkv", crops, codec="ffv1", pixels="bgr0")
    table = Table(score_here(str(folder), str(tmp_path / "table"), **ALIGNED), S3Settings())
    rows = table.rows(["source", "serfiq_raw", "status"]).to_pylist()
    assert {row["status"] for row in rows} == {"scored"}
    values = {Path(row["source"]).suffix: set() for row in rows}
    for row in rows:
        values[Path(row["source"]).suffix].add(row["serfiq_raw"])
    assert values[".tar"] == values[".parquet"] == values[".mkv"] > values[".png"]


def test_a_training_set_in_records_has_the_rows_of_a_folder_and_its_identities(crops, tmp_path):
    images = [(number // 2, png(crop)) for number, crop in enumerate(crops)]
    (tmp_path / "folder").mkdir()
    for number, (_, image) in enumerate(images, 1):
        (tmp_path / "folder" / f"{number}.png").write_bytes(image)
    (tmp_path / "set").mkdir()
    write_records(tmp_path / "set" / "train.rec", identities(images))
    tables = [
        Table(score_here(str(tmp_path / of), str(tmp_path / f"{of}.out"), **ALIGNED), S3Settings())
        for of in ("folder", "set")
    ]
    where = ("frame_id", "source", "member", "extra", "run_id")
    columns = [name for name in schema(False).names if name not in where]
    one, other = (table.rows(columns).sort_by("dhash").to_pylist() for table in tables)
    assert one == other and len(one) == len(crops)
    found = tables[1].rows(["member", "extra"]).to_pylist()
    expected = [(f"{number}", label) for number, (label, _) in enumerate(images, 1)]
    assert sorted((row["member"], json.loads(row["extra"])["identity"]) for row in found) == expected
    identities_csv = tmp_path / "identities.csv"
    lines = [f"{number}.png,{label}" for number, (label, _) in enumerate(images, 1)]
    identities_csv.write_text("\n".join(["image,identity", *lines]))
    results = []
    for table, of in zip(tables, ([str(identities_csv)], ["--identity", "extra.identity"]), strict=True):
        out = tmp_path / "edc.json"
        assert main(["evaluate", "edc", table.uri, *of, "--json", str(out)]) == 0
        results.append(json.loads(out.read_text()))
    assert results[0] == results[1] and results[0]


def test_a_table_is_continued_only_with_the_same_value():
    largest, aligned = (
        comparison_record(settings, choose(settings))
        for settings in (config.build({}), config.build({"faces": "aligned"}))
    )
    before = {key: value for key, value in largest.items() if key != "faces"}
    comparable.check("table", before, largest)
    with pytest.raises(UsageError, match=r'\(faces was "largest", is now "aligned"\)'):
        comparable.check("table", before, aligned)
