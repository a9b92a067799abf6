"""YuNet on real photos."""

import itertools

import cv2
import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from faceq.faces.detect import YuNet, overlap
from faceq.faces.yunet import NMS_THRESHOLD, YuNetSession, _floats
from faceq.models.fetch import fetch
from faceq.sources.decode.image import decode


@pytest.fixture(scope="module")
def detector() -> YuNet:
    return YuNet(fetch("yunet"), threshold=0.6)


def test_six_people_are_six_faces(detector, photos):
    faces = detector(decode((photos / "t1.jpg").read_bytes(), 10**7))
    assert len(faces) == 6
    assert max(overlap(one, other) for one, other in itertools.combinations(faces, 2)) < 0.1


def test_landmarks_have_the_documented_order(detector, astronaut):
    (face,) = detector(astronaut)
    left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_mouth[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])


def test_a_medical_mask_alone_is_no_face(detector, photos):
    assert detector(decode((photos / "mask_blue.jpg").read_bytes(), 10**7)) == []


def test_a_box_is_clipped_to_the_picture(detector, astronaut):
    (face,) = detector(astronaut)
    x, y, width, _ = face.box.round().astype(int)
    start = int(x + 0.4 * width)
    (clipped,) = detector(np.ascontiguousarray(astronaut[y - 20 :, start:]))
    assert clipped.box[0] == 0 and clipped.centre[0] - clipped.size[0] / 2 < 0
    assert np.abs(clipped.centre - face.centre + np.array([start, y - 20])).max() < 25
    assert face.inside == pytest.approx(1) and 0.3 < clipped.inside < 0.95


@pytest.mark.parametrize("size", [(512, 512), (333, 500), (90, 61)])
def test_yunet_finds_what_opencvs_own_class_finds(astronaut, photos, size):
    path = fetch("yunet")
    for photo in (astronaut, decode((photos / "t1.jpg").read_bytes(), 10**7)):
        picture = cv2.resize(photo, size)
        opencvs = cv2.FaceDetectorYN.create(str(path), "", size, 0.6, NMS_THRESHOLD)
        _, expected = opencvs.detect(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        found = YuNetSession(path, 0.6)(picture)
        assert len(found) == (0 if expected is None else len(expected))
        if len(found):
            assert np.allclose(found, expected, atol=0.01)
    assert size[0] < 100 or len(found) > 1


@pytest.mark.parametrize("layout", ["one scale", "one for each channel", "one for each block"])
def test_dequantised_weights_are_those_of_the_onnx_specification(layout):
    stored = np.random.default_rng(0).integers(-128, 128, (6, 4), np.int8)
    if layout == "one scale":
        scale, zero, attributes = np.array(0.5), np.array(3), {}
    elif layout == "one for each channel":
        scale, zero, attributes = np.arange(1, 5) / 8, np.arange(4), {"axis": 1}
    else:
        scale, zero = np.arange(1, 9).reshape(2, 4) / 8, np.arange(8).reshape(2, 4)
        attributes = {"axis": 0, "block_size": 3}
    scale, zero = scale.astype(np.float32), zero.astype(np.int8)
    names = ("stored", "scale", "zero")
    node = onnx.helper.make_node("DequantizeLinear", names, ["floats"], **attributes)
    (expected,) = ReferenceEvaluator(node).run(None, dict(zip(names, (stored, scale, zero), strict=True)))
    assert np.allclose(_floats(node, stored, scale, zero), expected)
