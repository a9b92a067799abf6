"""The presets with published models: from the downloaded pack to the score, and CAFI compared with a script
of its published steps."""

import dataclasses
import hashlib
import http.server
import logging
import math
import threading
import tracemalloc
import zipfile
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from insightface.app.common import Face
from insightface.model_zoo.arcface_onnx import ArcFaceONNX
from insightface.model_zoo.landmark import Landmark
from insightface.model_zoo.scrfd import SCRFD
from insightface.utils import face_align
from model_files import arcface, dbcnn, landmarks_106
from PIL import Image
from published_dbcnn import published_score

import faceq
from faceq import config
from faceq.faces import detect, geometry
from faceq.faces.views import View, detect_in_view
from faceq.job import pipeline
from faceq.models import zoo as models
from faceq.models.cache import cache_dir
from faceq.models.fetch import fetch
from faceq.sources.decode import image
from faceq.table.schema import SCHEMA
from faceq.table.store import Table

pytestmark = pytest.mark.shared
RATE = 0.5


@pytest.fixture(scope="module")
def scrfd(shared) -> Path:
    return shared / "weights" / "scrfd_500m_bnkps.onnx"


@pytest.fixture(scope="module")
def files(scrfd, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    return {
        "detector": scrfd,
        "recogniser": arcface(folder / "w600k_r50.onnx"),
        "landmarks": landmarks_106(folder / "2d106det.onnx"),
        "quality": dbcnn(folder / "DBCNN_KonIQ10k-2de81c0a.pth"),
    }


@pytest.fixture(scope="module")
def pictures(shared) -> list[Path]:
    return sorted((shared / "faces").iterdir())


# --- faces that fill the frame --------------------------------------------------------------------


def largest(detector: detect.Detector, picture: np.ndarray) -> detect.Face:
    """The largest face that a detector finds in an image whose longer side is at most 640 pixels."""
    scale = min(1.0, 640 / max(picture.shape[:2]))
    return max(detect_in_view(detector, View.of(picture, scale), 0), key=lambda face: face.area)


def filled(path: Path) -> np.ndarray:
    """The face of an image, cropped to 384x384 so that it covers more than 40% of the crop."""
    picture = image.decode(path.read_bytes(), 10**8)
    face = largest(detect.YuNet(fetch("yunet"), 0.6), picture)
    x, y, width, height = face.box
    half = 0.5 * max(width, height) * 1.1
    low = np.array([x + width / 2 - half, y + height / 2 - half])
    matrix = np.array([[1, 0, -low[0]], [0, 1, -low[1]]]) * (384 / (2 * half))
    return cv2.warpAffine(picture, matrix, (384, 384), borderMode=cv2.BORDER_REPLICATE)


def test_faces_that_fill_the_frame_are_found_by_scrfd(scrfd, pictures):
    """Without a border around the image, SCRFD finds none of these faces."""
    ours = detect.load(scrfd, 0.5)
    plain = SCRFD(str(scrfd))
    missed = 0
    for path in pictures:
        picture = filled(path)
        assert ours(picture), path.name
        found = largest(ours, picture)
        share = found.box[2:].prod() / picture.shape[0] / picture.shape[1]
        assert share > 0.4, path.name
        eye, other, nose, mouth, _ = found.landmarks
        assert eye[0] < nose[0] < other[0] and eye[1] < nose[1] < mouth[1]
        boxes, _ = plain.detect(np.ascontiguousarray(picture[..., ::-1]))
        missed += len(boxes) == 0
    assert missed > len(pictures) / 2


def test_scrfd_finds_what_yunet_finds(scrfd, pictures):
    ours, yunet = detect.load(scrfd, 0.5), detect.YuNet(fetch("yunet"), 0.6)
    for path in pictures:
        picture = image.decode(path.read_bytes(), 10**8)
        one, other = largest(ours, picture), largest(yunet, picture)
        between = np.linalg.norm(other.landmarks[1] - other.landmarks[0])
        if path.name != "group_many_faces.jpg":  # six faces of similar size
            assert np.linalg.norm(one.landmarks - other.landmarks, axis=1).max() < 0.3 * between, path.name


@pytest.mark.parametrize("shape", [(1, 700), (9000, 3), (640, 640)])
def test_scrfd_accepts_images_of_any_shape(scrfd, shape):
    """insightface's own class scales the shorter side of the first two images to zero."""
    assert detect.load(scrfd, 0.5)(np.full((*shape, 3), 128, np.uint8)) == []


def test_a_border_around_a_large_image_takes_little_memory(scrfd):
    ours = detect.load(scrfd, 0.5)
    picture = np.full((4000, 4000, 3), 128, np.uint8)
    tracemalloc.start()
    try:
        assert [
            face for scale in (0.16, 0.5) for face in detect_in_view(ours, View.of(picture, scale), 0)
        ] == []
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2 * picture.nbytes


def test_faces_in_large_images_have_the_positions_found_with_a_full_size_border(scrfd, shared):
    ours, plain = detect.load(scrfd, 0.5), SCRFD(str(scrfd))
    for path in sorted((shared / "portraits_1024").glob("*.jpg"))[:12]:
        picture = image.decode(path.read_bytes(), 10**8)
        bordered = cv2.copyMakeBorder(picture[..., ::-1], *[512] * 4, cv2.BORDER_CONSTANT)
        _, (expected, *_) = plain.detect(bordered, det_thresh=0.5)
        assert np.abs(largest(ours, picture).landmarks - (expected - 512)).max() < 8, path.name


def test_scrfd_for_any_size_uses_a_session_without_fallback_to_the_cpu(
    scrfd, tmp_path, monkeypatch, pictures
):
    made, fallbacks = onnxruntime.InferenceSession, []

    def counted(*arguments, **more):
        fallbacks.append(more.get("enable_fallback"))
        return made(*arguments, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", counted)
    picture = image.decode(pictures[0].read_bytes(), 10**8)
    found = largest(detect.load(any_size(scrfd, tmp_path / "det_10g.onnx"), 0.5), picture)
    assert fallbacks == [0]
    expected = largest(detect.load(scrfd, 0.5), picture)
    assert np.allclose(found.landmarks, expected.landmarks, atol=1e-3)


# --- the pack -------------------------------------------------------------------------------------


def any_size(scrfd: Path, path: Path) -> Path:
    """Make SCRFD for images of any size, as in det_10g.onnx, from SCRFD for 640x640."""
    model = onnx.load(str(scrfd))
    height, width = model.graph.input[0].type.tensor_type.shape.dim[2:]
    rows = [output.type.tensor_type.shape.dim[1] for output in model.graph.output]
    for dimension, name in ((height, "?"), (width, "?"), *((each, "n") for each in rows)):
        dimension.dim_param = name
    del model.graph.value_info[:]
    onnx.save(model, str(path))
    return path


@pytest.fixture
def pack(files, tmp_path, model_dir, monkeypatch) -> dict[str, str]:
    """A pack with the layout of buffalo_l and a checkpoint on a local server. The zoo has their SHA-256.
    Returns the requests to the server."""
    served = tmp_path / "served"
    served.mkdir()
    files = {**files, "detector": any_size(files["detector"], tmp_path / "det_10g.onnx")}
    members = {"det_10g.onnx": "detector", "w600k_r50.onnx": "recogniser", "2d106det.onnx": "landmarks"}
    with zipfile.ZipFile(served / "buffalo_l.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for member, role in members.items():
            archive.write(files[role], member)
        archive.writestr("1k3d68.onnx", b"not used")
        archive.writestr("genderage.onnx", b"not used")
    asked: dict[str, str] = {}

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(served))

        def do_GET(self):
            asked[self.path] = self.headers.get("Range", "all")
            super().do_GET()

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{running.server_port}"
        shipped = (served / "buffalo_l.zip").read_bytes()
        digest = hashlib.sha256(shipped).hexdigest()
        known = models.Pack("buffalo_l.zip", digest, len(shipped), (f"{address}/buffalo_l.zip",))
        monkeypatch.setitem(models.PACKS, "buffalo_l", known)
        zoo = {"scrfd-10g": "detector", "arcface-r50": "recogniser", "landmarks-106": "landmarks"}
        for name, role in {**zoo, "dbcnn-koniq": "quality"}.items():
            given = {"sha256": models.sha256(files[role]), "size": files[role].stat().st_size}
            if role == "quality":
                (served / files[role].name).write_bytes(files[role].read_bytes())
                given["sources"] = (f"{address}/{files[role].name}",)
            monkeypatch.setitem(models.MODELS, name, replaced(models.MODELS[name], **given))
        yield asked
        running.shutdown()


def replaced(model: models.Model, **given) -> models.Model:
    return dataclasses.replace(model, **given)


def test_the_insightface_preset_from_its_pack_to_the_score(pack, files, pictures, caplog):
    caplog.set_level(logging.INFO, "faceq.models")
    rows = faceq.score_images(
        pictures[:4], preset="insightface", accept_licence=True, fiq_threshold=0, dbcnn={"mini_batch": 1}
    ).to_pylist()
    assert [row["status"] for row in rows] == ["scored"] * 4
    assert pack == {"/buffalo_l.zip": "all", "/DBCNN_KonIQ10k-2de81c0a.pth": "all"}
    for row in rows:
        assert 0.01 < row["mask_coverage"] < 0.5 and 0 < row["dbcnn"] < 100
    # The L2 norm of the embedding equals that of insightface's own class.
    picture = cv2.imread(str(pictures[1]))
    aligned = face_align.norm_crop(picture, np.array(rows[1]["landmarks"], np.float32).reshape(5, 2))
    length = np.linalg.norm(ArcFaceONNX(str(files["recogniser"])).get_feat(aligned))
    assert rows[1]["embedding_norm"] == pytest.approx(length, rel=0.01)
    said = caplog.text
    assert "terms accepted (InsightFace-NC): The pretrained models of InsightFace" in said
    assert "terms accepted (CC-BY-NC-SA-4.0)" in said
    # The pack is unpacked, and the archive is deleted.
    kept = {path.name for path in cache_dir().iterdir() if not path.name.endswith(".lock")}
    assert kept == {"det_10g.onnx", "w600k_r50.onnx", "2d106det.onnx", files["quality"].name, "accepted.json"}


# --- CAFI -----------------------------------------------------------------------------------------


# The steps of CAFI's repository (its SER-FIQ is the authors' code), written without faceq's code, with
# OpenCV, NumPy, torch, ONNX Runtime and insightface's classes. The models are those of the preset or
# stand-ins. Steps that faceq does differently (a second detection pass for faces that fill the frame,
# stretching frames to 384x384) have no effect on these frames. docs/reference/presets.md lists the
# differences.


@dataclasses.dataclass(frozen=True)
class Cafi:
    """The result of CAFI's script for one image. Angles are in degrees, with CAFI's signs."""

    serfiq_raw: float
    quality: float
    share: float
    roll: float
    pitch: float
    yaw: float


def cafi(path: Path, files: dict[str, Path], best: float) -> Cafi:
    """The published steps on one 384x384 image."""
    picture = cv2.imread(str(path))
    boxes, points = SCRFD(str(files["detector"])).detect(picture, det_thresh=0.5)
    largest = int(((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).argmax())

    # SER-FIQ: 100 passes of the whole network, each with random units dropped before the last layer.
    aligned = cv2.cvtColor(face_align.norm_crop(picture, points[largest]), cv2.COLOR_BGR2RGB)
    passes = dropout_passes(files["recogniser"], aligned, count=100)
    passes /= np.linalg.norm(passes, axis=1, keepdims=True)
    distance = np.mean([np.linalg.norm(passes[i] - passes[j]) for i in range(100) for j in range(i)])
    raw = 2 * (1 / (1 + np.exp(distance)))

    # Everything outside the hull of the landmarks is black, in a JPEG file.
    dense = Landmark(str(files["landmarks"])).get(picture, Face(bbox=boxes[largest, :4]))
    hull = np.round(cv2.convexHull(dense)).astype(np.int32)
    inside = np.zeros(picture.shape[:2])
    cv2.fillPoly(inside, [hull], 1)  # CAFI's fillConvexPoly differs by a few pixels at the edge
    out_face = np.zeros_like(picture)
    out_face[inside.astype(bool)] = picture[inside.astype(bool)]
    masked = path.with_name(f"masked_{path.name}")
    cv2.imwrite(str(masked), out_face)

    # DB-CNN by its equations, on the file as pyiqa reads it.
    state = torch.load(files["quality"], weights_only=True)["params"]
    pixels = torch.from_numpy(np.asarray(Image.open(masked).convert("RGB")) / np.float32(255))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    quality = published_score(state, ((pixels - mean) / std).permute(2, 0, 1)[None])

    six = dense[[86, 0, 35, 93, 52, 61]].astype(np.float64)
    return Cafi(float(raw), float(quality) * 100 / best, inside.mean(), *euler_angles(six, 384, 384))


def dropout_passes(path: Path, aligned: np.ndarray, count: int) -> np.ndarray:
    """Embeddings (count, E) of one face (112, 112, 3) RGB with the recogniser in a file. A random mask drops
    inputs of the last layer and scales the others by 1 / (1 - p)."""
    model = onnx.load(str(path))
    last = [node for node in model.graph.node if node.op_type in ("Gemm", "MatMul")][-1]
    place = list(model.graph.node).index(last)
    model.graph.node.insert(place, onnx.helper.make_node("Mul", [last.input[0], "mask"], ["masked"]))
    last.input[0] = "masked"
    mask = onnx.helper.make_tensor_value_info("mask", onnx.TensorProto.FLOAT, [1, None])
    model.graph.input.append(mask)
    constants = {constant.name for constant in model.graph.initializer}
    used = {name for node in model.graph.node for name in node.input} - constants
    free = [value for value in model.graph.input if value.name in used]
    del model.graph.input[:]
    model.graph.input.extend(free)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs() if value.name != "mask")
    blob = aligned.transpose(2, 0, 1)[None].astype(np.float32)
    if path.name.startswith("w600k"):
        blob = (blob - 127.5) / 127.5  # SFace's graph contains this step
    units = FEATURES[path.name.split("_")[0]]
    generator = np.random.default_rng(1)
    found = []
    for _ in range(count):
        kept = (generator.random((1, units)) >= PASSES_RATE) / np.float32(1 - PASSES_RATE)
        (embedding,) = session.run(None, {name: blob, "mask": kept.astype(np.float32)})
        found.append(embedding[0])
    return np.stack(found).astype(np.float64)


PASSES_RATE = 0.4
FEATURES = {"w600k": 392, "face": 50_176}
"""Number of inputs of the last layer of the stand-in and of SFace."""


def euler_angles(six: np.ndarray, width: int, height: int) -> tuple[float, float, float]:
    """Roll, pitch and yaw as CAFI computes them: cv2.solvePnP with y up and z towards the camera, then
    OpenCV's Euler angles, each mapped to -90 to 90."""
    head = np.array(
        [
            *((0.0, 0.0, 0.0), (0.0, -330.0, -65.0), (-225.0, 170.0, -135.0)),
            *((225.0, 170.0, -135.0), (-150.0, -150.0, -125.0), (150.0, -150.0, -125.0)),
        ]
    )
    camera = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]], np.float64)
    _, turn, shift = cv2.solvePnP(head, six, camera, np.zeros((4, 1)), flags=cv2.SOLVEPNP_ITERATIVE)
    angles = cv2.decomposeProjectionMatrix(np.hstack((cv2.Rodrigues(turn)[0], shift)))[6]
    pitch, yaw, roll = (math.degrees(math.asin(math.sin(math.radians(angle)))) for angle in angles[:, 0])
    return -roll, pitch, yaw


@pytest.fixture(scope="module")
def frames(scrfd, pictures, tmp_path_factory) -> list[Path]:
    """Frames for CAFI: 384x384 JPEG files whose faces are a third of the width."""
    folder = tmp_path_factory.mktemp("frames")
    detector = SCRFD(str(scrfd))
    made = []
    for path in pictures:
        picture = cv2.imread(str(path))
        boxes, _ = detector.detect(picture, det_thresh=0.5)
        if len(boxes) != 1:
            continue
        x1, y1, x2, y2 = boxes[0, :4]
        side = 2.6 * max(x2 - x1, y2 - y1)
        scale = 384 / side
        shift = [192 - scale * (x1 + x2) / 2, 192 - scale * (y1 + y2) / 2]
        matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
        frame = cv2.warpAffine(picture, matrix, (384, 384), borderMode=cv2.BORDER_REFLECT)
        made.append(folder / f"{path.stem}.jpg")
        cv2.imwrite(str(made[-1]), frame)
    assert len(made) >= 6
    return made


@pytest.mark.timeout(900)  # VGG-16 takes more than a second per frame in both implementations
@pytest.mark.parametrize("recogniser", ["sface", "arcface"])
def test_cafi_agrees_with_the_published_steps(files, frames, recogniser, tmp_path):
    """Once with a real recogniser, and once with ArcFace's layout and random weights, which gives low scores
    to all faces. The second quality checkpoint scores from 0 to 100, as CAFI's does."""
    best = 1 if recogniser == "sface" else 100
    chosen = {**files, "quality": dbcnn(tmp_path / "quality.pth", best)}
    if recogniser == "sface":
        chosen["recogniser"] = fetch("sface")
    named = {role: str(path) for role, path in chosen.items()}
    settings = {"dropout": PASSES_RATE, "quality_scale": best, "fiq_threshold": 0, "dbcnn": {"mini_batch": 2}}
    if recogniser == "sface":
        named["recogniser"] = "sface"
    frames = frames[:2]
    rows = faceq.score_images(frames, preset="cafi", models=named, **settings).to_pylist()
    for path, row in zip(frames, rows, strict=True):
        expected = cafi(path, chosen, best)
        assert row["status"] == "scored"
        # Both sides use a hundred random passes. A dropout rate of 0.5 instead of 0.4 would change this by
        # 0.02.
        assert row["serfiq_raw"] == pytest.approx(expected.serfiq_raw, abs=0.01), path.name
        scaled = 1 / (1 + math.exp(-130.0 * (row["serfiq_raw"] - 0.88)))
        assert row["serfiq"] == pytest.approx(scaled, abs=1e-4), path.name
        assert row["mask_coverage"] == pytest.approx(expected.share, abs=1e-6), path.name
        assert row["dbcnn"] == pytest.approx(expected.quality, abs=0.003), path.name
        # The signs in the table: to the image's right, up, clockwise. CAFI's yaw and roll have opposite
        # signs.
        assert row["pitch"] == pytest.approx(expected.pitch, abs=0.5), path.name
        assert row["yaw"] == pytest.approx(-expected.yaw, abs=0.5), path.name
        assert row["roll"] == pytest.approx(-expected.roll, abs=0.5), path.name


@pytest.mark.parametrize("turn", [(25, 0, 0), (-25, 10, 0), (0, 15, 20), (15, -10, -20)])
def test_cafis_yaw_and_roll_have_the_opposite_sign(turn):
    """Signs in the table: to the image's right, up, clockwise. For a rotation about several axes, the Euler
    angles differ from those in the table by a few degrees."""
    yaw, pitch, roll = np.radians(turn)
    about_y = [[np.cos(yaw), 0, -np.sin(yaw)], [0, 1, 0], [np.sin(yaw), 0, np.cos(yaw)]]
    about_x = [[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]]
    about_z = [[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]]
    head = geometry.PNP_MODEL @ (np.array(about_z) @ about_y @ about_x).T + [0, 0, 3000]
    six = 384 * head[:, :2] / head[:, 2:] + 192
    found = geometry.head_pose_pnp(six, 384, 384)
    assert np.allclose(found, turn, atol=8)
    its_roll, its_pitch, its_yaw = euler_angles(six, 384, 384)
    assert np.allclose((-its_yaw, its_pitch, -its_roll), found, atol=8)


def test_the_insightface_preset_as_a_job(files, local_ray, pictures, tmp_path):
    """The rows of a job on Ray equal those of one process."""
    settings = {
        "preset": "insightface",
        "models": {role: str(path) for role, path in files.items()},
        "dropout": RATE,
        "fiq_threshold": 0,
        "dbcnn": {"mini_batch": 2},
    }
    given = [str(path) for path in pictures[:2]]
    job = config.build({**settings, "input": given, "out": str(tmp_path / "table")})
    assert pipeline.score(job).run.counts["scored"] == len(given)
    columns = [name for name in SCHEMA.names if name != "run_id"]
    rows = Table(job.out, job.s3).rows(columns).sort_by("source").to_pylist()
    assert rows == faceq.score_images(given, **settings).select(columns).to_pylist()


def test_a_row_does_not_depend_on_its_batch(files, pictures):
    chosen = {
        "models": {role: str(path) for role, path in files.items()},
        "dropout": RATE,
        "fiq_threshold": 0,
    }
    for preset in ("insightface", "cafi"):
        rows, backwards = (
            faceq.score_images(order, preset=preset, dbcnn={"mini_batch": 2}, **chosen)
            .drop_columns(["run_id"])
            .to_pylist()
            for order in (pictures[1:4], pictures[3:0:-1])
        )
        assert rows == backwards[::-1]
