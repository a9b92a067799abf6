"""The ladders of distortions along which DB-CNN's score must fall."""

import numpy as np
import pytest

from jobs.training.measure_looks import HARMLESS
from jobs.training.train_ladders import LADDERS, STEPS, ringing, sharpened


@pytest.fixture(scope="module")
def face(astronaut) -> np.ndarray:
    """A face whose sides are odd numbers of pixels."""
    return astronaut[30:181, 130:301]


@pytest.mark.parametrize("name", LADDERS)
def test_each_step_of_a_ladder_changes_the_face_more_and_is_repeatable(name, face):
    before = face.copy()
    steps = [LADDERS[name](face, step, 7) for step in range(1, STEPS + 1)]
    assert all(step.shape == face.shape and step.dtype == np.uint8 for step in steps)
    changed = [np.abs(step.astype(np.int16) - face).mean() for step in steps]
    assert changed == sorted(changed) and 0 < changed[0] < 0.6 * changed[-1]
    assert (LADDERS[name](face, STEPS, 7) == steps[-1]).all()
    assert (face == before).all()


def test_sharpening_leaves_flat_areas_and_overshoots_at_edges():
    edge = np.full((20, 40, 3), 100, np.uint8)
    edge[:, 20:] = 150
    found = sharpened(edge, 2.0)[10, :, 0]
    assert (found[:10] == 100).all() and (found[30:] == 150).all()
    assert found[19] < 80 and found[20] > 170


def test_ringing_keeps_low_frequencies_and_removes_high_ones():
    x = np.arange(64)
    slow, fast = (128 + 60 * np.cos(np.pi * (x + 0.5) * k / 64) for k in (4, 48))
    rows = np.repeat(np.stack([slow, fast])[:, None, :, None], 64, axis=1).repeat(3, axis=3)
    kept, removed = (ringing(np.rint(each).astype(np.uint8), 0.3) for each in rows)
    assert np.abs(kept[:, :, 0] - slow).max() < 2
    assert np.abs(removed[:, :, 0].astype(float) - 128).max() < 3


@pytest.mark.parametrize("name", HARMLESS)
def test_a_harmless_change_keeps_what_is_in_the_photo(name, face):
    edited = HARMLESS[name](face)
    assert edited.dtype == np.uint8
    assert abs(float(edited.mean()) - float(face.mean())) < 12
