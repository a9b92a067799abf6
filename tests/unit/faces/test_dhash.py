"""The difference hash."""

import numpy as np
import pytest

from faceq.evaluation import distortions
from faceq.faces import geometry
from faceq.faces.detect import YuNet
from faceq.faces.dhash import dhash
from faceq.models.fetch import fetch
from faceq.sources.decode.image import decode


def bits_apart(one: int, other: int) -> int:
    return ((one ^ other) % 2**64).bit_count()


def test_each_bit_is_one_comparison():
    face = np.zeros((8, 9, 3), np.uint8)
    assert dhash(face) == 0
    face[0, 1:] = 200  # the first row rises once, at its left end, which is the sign bit
    assert dhash(face) == -(2**63)
    face[:] = np.arange(9)[None, :, None] * 20
    assert dhash(face) == -1
    face[7, :] = face[7, ::-1]
    assert dhash(face) == -256


def test_the_same_face_is_near_and_others_are_far(photos):
    group = decode((photos / "t1.jpg").read_bytes(), 10**7)
    detector = YuNet(fetch("yunet"), 0.6)
    faces = [geometry.align(group, face.landmarks) for face in detector(group)]
    hashes = [dhash(face) for face in faces]
    for face, value in zip(faces, hashes, strict=True):
        assert -(2**63) <= value < 2**63
        assert bits_apart(value, dhash(distortions.jpeg(face, 30))) <= 6
        assert bits_apart(value, dhash(np.roll(face, 1, axis=1))) <= 10
    others = [bits_apart(a, b) for i, a in enumerate(hashes) for b in hashes[:i]]
    assert np.median(others) > 16 and min(others) > 8


@pytest.mark.parametrize("offset", [-30, 30])
def test_brightness_does_not_matter(astronaut, offset):
    face = np.clip(astronaut[:112, 200:312].astype(int) * 0.6 + 50, 0, 255)
    brighter = (face + offset).astype(np.uint8)
    assert bits_apart(dhash(face.astype(np.uint8)), dhash(brighter)) <= 2
