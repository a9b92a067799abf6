"""YuNet on real photos."""

import cv2
import numpy as np
import pytest

from faceq import models
from faceq.decode import decode
from faceq.detect import YuNet
from faceq.distortions import white_noise


@pytest.fixture(scope="module")
def detector() -> YuNet:
    return YuNet(models.fetch("yunet"), threshold=0.6)


def test_six_people_are_six_faces_largest_first(detector, photos):
    faces = detector(decode((photos / "t1.jpg").read_bytes(), 10**7))
    areas = [face.box[2] * face.box[3] for face in faces]
    assert len(faces) == 6
    assert areas == sorted(areas, reverse=True)


def test_landmarks_lie_where_the_docstring_says(detector, astronaut):
    (face,) = detector(astronaut)
    left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_mouth[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])


def test_a_medical_mask_alone_is_no_face(detector, photos):
    assert detector(decode((photos / "mask_blue.jpg").read_bytes(), 10**7)) == []


def test_boxes_are_in_pixels_of_the_picture_given(detector, astronaut):
    (small,) = detector(astronaut)
    (large,) = detector(cv2.resize(astronaut, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC))
    assert np.allclose(large.box / 4, small.box, atol=6)


def test_a_box_is_clipped_to_the_picture(detector, astronaut):
    (face,) = detector(astronaut)
    x, y = face.box[:2].round().astype(int)
    cut = np.ascontiguousarray(astronaut[y + 15 :, x + 10 :])
    (clipped,) = detector(cut)
    assert clipped.box[:2].min() >= 0


def test_a_face_under_heavy_noise_is_found_at_a_smaller_size(detector, astronaut):
    assert len(detector(white_noise(astronaut, 50, seed=1))) == 1
