"""The presets of the published models: the whole pack's way, and CAFI against a script of its published
steps."""

import dataclasses
import hashlib
import http.server
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

import faceq
from faceq import config, decode, detect, models, pipeline, serfiq
from faceq.dbcnn_vgg import load_dbcnn
from faceq.recognise import Backbone
from faceq.runs import Table
from faceq.table import SCHEMA

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


def filled(path: Path) -> np.ndarray:
    """The face of a picture cut out as 384x384, so that it covers more than 40% of that."""
    picture = decode.decode(path.read_bytes(), 10**8)
    face = detect.YuNet(models.fetch("yunet"), 0.6)(picture)[0]
    x, y, width, height = face.box
    half = 0.5 * max(width, height) * 1.1
    low = np.array([x + width / 2 - half, y + height / 2 - half])
    matrix = np.array([[1, 0, -low[0]], [0, 1, -low[1]]]) * (384 / (2 * half))
    return cv2.warpAffine(picture, matrix, (384, 384), borderMode=cv2.BORDER_REPLICATE)


def test_faces_that_fill_the_frame_are_found_by_scrfd(scrfd, pictures):
    """Without a border around the picture SCRFD itself sees none of these."""
    ours = detect.load(scrfd, 0.5)
    plain = SCRFD(str(scrfd))
    missed = 0
    for path in pictures:
        picture = filled(path)
        found = ours(picture)
        assert found, path.name
        share = found[0].box[2:].prod() / picture.shape[0] / picture.shape[1]
        assert share > 0.4, path.name
        eye, other, nose, mouth, _ = found[0].landmarks
        assert eye[0] < nose[0] < other[0] and eye[1] < nose[1] < mouth[1]
        boxes, _ = plain.detect(np.ascontiguousarray(picture[..., ::-1]))
        missed += len(boxes) == 0
    assert missed > len(pictures) / 2


def test_scrfd_finds_what_yunet_finds(scrfd, pictures):
    ours, yunet = detect.load(scrfd, 0.5), detect.YuNet(models.fetch("yunet"), 0.6)
    for path in pictures:
        picture = decode.decode(path.read_bytes(), 10**8)
        one, other = ours(picture)[0], yunet(picture)[0]
        between = np.linalg.norm(other.landmarks[1] - other.landmarks[0])
        if path.name != "group_many_faces.jpg":  # of six alike, either may call another the largest
            assert np.linalg.norm(one.landmarks - other.landmarks, axis=1).max() < 0.3 * between, path.name


@pytest.mark.parametrize("shape", [(1, 700), (9000, 3), (640, 640)])
def test_scrfd_takes_pictures_of_any_shape(scrfd, shape):
    """insightface's own class scales the shorter side of the first two to nothing."""
    assert detect.load(scrfd, 0.5)(np.full((*shape, 3), 128, np.uint8)) == []


def test_a_border_around_a_large_picture_takes_little_memory(scrfd):
    ours = detect.load(scrfd, 0.5)
    picture = np.full((4000, 4000, 3), 128, np.uint8)
    tracemalloc.start()
    try:
        assert ours(picture) == []
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2 * picture.nbytes


def test_faces_in_large_pictures_lie_where_a_border_at_full_size_shows_them(scrfd, shared):
    ours, plain = detect.load(scrfd, 0.5), SCRFD(str(scrfd))
    for path in sorted((shared / "portraits_1024").glob("*.jpg"))[:12]:
        picture = decode.decode(path.read_bytes(), 10**8)
        bordered = cv2.copyMakeBorder(picture[..., ::-1], *[512] * 4, cv2.BORDER_CONSTANT)
        _, (expected, *_) = plain.detect(bordered, det_thresh=0.5)
        assert np.abs(ours(picture)[0].landmarks - (expected - 512)).max() < 8, path.name


def test_scrfd_for_any_size_runs_in_the_one_session_that_never_falls_back_to_the_cpu(
    scrfd, tmp_path, monkeypatch, pictures
):
    made, fallbacks = onnxruntime.InferenceSession, []

    def counted(*arguments, **more):
        fallbacks.append(more.get("enable_fallback"))
        return made(*arguments, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", counted)
    picture = decode.decode(pictures[0].read_bytes(), 10**8)
    (found, *_) = detect.load(any_size(scrfd, tmp_path / "det_10g.onnx"), 0.5)(picture)
    assert fallbacks == [0]
    (expected, *_) = detect.load(scrfd, 0.5)(picture)
    assert np.allclose(found.landmarks, expected.landmarks, atol=1e-3)


# --- the pack -------------------------------------------------------------------------------------


def any_size(scrfd: Path, path: Path) -> Path:
    """SCRFD for pictures of any size, as det_10g.onnx is, out of one for 640x640."""
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
    """A pack laid out like buffalo_l behind a local server, and a checkpoint beside it; the zoo knows them by
    their own SHA-256. Returns what was asked of the server."""
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


def test_the_insightface_preset_from_its_pack_to_the_score(pack, files, pictures, capsys):
    rows = faceq.score_images(
        pictures[:4], preset="insightface", accept_licence=True, fiq_threshold=0, dbcnn={"mini_batch": 1}
    ).to_pylist()
    assert [row["status"] for row in rows] == ["scored"] * 4
    assert pack == {"/buffalo_l.zip": "all", "/DBCNN_KonIQ10k-2de81c0a.pth": "all"}
    for row in rows:
        assert 0.01 < row["mask_coverage"] < 0.5 and 0 < row["dbcnn"] < 100
    # The embedding's length is that of insightface's own class.
    picture = cv2.imread(str(pictures[1]))
    aligned = face_align.norm_crop(picture, np.array(rows[1]["landmarks"], np.float32).reshape(5, 2))
    length = np.linalg.norm(ArcFaceONNX(str(files["recogniser"])).get_feat(aligned))
    assert rows[1]["embedding_norm"] == pytest.approx(length, rel=0.01)
    said = capsys.readouterr().err
    assert "terms accepted (InsightFace-NC): InsightFace's pretrained models" in said
    assert "terms accepted (CC-BY-NC-SA-4.0)" in said
    # Unpacked, and the archive gone.
    kept = {path.name for path in models.cache_dir().iterdir() if not path.name.endswith(".lock")}
    assert kept == {"det_10g.onnx", "w600k_r50.onnx", "2d106det.onnx", files["quality"].name, "accepted.json"}


# --- CAFI -----------------------------------------------------------------------------------------


def cafi(path: Path, files: dict[str, Path], backbone: Backbone) -> dict[str, float]:
    """The published steps, one after the other, on one picture. The recogniser is opened by faceq, and the
    dropout masks are drawn from its seed."""
    picture = cv2.imread(str(path))
    height, width = picture.shape[:2]
    scrfd = SCRFD(str(files["detector"]))
    boxes, points = scrfd.detect(picture, det_thresh=0.5)
    if not len(boxes) or areas(boxes, width, height).max() >= 0.25 * width * height:
        scale = min(1.0, 640 / max(width, height))
        size = (round(width * scale), round(height * scale))
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        border = round(0.5 * max(size))
        bordered = cv2.copyMakeBorder(small, border, border, border, border, cv2.BORDER_CONSTANT)
        boxes, points = scrfd.detect(bordered, det_thresh=0.5)
        boxes[:, :4] = (boxes[:, :4] - border) * np.tile([width / size[0], height / size[1]], 2)
        points = (points - border) * [width / size[0], height / size[1]]
    largest = int(areas(boxes, width, height).argmax())
    box = np.clip(boxes[largest, :4], 0, [width, height, width, height])

    # SER-FIQ: a hundred passes with dropout before the last layer.
    aligned = cv2.warpAffine(picture, similarity(points[largest]), (112, 112))
    kept = torch.from_numpy(backbone(aligned[None, ..., ::-1]))[0] / (1 - RATE)
    seed = serfiq.seed_of(np.ascontiguousarray(aligned[..., ::-1]))
    bits = np.random.Philox(key=seed).random_raw(-(-100 * len(kept) // 4)).view(np.uint16)[: 100 * len(kept)]
    masks = torch.from_numpy(bits >= 32768).view(100, -1)
    weight, bias = (torch.from_numpy(each) for each in (backbone.head.weight, backbone.head.bias))
    passes = torch.nn.functional.normalize((masks * kept) @ weight.T + bias, dim=1).double()
    distance = float(torch.pdist(passes).mean())
    raw = 2 / (1 + math.exp(distance))
    score = 1 / (1 + math.exp(-130 * (raw - 0.88)))

    # The convex hull of the landmarks, black around it, and DB-CNN on the whole frame.
    dense = Landmark(str(files["landmarks"])).get(picture, Face(bbox=box))
    hull = np.round(cv2.convexHull(dense)).astype(np.int32)
    inside = np.zeros((height, width), np.uint8)
    cv2.fillPoly(inside, [hull], 1)
    black = cv2.resize(picture * inside[..., None], (384, 384), interpolation=cv2.INTER_AREA)
    images = torch.from_numpy(black[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        quality = float(load_dbcnn(files["quality"])(images)[0])

    # Head pose from nose tip, chin, outer eye corners and mouth corners; y up and z towards the camera.
    head = np.array(
        [
            *((0.0, 0.0, 0.0), (0.0, -330.0, -65.0), (-225.0, 170.0, -135.0)),
            *((225.0, 170.0, -135.0), (-150.0, -150.0, -125.0), (150.0, -150.0, -125.0)),
        ]
    )
    six = dense[[86, 0, 35, 93, 52, 61]].astype(np.float64)
    camera = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]], np.float64)
    _, turn, _ = cv2.solvePnP(head, six, camera, None, flags=cv2.SOLVEPNP_ITERATIVE)
    forward = cv2.Rodrigues(turn)[0] @ [0.0, 0.0, 1.0]
    return {
        "serfiq_raw": raw,
        "serfiq": score,
        "dbcnn": min(max(quality, 0), 100),
        "mask_coverage": np.count_nonzero(inside) / inside.size,
        "yaw": math.degrees(math.atan2(forward[0], -forward[2])),
        "pitch": math.degrees(math.asin(-forward[1])),
    }


def areas(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    inside = np.clip(boxes[:, :4], 0, [width, height, width, height])
    return (inside[:, 2] - inside[:, 0]) * (inside[:, 3] - inside[:, 1])


def similarity(points: np.ndarray) -> np.ndarray:
    """The least-squares similarity (2, 3) to ArcFace's template: (a, b, x, y) of [[a, -b, x], [b, a, y]]."""
    rows, goals = [], []
    template = [
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ]
    for (x, y), (u, v) in zip(points.astype(np.float64), template, strict=True):
        rows += [[x, -y, 1, 0], [y, x, 0, 1]]
        goals += [u, v]
    a, b, x, y = np.linalg.lstsq(np.array(rows), np.array(goals), rcond=None)[0]
    return np.array([[a, -b, x], [b, a, y]])


@pytest.mark.timeout(900)  # VGG-16 takes a second and more for a frame, on each side
@pytest.mark.parametrize("recogniser", ["sface", "arcface"])
def test_cafi_agrees_with_the_published_steps(files, pictures, recogniser):
    """Once with a real recogniser, at the preset's own threshold; once with ArcFace's layout and random
    weights, which is sure of no face, so that all are scored to the end."""
    chosen = {role: str(path) for role, path in files.items()}
    more = {"dbcnn": {"mini_batch": 2}, "dropout": RATE}
    if recogniser == "sface":
        chosen["recogniser"] = "sface"
        backbone = Backbone(models.fetch("sface"), RATE, mean=0.0, std=1.0)
    else:
        more["fiq_threshold"] = 0
        backbone = Backbone(files["recogniser"], RATE)
        pictures = pictures[:6]
    rows = faceq.score_images(pictures, preset="cafi", models=chosen, **more).to_pylist()
    assert sum(row["status"] == "scored" for row in rows) > len(rows) / 2
    for path, row in zip(pictures, rows, strict=True):
        expected = cafi(path, files, backbone)
        assert row["serfiq_raw"] == pytest.approx(expected["serfiq_raw"], abs=1e-4), path.name
        assert row["serfiq"] == pytest.approx(expected["serfiq"], abs=1e-4), path.name
        for name in ("yaw", "pitch"):
            assert row[name] == pytest.approx(expected[name], abs=1e-2), (path.name, name)
        if recogniser == "sface":
            assert (row["status"] == "below_fiq") == (expected["serfiq"] < 0.5)
        if row["status"] == "scored":
            assert row["mask_coverage"] == pytest.approx(expected["mask_coverage"], abs=1e-6), path.name
            assert row["dbcnn"] == pytest.approx(expected["dbcnn"], abs=1e-4), path.name


def test_the_insightface_preset_as_a_job(files, local_ray, pictures, tmp_path):
    """Through Ray the rows are those of one process."""
    settings = {
        "preset": "insightface",
        "models": {role: str(path) for role, path in files.items()},
        "dropout": RATE,
        "fiq_threshold": 0,
        "dbcnn": {"mini_batch": 2},
    }
    given = [str(path) for path in pictures[:5]]
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
