"""The edits whose effect on the scores `jobs.benchmarks.measure_edits` measures."""

import numpy as np
import pytest

from jobs.benchmarks.measure_edits import EDITS
from jobs.training.train_ladders import salt_and_pepper

LANDMARKS = np.array([[30.0, 40.0], [60.0, 40.0], [45.0, 55.0], [33.0, 70.0], [57.0, 70.0]])


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (96, 90, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_returns_another_image_and_leaves_the_photo_as_it_was(name, photo):
    before = photo.copy()
    edited = EDITS[name](photo, LANDMARKS)
    assert edited.dtype == np.uint8 and edited.ndim == 3 and edited.shape[2] == 3
    assert edited.shape != photo.shape or (edited != photo).any()
    assert (photo == before).all()


def test_salt_and_pepper_changes_the_share_of_pixels_that_it_is_given():
    grey = np.full((200, 200, 3), 128, np.uint8)
    changed = (salt_and_pepper(grey, 0.05, seed=0) != 128).all(axis=2)
    assert changed.mean() == pytest.approx(0.05, abs=0.005)


def test_covered_eyes_leave_the_mouth_and_a_cut_face_ends_at_the_nose(photo):
    covered = EDITS["eyes covered"](photo, LANDMARKS)
    changed = (covered != photo).any(axis=2)
    assert changed[40, 30] and changed[40, 60] and not changed[70, 33:58].any()
    assert EDITS["cut at the nose"](photo, LANDMARKS).shape == (96, 45, 3)
