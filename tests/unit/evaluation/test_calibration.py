"""The calibration of `serfiq`."""

import numpy as np
import pytest

from faceq.errors import UsageError
from faceq.evaluation import calibration
from faceq.fiq import serfiq


@pytest.mark.parametrize("discard", [0.01, 0.05, 0.3])
def test_the_given_share_of_faces_scores_below_a_half(discard):
    raw = np.random.default_rng(0).beta(60, 6, 5000)
    fitted = calibration.fit(raw, discard)
    scores = serfiq.calibrated(raw, fitted.calibration.slope, fitted.calibration.threshold)
    assert (scores < 0.5).mean() == pytest.approx(discard, abs=0.003)
    assert np.median(scores) == pytest.approx(0.9, abs=0.01)
    assert (fitted.faces, fitted.below) == (5000, (raw < fitted.calibration.threshold).sum())


def test_a_very_narrow_range_of_scores_can_be_fitted():
    raw = 1 - np.random.default_rng(0).uniform(1e-6, 2e-6, 1000)
    fitted = calibration.fit(raw, 0.05)
    assert fitted.below / fitted.faces == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize(
    ("raw", "discard", "said"),
    [
        (np.full(99, 0.9), 0.05, "99 faces have a serfiq_raw"),
        (np.full(500, 0.9), 0.05, "half of the faces have one serfiq_raw"),
        (np.linspace(0.8, 0.9, 500), 0.5, "must be between 0 and 0.5"),
        (np.linspace(0.8, 0.9, 500), 0.0, "must be between 0 and 0.5"),
    ],
)
def test_scores_that_cannot_be_fitted_are_an_error(raw, discard, said):
    with pytest.raises(UsageError, match=said):
        calibration.fit(raw, discard)
