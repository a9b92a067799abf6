"""The stages without Ray: their values, and that a row does not depend on other rows."""

import io
import itertools
import os

import boto3
import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from real_s3 import BUCKET

import faceq
from faceq.config import Config
from faceq.errors import UsageError
from faceq.faces import geometry
from faceq.iqa import dbcnn_lite_weights
from faceq.iqa.dbcnn_lite import load_dbcnn_lite
from faceq.iqa.dbcnn_lite_onnx import OnnxQuality
from faceq.iqa.dbcnn_lite_weights import DBCNN_LITE_WEIGHTS
from faceq.iqa.torch_quality import HALF_TOLERANCE, TorchQuality
from faceq.models import zoo as models
from faceq.presets import PRESETS
from faceq.runtime.minibatch import in_mini_batches
from faceq.sources.frame import Frame, to_table
from faceq.stages.chosen_models import choose
from faceq.stages.find_face import FindFace
from faceq.stages.scores import masks_of
from faceq.table.measure_columns import MEASURES
from faceq.table.schema import SCHEMA, frame_id, pending, pixels, schema
from jobs import demo

pytestmark = pytest.mark.usefixtures("models_loaded_once")

VALUES = [name for name in SCHEMA.names if name not in {"frame_id", "source", "run_id"}]


@pytest.fixture(scope="module")
def faces() -> dict[str, np.ndarray]:
    """The demo's eight sharp faces in 384-pixel frames."""
    return demo.source_faces()


def png(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def test_paths_bytes_and_arrays_give_the_same_row(astronaut, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(astronaut))
    table = faceq.score_images([path, path.read_bytes(), astronaut])
    assert table.schema.equals(SCHEMA)
    assert table["source"].to_pylist() == [str(path), "image:1", "image:2"]
    assert table["frame_id"][1].as_py() == frame_id("image:1", None, 0)
    first, *others = table.select(VALUES).to_pylist()
    assert others == [first, first]
    assert first["status"] == "scored"


def test_each_status_and_what_is_null_with_it(faces, photos):
    sharp = faces["astronaut"]
    images = [b"", photos / "mask_blue.jpg", demo._far_away(sharp), demo.degraded(sharp, "blur", 5, 0), sharp]
    rows = faceq.score_images(images, fiq_threshold=0.6).to_pylist()
    assert [row["status"] for row in rows] == [
        *("unreadable", "no_face", "face_too_small", "below_fiq", "scored"),
    ]
    readable, face = (
        ("width", "height", "n_faces"),
        ("face_x", "det_score", "landmarks", "yaw", "pitch", "roll"),
    )
    measures = tuple(measure.name for measure in MEASURES)
    fiq = ("serfiq_raw", "serfiq", "embedding_norm", "dhash", "face_confidence", "align_error", *measures)
    quality = ("mask_coverage", "dbcnn")
    groups = (readable, face, fiq, quality)
    # The groups of columns, in the order above, that have values for each status.
    for row, known in zip(
        rows, ((0, 0, 0, 0), (1, 0, 0, 0), (1, 1, 0, 0), (1, 1, 1, 0), (1, 1, 1, 1)), strict=True
    ):
        for names, there in zip(groups, known, strict=True):
            assert all((row[name] is not None) == bool(there) for name in names), (row["status"], names)
        assert (row["error"] is not None) == (row["status"] == "unreadable")


def test_values_lie_in_their_ranges(faces):
    rows = faceq.score_images(faces.values(), fiq_threshold=0).to_pylist()
    for row in rows:
        assert 0 < row["serfiq_raw"] < 1 and 0 < row["serfiq"] < 1
        assert 0.02 < row["mask_coverage"] < 0.6
        assert 0 <= row["dbcnn"] <= 100
        assert row["face_x"] >= 0 and row["face_x"] + row["face_w"] <= row["width"]


def test_a_row_does_not_depend_on_its_batch(faces):
    pictures = [png(face) for face in faces.values()]
    together = faceq.score_images(pictures, fiq_threshold=0).select(VALUES).to_pylist()
    backwards = faceq.score_images(pictures[::-1], fiq_threshold=0).select(VALUES).to_pylist()
    alone = [faceq.score_images([p], fiq_threshold=0).select(VALUES).to_pylist()[0] for p in pictures]
    among_bad = faceq.score_images([b"", *pictures[:3], b"x", *pictures[3:]], fiq_threshold=0)
    assert backwards[::-1] == together
    assert alone == together
    assert [row for row in among_bad.select(VALUES).to_pylist() if row["error"] is None] == together


def test_dropout_passes_give_the_same_bits_in_any_batch(faces):
    pictures = [png(face) for face in faces.values()]
    drawn = faceq.score_images(pictures, fiq_threshold=0, serfiq_passes=30)
    small = faceq.score_images(pictures[::-1], fiq_threshold=0, serfiq_passes=30, serfiq={"mini_batch": 3})
    assert small["serfiq_raw"].to_pylist()[::-1] == drawn["serfiq_raw"].to_pylist()
    closed = faceq.score_images(pictures, fiq_threshold=0)["serfiq_raw"].to_numpy()
    away = np.abs(drawn["serfiq_raw"].to_numpy() - closed)
    assert 0 < away.max() < 0.01


def test_embeddings_are_kept_when_asked_for(faces):
    images = [faces["astronaut"], faces["group0"], faces["astronaut"][:, ::-1], b""]
    table = faceq.score_images(images, embeddings=True)
    assert table.schema.equals(schema(embeddings=True))
    *vectors, nothing = table["embedding"].to_pylist()
    assert nothing is None
    one, other, mirrored = (np.array(vector, np.float32) for vector in vectors)
    assert one.shape == (128,) and np.isclose(np.linalg.norm(one), 1, atol=1e-5)
    assert one @ mirrored > 0.7 and one @ other < 0.3
    plain = faceq.score_images(images).select(VALUES).to_pylist()
    assert table.select(VALUES).to_pylist() == plain


def test_a_calibration_of_ones_own_moves_serfiq_and_nothing_else(faces):
    face = faces["astronaut"]
    (zoo,), (own,) = (
        faceq.score_images([face], fiq_threshold=0, **more).to_pylist()
        for more in ({}, {"calibration": {"slope": 50, "threshold": 0.95}})
    )
    assert own["serfiq_raw"] == zoo["serfiq_raw"]
    assert own["serfiq"] == pytest.approx(1 / (1 + np.exp(-50 * (zoo["serfiq_raw"] - 0.95))), rel=1e-5)


@pytest.mark.parametrize("degrees", [0, 20])
def test_quality_sees_no_black_if_the_frame_cuts_off_the_face(faces, degrees):
    """No pixel of these frames is black, so black in a crop is outside the frame. The recogniser still gets
    black there, because it was trained on such crops."""
    find_face = FindFace(Config(), choose(Config()))
    turn = cv2.getRotationMatrix2D((demo.FRAME_SIZE / 2, demo.FRAME_SIZE / 2), degrees, 1)
    for face in faces.values():
        whole = np.maximum(cv2.warpAffine(face, turn, face.shape[1::-1], borderMode=cv2.BORDER_REFLECT), 60)
        (row,) = find_face(to_table([Frame("whole", None, 0, png(whole))])).to_pylist()
        cut = whole[:, round(row["face_x"] + 0.2 * row["face_w"]) :]
        found = find_face(to_table([Frame("cut", None, 0, png(cut))]))
        (crop,) = pixels(found, "crop", np.array([0]), (256, 256, 3))
        (inside,) = masks_of(found, np.array([0]))
        (aligned,) = pixels(found, "aligned", np.array([0]), (112, 112, 3))
        assert crop.max(axis=2).min() > 0 and inside.mean() > 0.1
        assert (aligned == 0).all(axis=2).any()
        # Mirrored parts do not belong to the face.
        matrix = np.frombuffer(found["crop_map"][0].as_py()).reshape(2, 3)
        ys, xs = np.nonzero(inside)
        there = geometry.to_frame(np.column_stack([xs, ys]), matrix)
        assert there.min() > -2 and (there < np.array(cut.shape[1::-1]) + 2).all()


def test_each_region_scores_other_pixels_and_another_name_is_refused(faces):
    images = list(faces.values())[:3]
    by_region = {
        region: faceq.score_images(images, fiq_threshold=0, quality_region=region)["dbcnn"].to_numpy()
        for region in ("mask", "black_out", "crop")
    }
    for one, other in itertools.combinations(by_region.values(), 2):
        assert np.median(np.abs(one - other)) > 0.5  # two regions of a single face may have similar scores
    known = "'mask', 'black_out', 'crop', 'frame' or 'frame_jpeg'"
    with pytest.raises(UsageError, match=rf"quality_region: .*{known}"):
        faceq.score_images(images, quality_region="face")


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))],
)
def test_half_precision_moves_no_score_by_more_than_its_tolerance(faces, device):
    find = FindFace(Config(), choose(Config()))
    frames = [png(face) for face in faces.values()]
    frames += [png(demo.degraded(face, "blur", 4, 0)) for face in faces.values()]
    rows = find(pa.table({"image": frames, "status": pa.nulls(len(frames), pa.string())}))
    found = pending(rows)
    crops, masks = pixels(rows, "crop", found, (256, 256, 3)), masks_of(rows, found)
    weights = dbcnn_lite_weights.read(DBCNN_LITE_WEIGHTS)
    (single,) = OnnxQuality(weights, len(found), crops.shape[1], threads=1)(crops, masks)
    (half,) = TorchQuality(load_dbcnn_lite(DBCNN_LITE_WEIGHTS, device), device, half=True)(crops, masks)
    assert 0 < np.abs(single - half).max() < HALF_TOLERANCE


def test_scores_fall_along_the_demo_ladders(faces):
    """Checks the output of `make demo`, except low light and low resolution, which are only shown."""
    kinds = ("blur", "noise", "jpeg")
    members = [(name, "", 0) for name in faces]
    members += [
        (name, kind, severity) for name in faces for kind in kinds for severity in demo.SEVERITIES[1:]
    ]
    seeds = {name: seed for seed, name in enumerate(faces)}
    pictures = [
        demo._jpeg(demo.degraded(faces[name], kind, severity, seeds[name]) if kind else faces[name])
        for name, kind, severity in members
    ]
    rows = faceq.score_images(pictures, fiq_threshold=0).to_pylist()
    scores = {demo._member(*member): row for member, row in zip(members, rows, strict=True)}
    for kind in kinds:
        # JPEG down to quality 14 hardly changes a well aligned face for the recogniser.
        most = -0.8 if kind == "jpeg" else -0.9
        assert demo.correlation(scores, list(faces), kind, "serfiq_raw") <= most
        assert demo.correlation(scores, list(faces), kind, "dbcnn") <= -0.9


def test_wrong_inputs_are_named(astronaut):
    with pytest.raises(UsageError, match=r"image:1: expected .* got array float32 \(4, 4, 3\)"):
        faceq.score_images([astronaut, np.zeros((4, 4, 3), np.float32)])
    with pytest.raises(UsageError, match="did you mean 'fiq_threshold'"):
        faceq.score_images([], fiq_treshold=0.5)
    with pytest.raises(UsageError, match="unknown preset 'nope'"):
        faceq.score_images([], preset="nope")


def test_a_single_image_instead_of_a_list_is_wrong_usage_before_a_model_is_loaded(astronaut, tmp_path):
    given = ["photo.jpg", tmp_path / "a.png", png(astronaut), astronaut, astronaut[0], None]
    for single in [*given, Image.fromarray(astronaut)]:
        with pytest.raises(UsageError, match=r"^images must be a list; put .* into a list: \[image\]$"):
            faceq.score_images(single, models={"dbcnn": "/no/such/file.onnx"})
    several = faceq.score_images(np.stack([astronaut[:64, :64]] * 2))
    assert several["source"].to_pylist() == ["image:0", "image:1"]


def test_a_path_that_is_not_utf8_is_a_row(astronaut, tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xfe.png")
    with open(path, "wb") as file:
        file.write(png(astronaut))
    (row,) = faceq.score_images([path]).to_pylist()
    assert row["status"] == "scored" and row["source"].endswith("/\\xfe.png")


def test_pictures_on_s3_are_read_from_there(s3, astronaut):
    boto3.client("s3").put_object(Bucket=BUCKET, Key="scoring/a b%20.png", Body=png(astronaut))
    there, gone = f"{s3}/scoring/a b%20.png", f"{s3}/scoring/none.png"
    first, second, local = faceq.score_images([there, gone, astronaut]).to_pylist()
    assert {name: first[name] for name in VALUES} == {name: local[name] for name in VALUES}
    assert [first["source"], second["source"]] == [there, gone]
    assert second["status"] == "unreadable" and "there is no such file" in second["error"]


def test_no_images_give_an_empty_table():
    assert faceq.score_images([]).schema.equals(SCHEMA)


def test_mini_batches_have_one_shape_and_lose_nothing():
    shapes = []

    def model(items):
        shapes.append(items.shape)
        return (items[:, 0] * 2,)

    for count in (1, 8, 13):
        (doubled,) = in_mini_batches(model, 8, np.arange(count * 2.0).reshape(count, 2))
        assert doubled.tolist() == [4.0 * i for i in range(count)]
    assert set(shapes) == {(8, 2)}


def test_every_preset_names_models_of_the_zoo():
    for preset in PRESETS.values():
        assert all(name in models.MODELS for name in preset.models())
