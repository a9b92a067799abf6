"""Fit the scale of `serfiq`: a logistic curve that maps the given quantile of raw scores to 0.5."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import logit

from faceq.config import Calibration
from faceq.errors import UsageError

MEDIAN_SCORE = 0.9
"""The score of the median face: the second fixed point of the curve, besides 0.5 at the threshold."""

MIN_FACES = 100
"""Minimum number of faces: with fewer, a small quantile depends on a single face."""


@dataclass(frozen=True)
class Fit:
    """A calibration and its data. faces: number of faces. below: number of faces below the threshold. median:
    median of serfiq_raw."""

    calibration: Calibration
    faces: int
    below: int
    median: float


def fit(raw: np.ndarray, discard: float = 0.05) -> Fit:
    """Fit the calibration that gives the share `discard` of these faces a score below 0.5.

    The raw scores of a recogniser are in a narrow band that differs between recognisers. On the calibrated
    scale, 0.5 and the spread have the same meaning for all of them.

    Args:
        raw: (N,) float, `serfiq_raw` of faces that are typical of the data to filter.
        discard: share of the faces that get less than 0.5; between 0 and 0.5.

    Raises:
        UsageError: there are fewer than 100 faces, the share is out of range, or nearly half of the scores
            are equal.
    """
    if not 0 < discard < 0.5:
        raise UsageError(f"calibrate: the share to discard is {discard:g}: it must be between 0 and 0.5")
    if len(raw) < MIN_FACES:
        raise UsageError(f"calibrate: {len(raw)} faces have a serfiq_raw: at least {MIN_FACES} are needed")
    threshold, median = (float(value) for value in np.quantile(raw, [discard, 0.5]))
    if median <= threshold:
        raise UsageError(
            f"calibrate: nearly half of the faces have one serfiq_raw, {median:g}: use more varied faces"
        )
    slope = float(logit(MEDIAN_SCORE)) / (median - threshold)
    # Round to a hundredth of the spread, which is finer than a few thousand faces can determine.
    digits = 2 - math.floor(math.log10(median - threshold))
    calibration = Calibration(slope=float(f"{slope:.4g}"), threshold=round(threshold, digits))
    return Fit(calibration, len(raw), int((raw < calibration.threshold).sum()), median)
