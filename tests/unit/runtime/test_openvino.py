"""OpenVINO gives the scores of ONNX Runtime in f32 and close ones in bf16, and always the same bits."""

import os
import subprocess
import sys

import numpy as np
import pytest
from model_files import arcface

from faceq.faces import geometry
from faceq.faces.detect import YuNet
from faceq.fiq.distances import BF16_TOLERANCE, DropoutDistances
from faceq.fiq.recogniser import Backbone
from faceq.fiq.serfiq import score
from faceq.iqa import dbcnn_lite_weights, scorer
from faceq.iqa.dbcnn_lite_onnx import OnnxQuality
from faceq.iqa.dbcnn_lite_weights import DBCNN_LITE_WEIGHTS
from faceq.models import zoo
from faceq.models.fetch import fetch
from faceq.runtime.numerics import F32, Numerics, has_openvino
from faceq.runtime.onnx_runtime import read
from faceq.runtime.openvino_runtime import OpenVinoNetwork, supports_bf16
from jobs import demo

if not has_openvino():
    pytest.skip("OpenVINO is not installed", allow_module_level=True)

OPENVINO = Numerics("f32", "openvino")
BF16 = Numerics("bf16", "openvino")
in_bf16 = pytest.mark.skipif(not supports_bf16(), reason="this CPU cannot compute in bf16")
BOTH = [OPENVINO, pytest.param(BF16, marks=in_bf16)]


@pytest.fixture(scope="module")
def aligned() -> np.ndarray:
    """The demo's eight faces, (8, 112, 112, 3) uint8 RGB."""
    detector = YuNet(fetch("yunet"), 0.6)
    faces = list(demo.source_faces().values())
    return np.stack([geometry.align(face, detector(face)[0].landmarks) for face in faces])


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    """Half of each of these faces' frames, (8, 192, 192, 3) uint8 RGB."""
    return np.stack([face[::2, ::2] for face in demo.source_faces().values()])


def serfiq_raw(faces: np.ndarray, numerics: Numerics) -> np.ndarray:
    found = DropoutDistances(fetch("sface"), zoo.recogniser("sface"), None, "cpu", 8, 1, numerics)
    return score(found(faces)[0])


def sface(numerics: Numerics) -> Backbone:
    return Backbone(fetch("sface"), mean=0, std=1, numerics=numerics)


def dbcnn(images: np.ndarray, numerics: Numerics) -> np.ndarray:
    weights = dbcnn_lite_weights.read(DBCNN_LITE_WEIGHTS)
    quality = OnnxQuality(weights, len(images), images.shape[1], threads=1, numerics=numerics)
    return quality(images, np.ones(images.shape[:3], np.float32))[0]


def test_scores_in_f32_are_those_of_onnx_runtime(aligned, crops):
    assert np.abs(serfiq_raw(aligned, F32) - serfiq_raw(aligned, OPENVINO)).max() < 1e-6
    assert np.abs(dbcnn(crops, F32) - dbcnn(crops, OPENVINO)).max() < 1e-3


@in_bf16
def test_scores_in_bf16_are_within_the_tolerances(aligned, crops):
    assert 0 < np.abs(serfiq_raw(aligned, F32) - serfiq_raw(aligned, BF16)).max() < BF16_TOLERANCE
    assert 0 < np.abs(dbcnn(crops, F32) - dbcnn(crops, BF16)).max() < scorer.BF16_TOLERANCE


@pytest.mark.parametrize("numerics", BOTH)
def test_a_recogniser_of_ones_own_gives_the_same_features(aligned, tmp_path, numerics):
    path = arcface(tmp_path / "r.onnx")
    wanted, found = (Backbone(path, 0.5, numerics=each)(aligned) for each in (F32, numerics))
    tolerance = 1e-5 if numerics == OPENVINO else 0.05
    assert np.abs(wanted - found).max() < tolerance * np.abs(wanted).max()


@pytest.mark.parametrize("numerics", BOTH)
def test_features_do_not_depend_on_the_place_in_the_mini_batch(aligned, numerics):
    backbone = sface(numerics)
    first, other = backbone(aligned), backbone(np.roll(aligned, 3, axis=0))
    assert np.array_equal(np.roll(first, 3, axis=0), other)
    first_bytes = first.tobytes()
    backbone(aligned[::-1])
    assert first.tobytes() == first_bytes  # results are copies


@pytest.mark.parametrize("numerics", BOTH)
def test_the_precision_never_depends_on_the_cpu(tmp_path, numerics):
    """Without a hint, OpenVINO computes in bf16 on CPUs that have it."""
    path = arcface(tmp_path / "r.onnx")
    network = OpenVinoNetwork(path, read(path), numerics.precision, 1)
    names = ("INFERENCE_PRECISION_HINT", "INFERENCE_NUM_THREADS", "NUM_STREAMS", "ENABLE_CPU_PINNING")
    precision, *others = (network._compiled.get_property(name) for name in names)
    assert precision.get_type_name() == numerics.precision and others == [1, 1, False]


def test_another_process_computes_the_same_bits_sends_nothing_and_is_not_pinned(aligned, tmp_path):
    """Importing OpenVINO's tools would report its use, and set a variable. Pinned threads of several actors
    would share a core."""
    numerics = BF16 if supports_bf16() else OPENVINO
    np.save(tmp_path / "faces.npy", aligned)
    program = f"""
import os, sys
import numpy as np
from pathlib import Path
from faceq.fiq.recogniser import Backbone
from faceq.runtime.numerics import Numerics
backbone = Backbone(Path("{fetch("sface")}"), mean=0, std=1, numerics={numerics!r})
features = backbone(np.load("{tmp_path}/faces.npy"))
np.save("{tmp_path}/features.npy", features)
cpus = [os.sched_getaffinity(int(thread)) for thread in os.listdir("/proc/self/task")]
print(len({{frozenset(each) for each in cpus}}), cpus[0] == os.sched_getaffinity(0),
      any("telemetry" in name for name in sys.modules), "TF_CPP_MIN_LOG_LEVEL" in os.environ)
"""
    environment = {key: value for key, value in os.environ.items() if key != "CI"}  # with it, nothing is sent
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**environment, "HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["1", "True", "False", "False"]
    assert not (tmp_path / "home").exists()
    assert np.array_equal(np.load(tmp_path / "features.npy"), sface(numerics)(aligned))
